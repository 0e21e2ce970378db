"""Films of one person are on one side, whoever names the person, and the name is nowhere."""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from calls import FAST
from films import write_film

from cxrbatch.cli import main
from cxrbatch.errors import LabelError
from cxrbatch.model.checkpoint import read_card
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training.split import group_files, join_patients, split_files
from cxrbatch.training.split_report import LeakError, PatientCounts

CANARY = "MRN-4711-Mustermann"


def files_of(*patients: str | None) -> list[LabelledFile]:
    return [LabelledFile(f"{i:03}", "AB"[i % 2], patient) for i, patient in enumerate(patients)]


def groups(labels: Sequence[str | None], keys: Sequence[str | None]) -> tuple[int, ...]:
    return group_files(join_patients(files_of(*labels), keys).files, [])


def test_labels_and_headers_join_through_each_other() -> None:
    labels = ["p", None, "p", None, "q", "q", None, None]
    keys = ["1", "1", "2", "2", None, "3", "4", None]
    assert groups(labels, keys) == (0, 0, 0, 0, 1, 1, 2, 3)
    found = join_patients(files_of(*labels), keys)
    assert found.counts == PatientCounts(by_labels=4, by_headers=3, unknown=1)
    assert [file.patient for file in found.files] == ["0", "0", "0", "0", "1", "1", "2", None]


def test_a_label_that_reads_like_a_key_is_not_it() -> None:
    assert groups(["1", None], [None, "1"]) == (0, 1)


def test_persons_do_not_depend_on_the_order_of_the_files() -> None:
    labels, keys = ["p", None, "p", "q"], ["1", "2", "2", None]
    files = files_of(*labels)
    expected = join_patients(files, keys).files
    assert join_patients(files[::-1], keys[::-1]).files == expected[::-1]


def test_an_id_that_all_files_share_joins_none_and_is_told() -> None:
    found = join_patients(files_of(*[None] * 12), ["same"] * 12)
    assert {file.patient for file in found.files} == {None}
    assert found.counts == PatientCounts(0, 0, 12, shared_ids=1, of_shared_ids=12)
    split = split_files(found.files, [], seed=0, patients=found.counts)
    (line,) = [x for x in split.report.lines() if "12 images share 1 patient ids" in x]
    assert line.startswith("warning: ")
    assert "column patient" in line
    assert split.report.to_card()["patients"]["of_shared_ids"] == 12


@pytest.mark.parametrize(
    ("shared", "others", "used"),
    [(20, 10, True), (21, 10, False), (34, 66, False), (33, 67, True), (1001, 9000, False)],
)
def test_an_id_on_more_files_than_a_person_has_is_not_used(
    shared: int, others: int, used: bool
) -> None:
    keys = ["same"] * shared + [f"{i}" for i in range(others)]
    found = join_patients(files_of(*[None] * len(keys)), keys)
    assert found.counts.shared_ids == (0 if used else 1)
    assert len(set(group_files(found.files, []))) == others + (1 if used else shared)


def test_an_id_on_all_films_beside_files_without_ids_is_not_used() -> None:
    found = join_patients(files_of(*[None] * 100), ["same"] * 21 + [None] * 79)
    assert found.counts == PatientCounts(0, 0, 100, shared_ids=1, of_shared_ids=21)
    two_films = join_patients(files_of(*[None] * 100), ["same"] * 2 + [None] * 98)
    assert two_films.counts == PatientCounts(0, 2, 98)


def test_two_institutions_with_one_id_each_for_all_can_be_split() -> None:
    keys = ["here"] * 30 + ["there"] * 30
    found = join_patients(files_of(*[None] * 60), keys)
    assert found.counts == PatientCounts(0, 0, 60, shared_ids=2, of_shared_ids=60)


