"""No patient is on two sides, whatever the seed; a split that was given is checked."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.truth import LabelledFile
from cxrbatch.training.split import split_files


def archive(seed: int, *, patients: int = 80, known: float = 1.0) -> list[LabelledFile]:
    """Patients with one to five images each, of three classes, one of them rare."""
    rng = np.random.default_rng(seed)
    files = []
    for number in range(patients):
        label = "ABC"[rng.choice(3, p=[0.5, 0.35, 0.15])] if number > 11 else "ABC"[number % 3]
        patient = f"p{number}" if rng.random() < known else None
        files += [
            LabelledFile(f"{number}/{i}.png", label, patient) for i in range(rng.integers(1, 6))
        ]
    return files


def sides_of_patients(files: Sequence[LabelledFile]) -> dict[str, set[str | None]]:
    sides = defaultdict(set)
    for file in files:
        if file.patient is not None:
            sides[file.patient].add(file.split)
    return sides


@pytest.mark.parametrize("known", [1.0, 0.5])
def test_no_patient_is_on_two_sides(known: float) -> None:
    for seed in range(5):
        files = archive(seed, known=known)
        divided = split_files(files, seed=seed)
        assert {len(sides) for sides in sides_of_patients(divided).values()} == {1}
        assert [replace(f, split=None) for f in divided] == files
        assert {f.split for f in divided} == {"train", "val", "test"}


def test_a_patient_of_two_classes_stays_whole() -> None:
    files = [
        LabelledFile(f"{p}-{i}", "AB"[(p + i) % 2], f"p{p}") for p in range(40) for i in range(3)
    ]
    for seed in range(10):
        divided = split_files(files, seed=seed)
        assert {len(sides) for sides in sides_of_patients(divided).values()} == {1}


def test_images_without_patients_are_divided_8_1_1_within_each_class() -> None:
    counts = {"A": 400, "B": 100, "C": 20}
    files = [LabelledFile(f"{c}/{i}", c) for c, n in counts.items() for i in range(n)]
    for seed in range(2):
        found = Counter((f.label, f.split) for f in split_files(files, seed=seed))
        for label, count in counts.items():
            assert found[label, "train"] == 0.8 * count
            assert found[label, "val"] == found[label, "test"] == 0.1 * count


def test_patients_are_divided_near_8_1_1() -> None:
    for seed in range(4):
        divided = split_files(archive(seed, patients=150), seed=seed)
        found = Counter(f.split for f in divided)
        assert 0.74 < found["train"] / len(divided) < 0.86
        for label in "ABC":
            sides = [f.split for f in divided if f.label == label]
            assert 0.6 < sides.count("train") / len(sides) < 0.92


def test_every_class_reaches_every_side_even_with_three_patients() -> None:
    files = [LabelledFile(f"{c}/{i}", c, f"{c}{i}") for c in "AB" for i in range(3)]
    for seed in range(10):
        found = Counter((f.label, f.split) for f in split_files(files, seed=seed))
        assert set(found.values()) == {1}
        assert len(found) == 6


def test_the_seed_decides() -> None:
    files = archive(1)
    assert split_files(files, seed=5) == split_files(files, seed=5)
    assert split_files(files, seed=5) != split_files(files, seed=6)


def test_too_few_patients_are_refused() -> None:
    files = [LabelledFile(f"A/{i}", "A", f"p{i}") for i in range(10)]
    files += [LabelledFile(f"B/{i}", "B", f"q{i % 2}") for i in range(10)]
    with pytest.raises(LabelError, match="at least three patients"):
        split_files(files, seed=0)


def given(*files: tuple[str, str, str | None, str | None]) -> list[LabelledFile]:
    return [LabelledFile(path, label, patient, split) for path, label, patient, split in files]


def test_a_split_that_was_given_is_kept() -> None:
    files = given(
        ("a", "A", "p1", "train"),
        ("b", "B", "p1", "train"),
        ("c", "A", "p2", "val"),
        ("d", "B", None, "val"),
        ("e", "A", "p3", "test"),
    )
    assert split_files(files, seed=0) == files


def test_half_a_split_is_refused() -> None:
    files = given(("a", "A", None, "train"), ("b", "A", None, None), ("c", "B", None, None))
    with pytest.raises(LabelError, match="2 files have no split"):
        split_files(files, seed=0)


def test_leaks_are_listed_by_file_not_by_patient() -> None:
    files = given(
        *(
            (f"{side}/{i}", "AB"[i % 2], f"Doe{i}", side)
            for i in range(7)
            for side in ("train", "val")
        ),
        ("fine", "A", "other", "test"),
    )
    with pytest.raises(LabelError, match="7 patients are on two sides") as caught:
        split_files(files, seed=0)
    message = str(caught.value)
    assert "train/0 and val/0" in message
    assert message.count(" and ") == 5
    assert "Doe" not in message


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_side_without_a_class_is_refused(side: str) -> None:
    other = "val" if side == "train" else "train"
    files = given(
        ("a", "A", None, side),
        ("b", "A", None, other),
        ("c", "B", None, other),
        ("d", "B", None, "test"),
    )
    with pytest.raises(LabelError, match=f"no image of 'B' in the {side} split"):
        split_files(files, seed=0)


def test_a_given_split_needs_no_test_side() -> None:
    files = given(*((f"{c}{s}", c, None, s) for c in "AB" for s in ("train", "val")))
    assert split_files(files, seed=0) == files
