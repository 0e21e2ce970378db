"""An export as a hospital makes it: every count of the flow as it was written down before."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom.uid as uids
import pytest
from PIL import Image

from cxrbatch import cli
from cxrbatch.results.evaluation import headline
from cxrbatch.results.frames import load_results
from cxrbatch.sample.dicom_writer import (
    DicomPacking,
    GreyEncoding,
    Person,
    VoiKind,
    dicom_bytes,
)
from cxrbatch.sample.other_files import broken_files, foreign_files
from cxrbatch.sample.projection import Plane

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia")
FRONTAL, IN_ZIP, LATERAL, UNLABELLED, TRAIN = 140, 20, 16, 2, 4
BROKEN, FOREIGN = 4, 5

# The flow, box by box; the labels are a file too. Of the eight copies three are equal byte for
# byte, three are encoded anew under their UID, two are of films in the zip, under another UID.
FILES = 200
EXCLUDED = {"not_an_image": 3, "dicomdir": 1, "not_a_radiograph": 1, "structured_report": 1}
FAILED = {"truncated": 3, "corrupt": 1}
SCORED = 190
ASIDE = {"train": 4}
FLAGGED = {"lateral": 16}
LEFT_AS_COPIES = {"same_picture": 5, "same_uid": 3}
ANALYSED, ALL_IMAGES = 160, 184
SHARED_UIDS = 6

_GREY = GreyEncoding(bits=8, voi=VoiKind.NONE)
_PLAIN, _SIDE = DicomPacking(grey=_GREY), DicomPacking(grey=_GREY, view="LL")
_LOSSY = DicomPacking(uids.JPEGBaseline8Bit, _GREY)
_ARM = DicomPacking(grey=_GREY, body_part="FOREARM")


def drawing(number: int) -> Plane:
    """Noise, of which no two numbers have the same; shape (72, 64)."""
    return np.random.default_rng(number).random((72, 64))


def film(number: int, packing: DicomPacking = _PLAIN, *, name: str = "") -> bytes:
    """The DICOM file of a drawing; `name` makes another SOP Instance UID."""
    person, study = Person(1 + number % 12, "F", 40, "Phantom^Ada"), 1 + number % 20
    instance = name or f"film {number}"
    return dicom_bytes([drawing(number)], person, packing, study=study, instance=instance)


def films() -> Iterator[tuple[str, bytes, str]]:
    """Yield path, content and side of the split of each scored film."""
    for number in range(FRONTAL + IN_ZIP):
        folder = "ward" if number < FRONTAL else "old.zip!"
        yield f"{folder}/{number:03d}.dcm", film(number), "test"
    for number in range(3):
        yield f"ward again/{number:03d}.dcm", film(number), "test"
    for number in range(10, 13):
        yield f"ward again/{number:03d}.dcm", film(number, _LOSSY), "test"
    for number in range(FRONTAL, FRONTAL + 2):
        yield f"ward again/{number:03d}.dcm", film(number, name="again"), "test"
    for number in range(200, 200 + LATERAL):
        yield f"ward/{number} side.dcm", film(number, _SIDE), "test"
    for number in range(300, 300 + TRAIN):
        yield f"ward/{number} seen.dcm", film(number), "train"
    yield "ward/400 without a label.dcm", film(400), ""
    yield "ward/401 arm.dcm", film(401, _ARM), ""


@pytest.fixture(scope="module")
def truth() -> dict[str, str]:
    """The label of each labelled film, by its path; filled with the export."""
    return {}


@pytest.fixture(scope="module")
def table(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, truth: dict[str, str]
) -> Path:
    """The scored export."""
    top = tmp_path_factory.mktemp("export")
    root, rng = top / "archive", np.random.default_rng(7)
    for folder in ("ward", "ward again"):
        (root / folder).mkdir(parents=True)
    table, rows = io.StringIO(), [("path", "label", "split")]
    with zipfile.ZipFile(root / "old.zip", "w") as archive:
        for path, content, side in films():
            if path.startswith("old.zip!/"):
                archive.writestr(path.removeprefix("old.zip!/"), content)
            else:
                (root / path).write_bytes(content)
            if side:
                truth[path] = CLASSES[int(rng.integers(3))]
                rows.append((path, truth[path], side))
    csv.writer(table).writerows(rows)
    (root / "labels.csv").write_text(table.getvalue())
    png = io.BytesIO()
    Image.fromarray(np.uint8(drawing(500) * 255)).save(png, "PNG")
    others = broken_files(dicom=film(501), png=png.getvalue())
    for path, content in (others | foreign_files(Person(1, "F", 34, "Phantom^Ada"))).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    words = ["--checkpoint", str(tiny_checkpoint), "--workers", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(top / "config"))
        assert cli.main(["score", str(root), "-o", str(top / "t.parquet"), *words]) == 3
    return top / "t.parquet"


@pytest.fixture(scope="module")
def report(table: Path) -> dict[str, Any]:
    """The JSON of the table's report."""
    labels, figures = table.parent / "archive" / "labels.csv", table.with_name("f.json")
    options = ["--labels", str(labels), "--json", str(figures)]
    assert cli.main(["report", str(table), "-o", str(table.with_name("p.html")), *options]) == 0
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def steps(flow: dict[str, Any], name: str) -> dict[str, int]:
    return {step["name"]: step["count"] for step in flow[name]}


