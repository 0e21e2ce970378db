"""Scores by OpenVINO are PyTorch's; 8 bits are held to account before they are used."""

import csv
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from listeners import Silent
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.errors import CxrbatchError, LabelError, UsageError
from cxrbatch.model.checkpoint import bundled_checkpoint, load_checkpoint
from cxrbatch.model.preprocessing import image_hash
from cxrbatch.results.statistics.intervals import one_vs_rest_auc
from cxrbatch.results.table import Table, open_table
from cxrbatch.sample.archive_writer import write_sample
from cxrbatch.scoring.int8 import read_labelled
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.scoring.score import score_archive

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: cxrbatch[openvino]",
)

OF_A_CLASS = 26
CLASSES = ("Normal", "COVID-19", "Viral Pneumonia")
Score = Callable[..., Table]


@pytest.fixture
def score(tmp_path: Path, tiny_checkpoint: Path) -> Score:
    def run(
        archive: Path, name: str = "r.parquet", *, update: bool = False, **more: object
    ) -> Table:
        checkpoint = more.pop("checkpoint", tiny_checkpoint)
        options = {"workers": 0, "batch_size": 8, "precision": "fp32", "backend": "openvino"}
        score_archive(
            archive,
            tmp_path / name,
            checkpoint=checkpoint,
            options=ScoringOptions(**{**options, **more}),
            progress=Silent(),
            update=update,
        )
        return open_table(tmp_path / name)

    return run


@pytest.fixture(scope="module")
def far_apart(
    tmp_path_factory: pytest.TempPathFactory, write_png: Callable[[Path, np.ndarray], Path]
) -> Path:
    """Class folders whose images differ so much that 8 bits cannot mistake their order."""
    folder = tmp_path_factory.mktemp("far") / "classes"
    rng = np.random.default_rng(5)
    for level, name in zip((10, 120, 230), CLASSES, strict=True):
        for number in range(OF_A_CLASS):
            grey = (level + rng.integers(0, 4, (70, 64))).astype(np.uint8)
            write_png(folder / name / f"{number}.png", grey)
    return folder


@pytest.fixture(scope="module")
def alike(
    tmp_path_factory: pytest.TempPathFactory, write_png: Callable[[Path, np.ndarray], Path]
) -> Path:
    """Class folders whose images differ by chance alone: 8 bits put them in another order."""
    folder = tmp_path_factory.mktemp("alike") / "classes"
    rng = np.random.default_rng(6)
    for name in CLASSES:
        for number in range(OF_A_CLASS):
            grey = rng.integers(90, 110, (70, 64), dtype=np.uint8)
            write_png(folder / name / f"{number}.png", grey)
    return folder


def probabilities(table: Table) -> np.ndarray:
    names = [f"p_{name}" for name in table.classes]
    return np.stack([column.drop_null().to_numpy() for column in table.read(names)], axis=1)


def test_the_example_archive_has_pytorchs_scores(tmp_path: Path, score: Score) -> None:
    write_sample(tmp_path / "archive")
    made = {
        backend: score(
            tmp_path / "archive",
            f"{backend}.parquet",
            backend=backend,
            checkpoint=bundled_checkpoint(),
            workers=1,
        )
        for backend in ("torch", "openvino")
    }
    ours, theirs = made["torch"], made["openvino"]
    assert ours.read(["path", "outcome", "prediction"]) == theirs.read(
        ["path", "outcome", "prediction"]
    )
    np.testing.assert_allclose(probabilities(theirs), probabilities(ours), rtol=0, atol=1e-5)
    told = {name: theirs.provenance[name] for name in ("backend", "precision")}
    assert told == {"backend": "openvino", "precision": "fp32"}
    assert theirs.provenance["versions"]["openvino"] == importlib.metadata.version("openvino")
    assert "backend" not in ours.provenance
    assert "openvino" not in ours.provenance["versions"]