def test_what_labels_say_is_taken_at_its_word_beside_a_shared_id() -> None:
    labels = [f"{i // 2}" for i in range(12)]
    assert groups(labels, ["same"] * 12) == tuple(i // 2 for i in range(12))
    with pytest.raises(LabelError, match="has 1"):
        split_files(files_of(*["unknown"] * 12), [], seed=0)


def test_a_given_split_is_checked_against_headers() -> None:
    sides = ["train", "train", "val", "val", "train"]
    files = [LabelledFile(f"{i}", "AB"[i % 2], None, side) for i, side in enumerate(sides)]
    found = join_patients(files, ["1", "2", "3", "1", None])
    with pytest.raises(LeakError, match=r"'0' \(train\) and '3' \(val\): the same patient"):
        split_files(found.files, [], seed=0, patients=found.counts)


# From end to end


def archive(root: Path, *, twins: int = 4) -> dict[str, list[Path]]:
    """Two classes of films; each of the first persons has `twins` films, the others one."""
    rng = np.random.default_rng(0)
    of_person = defaultdict(list)
    for label, level in (("dark", 60), ("white", 180)):
        for number in range(20):
            person = f"{CANARY}-{label}-{number % 4 if number < 4 * twins else number}"
            grey = level + rng.integers(-30, 31, (32, 32))
            path = root / label / f"{number:02}.dcm"
            of_person[person].append(write_film(path, grey, patient_id=person))
    return of_person


def assert_names_nobody(text: bytes, ids: Sequence[str]) -> None:
    """Neither an id nor a hash of one that a reader could try ids against."""
    assert CANARY.encode() not in text
    for patient_id in ids:
        digest = hashlib.sha256(patient_id.encode())
        assert digest.digest()[:16] not in text
        assert digest.hexdigest()[:16].encode() not in text


def test_films_of_one_person_stay_together_and_nothing_names_the_person(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of_person = archive(tmp_path / "films")
    work = tmp_path / "work"
    work.mkdir()
    command = ["train", str(tmp_path / "films"), "-o", str(work / "m.safetensors"), *FAST]
    assert main([*command, "--cache", str(work / "cache")]) == 0
    with (work / "m.split.csv").open(newline="") as lines:
        rows = {row["path"]: row for row in csv.DictReader(lines)}
    for films in of_person.values():
        own = [rows[film.relative_to(tmp_path / "films").as_posix()] for film in films]
        assert len({(row["split"], row["group"], row["patient"]) for row in own}) == 1
    assert len({row["patient"] for row in rows.values()}) == len(of_person)
    card = read_card(work / "m.safetensors").training
    assert card["split"]["patients"]["by_headers"] == 40
    printed = capfd.readouterr()
    assert "two sides of the split" not in printed.err
    told = [(printed.out + printed.err).encode()]
    written = [path for path in work.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".inputs", ".safetensors", ".csv", ".parquet"}
    for text in [*told, *(path.read_bytes() for path in written)]:
        assert_names_nobody(text, [*of_person])


def test_a_given_split_that_headers_speak_against_is_refused_without_the_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of_person = archive(tmp_path / "films", twins=2)
    lines = ["path,label,patient,split"]
    for label in ("dark", "white"):
        for number in range(20):
            side = "train" if number in (0, 1, 2, 3) or number > 9 else "val"
            patient = f"{CANARY}-label" if number in (11, 9) and label == "dark" else ""
            lines.append(f"films/{label}/{number:02}.dcm,{label},{patient},{side}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    work = tmp_path / "work"
    work.mkdir()
    command = ["train", str(tmp_path / "labels.csv"), "-o", str(work / "m.safetensors"), *FAST]
    assert main(command) == 1
    printed = capfd.readouterr()
    assert "9 pairs are on two sides of the given split" in printed.err
    assert "'films/dark/00.dcm' (train) and 'films/dark/04.dcm' (val): the same patient" in (
        printed.err
    )
    with (work / "m.leaks.csv").open(newline="") as listed:
        pairs = {(row["first"][-6:-4], row["second"][-6:-4]) for row in csv.DictReader(listed)}
    assert pairs == {("00", "04"), ("01", "05"), ("02", "06"), ("03", "07"), ("09", "11")}
    written = [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    for text in [(printed.out + printed.err).encode(), *written]:
        assert_names_nobody(text, [*of_person, f"{CANARY}-label"])