def test_every_count_is_as_written_down(report: dict[str, Any]) -> None:
    flow = report["flow"]
    assert (flow["files"], flow["rows"], flow["scored"]) == (FILES, FILES, SCORED)
    assert steps(flow, "excluded") == EXCLUDED
    assert steps(flow, "failed") == FAILED
    assert flow["unlabelled"] == UNLABELLED
    assert steps(flow, "aside") == ASIDE
    assert steps(flow, "flagged") == FLAGGED
    assert steps(flow, "copies") == LEFT_AS_COPIES
    assert flow["analysed"] == ANALYSED
    assert (flow["shared_uids"], flow["labels"], flow["labels_without_row"]) == (
        SHARED_UIDS,
        ALL_IMAGES + TRAIN,
        0,
    )
    parts = [*EXCLUDED.values(), *FAILED.values(), SCORED]
    assert sum(parts) == FILES == SCORED + BROKEN + FOREIGN + 1
    left = [UNLABELLED, *ASIDE.values(), *FLAGGED.values(), *LEFT_AS_COPIES.values()]
    assert sum(left) + ANALYSED == SCORED


def test_both_accuracies_are_those_of_the_films_by_hand(
    table: Path, report: dict[str, Any], truth: dict[str, str]
) -> None:
    scored = load_results(table).set_index("path")["prediction"].dropna().astype(str)
    right = pd.Series({path: scored[path] == label for path, label in truth.items()})
    whole = right[~right.index.str.contains("seen")]
    counted = whole[~whole.index.str.contains("ward again/|side")]
    assert (len(counted), len(whole)) == (ANALYSED, ALL_IMAGES)
    evaluation = report["evaluation"]
    assert evaluation["accuracy"]["value"] == pytest.approx(counted.mean())
    assert evaluation["accuracy"]["n"] == ANALYSED
    assert evaluation["all_images"]["accuracy"]["value"] == pytest.approx(whole.mean())
    assert evaluation["all_images"]["accuracy"]["n"] == ALL_IMAGES


def test_python_counts_as_the_report_does(table: Path, report: dict[str, Any]) -> None:
    labels = table.parent / "archive" / "labels.csv"
    found = headline(table, labels)
    assert (found.images, found.accuracy.value) == (
        ANALYSED,
        report["evaluation"]["accuracy"]["value"],
    )
    assert headline(table, labels, keep_copies=True).images == ANALYSED + 8
    assert headline(table, labels, keep_flagged=True).images == ANALYSED + 16
    assert headline(table, labels, keep_copies=True, keep_flagged=True).images == ALL_IMAGES