def test_the_cost_of_8_bits_is_in_the_table(far_apart: Path, score: Score) -> None:
    options = {"precision": "int8", "calibration": far_apart}
    table = score(far_apart, **options)
    assert table.provenance["precision"] == "int8"
    told = table.provenance["calibration"]
    assert told["images"] == dict.fromkeys(CLASSES, OF_A_CLASS)
    assert told["unreadable"] == 0
    assert len(told["sha256"]) == 64
    # The archive is what was calibrated with, so its table has the areas once more.
    truth = [CLASSES.index(path.split("/")[0]) for path in table.read(["path"])["path"].to_pylist()]
    after = one_vs_rest_auc(np.array(truth), probabilities(table))
    assert [told["auc_after"][name] for name in CLASSES] == pytest.approx(after, abs=1e-12)
    plain = probabilities(score(far_apart, "torch.parquet", backend="torch"))
    before = one_vs_rest_auc(np.array(truth), plain)
    assert [told["auc_before"][name] for name in CLASSES] == pytest.approx(before, abs=1e-12)
    for name, change in told["auc_change"].items():
        assert change == pytest.approx(told["auc_after"][name] - told["auc_before"][name])
        assert abs(change) <= 0.002
    assert not np.array_equal(probabilities(table), plain)
    again = score(far_apart, "again.parquet", **options)
    assert again.path.read_bytes() == table.path.read_bytes()


def test_8_bits_that_cost_accuracy_are_refused(
    alike: Path, far_apart: Path, tmp_path: Path, score: Score
) -> None:
    with pytest.raises(CxrbatchError) as caught:
        score(far_apart, precision="int8", calibration=alike)
    message = str(caught.value)
    assert "int8 changes the AUC of" in message
    assert "more than 0.002; use --precision bf16 or fp32" in message
    assert message.isprintable()
    assert not (tmp_path / "r.parquet").exists()


def test_runs_of_different_arithmetic_do_not_mix(
    far_apart: Path, tmp_path: Path, score: Score, write_png: Callable[[Path, np.ndarray], Path]
) -> None:
    score(far_apart, backend="torch")
    with pytest.raises(UsageError, match="by OpenVINO"):
        score(far_apart, update=True)
    score(far_apart, "o.parquet")
    with pytest.raises(UsageError, match="by OpenVINO"):
        score(far_apart, "o.parquet", backend="torch", update=True)
    with pytest.raises(UsageError, match=r"precision \(fp32, now int8\)"):
        score(far_apart, "o.parquet", precision="int8", calibration=far_apart, update=True)
    score(far_apart, "8.parquet", precision="int8", calibration=far_apart)
    more = labels_of(far_apart, tmp_path / "more.csv")
    extra = write_png(tmp_path / "extra.png", np.full((64, 64), 11, np.uint8))
    with more.open("a") as file:
        file.write(f"{extra},Normal\n")
    with pytest.raises(UsageError, match="differs in calibration"):
        score(far_apart, "8.parquet", precision="int8", calibration=more, update=True)


def labels_of(folder: Path, file: Path, *, split: str | None = None) -> Path:
    """Write class folders as a CSV of labels, with paths relative to it."""
    rows = [
        {"path": str(image), "label": image.parent.name, "split": split}
        for image in sorted(folder.glob("*/*"))
    ]
    with file.open("w", newline="") as text:
        names = ["path", "label", *(["split"] if split else [])]
        writer = csv.DictWriter(text, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_labels_and_class_folders_are_one_calibration(
    far_apart: Path, tmp_path: Path, score: Score
) -> None:
    """In whatever files: the same pictures with the same classes give the same bytes."""
    tables = [
        score(far_apart, f"{number}.parquet", precision="int8", calibration=data)
        for number, data in enumerate([far_apart, labels_of(far_apart, tmp_path / "l.csv")])
    ]
    assert tables[0].path.read_bytes() == tables[1].path.read_bytes()


def test_calibration_images_are_read_as_those_of_the_run(
    tmp_path: Path, tiny_checkpoint: Path, score: Score
) -> None:
    rng = np.random.default_rng(7)
    for name in CLASSES:
        (tmp_path / "c" / name).mkdir(parents=True)
        for number in range(OF_A_CLASS):
            grey = rng.integers(0, 256, (280, 264), dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / "c" / name / f"{number}.jpg")
    card = load_checkpoint(tiny_checkpoint).card
    found = {
        fast: read_labelled(tmp_path / "c", card, ScoringOptions(workers=0, fast_decode=fast))
        for fast in (False, True)
    }
    for fast, images in found.items():
        table = score(tmp_path / "c", f"{fast}.parquet", fast_decode=fast)
        (hashes,) = table.read(["image_hash"])
        assert sorted(map(image_hash, images.inputs)) == sorted(hashes.to_pylist())
    assert (found[True].inputs != found[False].inputs).any()


def test_where_labels_have_splits_val_counts(far_apart: Path, tmp_path: Path, score: Score) -> None:
    val = labels_of(far_apart, tmp_path / "val.csv", split="val")
    assert "calibration" in score(far_apart, precision="int8", calibration=val).provenance
    test = labels_of(far_apart, tmp_path / "test.csv", split="test")
    with pytest.raises(LabelError, match="0 calibration images of 'Normal'"):
        score(far_apart, "t.parquet", precision="int8", calibration=test)


def test_labels_as_an_office_writes_them_are_read_too(
    far_apart: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    plain = labels_of(far_apart, tmp_path / "l.csv")
    rows = pd.read_csv(plain).rename(columns={"path": "Datei", "label": "Befund"})
    rows["Befund"] = rows["Befund"].replace({"Normal": "kein Befund"})
    rows.to_csv(tmp_path / "office.csv", sep=";", encoding="utf-16", index=False)
    card, options = load_checkpoint(tiny_checkpoint).card, ScoringOptions(workers=0)
    one, other = (read_labelled(tmp_path / name, card, options) for name in ("l.csv", "office.csv"))
    assert np.array_equal(one.inputs, other.inputs)
    assert np.array_equal(one.classes, other.classes)


def test_what_cannot_be_read_is_counted(far_apart: Path, tmp_path: Path, score: Score) -> None:
    labels = labels_of(far_apart, tmp_path / "l.csv")
    with labels.open("a") as file:
        file.write("gone.png,Normal\n/dev/zero,COVID-19\nl.csv,COVID-19\nbad\0name,Normal\n")
    table = score(far_apart, precision="int8", calibration=labels)
    assert table.provenance["calibration"]["unreadable"] == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",COVID-19\n", ",Cold\n", "name no class of the model in 26 rows, first in line 2;"),
        (",COVID-19\n", ",Normal\n", "0 calibration images of 'COVID-19'"),
        ("/Normal/1", "/Normal/gone", "15 calibration images of 'Normal'"),
        ("/classes/", "/elsewhere/", "(78 files could not be read); at least 25 of each class"),
        ("path,label", "path,remark", "'remark'"),
        ("/Normal/1", "/Normal.zip!/1", "does not read members of zips and tars, which 11 labels"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(
    far_apart: Path, tmp_path: Path, score: Score, old: str, new: str, words: str
) -> None:
    labels = labels_of(far_apart, tmp_path / "l.csv")
    labels.write_text(labels.read_text().replace(old, new))
    with pytest.raises(LabelError) as caught:
        score(far_apart, precision="int8", calibration=labels)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "r.parquet").exists()


def test_a_class_folder_that_is_missing_is_one_line(
    far_apart: Path, tmp_path: Path, score: Score
) -> None:
    for name in CLASSES[1:]:
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(far_apart / name)
    with pytest.raises(LabelError, match="0 calibration images of 'Normal'"):
        score(far_apart, precision="int8", calibration=tmp_path / "two")


def test_int8_and_its_images_go_together(far_apart: Path, score: Score) -> None:
    with pytest.raises(UsageError, match="give both or neither"):
        score(far_apart, precision="int8")
    with pytest.raises(UsageError, match="give both or neither"):
        score(far_apart, calibration=far_apart)


def test_the_command_says_what_8_bits_cost(
    far_apart: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", str(far_apart), "-o", str(tmp_path / "r.parquet"), "--workers", "0"]
    words += ["--backend", "openvino", "--precision", "int8", "--calibration", str(far_apart)]
    assert main([*words, "--checkpoint", str(tiny_checkpoint)]) == 0
    printed = capsys.readouterr()
    assert re.search(
        r"^int8 +AUC changes by at most 0\.00[012]\d on 78 ", printed.out, re.MULTILINE
    )
    assert "by OpenVINO, int8)" in printed.out
    assert printed.err == ""
