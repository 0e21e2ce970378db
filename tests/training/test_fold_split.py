"""Folds are equal, keep patients and pictures together, and each leaves enough to learn from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from cxrbatch.errors import LabelError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.fold_split import Folds, check_folds, divide_folds
from cxrbatch.training.split import divide_groups, join_patients


def films(*, seed: int = 0, patients: int = 60) -> list[LabelledFile]:
    """One to four films of each patient, of three classes and two sources, in no order."""
    rng = np.random.default_rng(seed)
    made = []
    for patient in range(patients):
        label, source = "ABC"[patient % 3], f"place {patient // 3 % 2}"
        for film in range(rng.integers(1, 5)):
            made.append(LabelledFile(f"{patient}/{film}", label, f"p{patient}", None, source))
    return [made[i] for i in rng.permutation(len(made))]


def folds_of(files: list[LabelledFile], count: int, *pairs: DuplicatePair, seed: int = 0) -> Folds:
    joined = join_patients(files, [None] * len(files))
    return divide_folds(joined, pairs, count=count, seed=seed)


def by_fold(folds: Folds, name: str) -> list[Counter[str]]:
    values = [getattr(file, name) for file in folds.files]
    return [
        Counter(value for value, fold in zip(values, folds.numbers, strict=True) if fold == number)
        for number in range(1, len(folds.splits) + 1)
    ]


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_no_patient_is_in_two_folds_and_each_fold_is_tested_once(count: int) -> None:
    files = films()
    folds = folds_of(files, count)
    assert set(folds.numbers) == set(range(1, count + 1))
    patients = pd.Series(folds.numbers).groupby([file.patient for file in files]).nunique()
    assert (patients == 1).all()
    tested = np.zeros(len(files), int)
    for number, split in enumerate(folds.splits, 1):
        sides = [file.split for file in split.files]
        assert [side == "test" for side in sides] == [fold == number for fold in folds.numbers]
        tested += [side == "test" for side in sides]
        assert split.groups == folds.groups
        for side in ("train", "val"):
            labels = {file.label for file in split.files if file.split == side}
            assert labels == {"A", "B", "C"}
        apart = pd.Series(sides).groupby(list(folds.groups)).nunique()
        assert (apart == 1).all()
    assert (tested == 1).all()


def test_classes_and_sources_are_as_even_as_scikit_learn_makes_them() -> None:
    files = films(patients=300)
    folds = folds_of(files, 5)
    strata = [f"{file.label} {file.source}" for file in files]
    theirs = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    groups = [file.patient for file in files]
    uneven = []
    for numbers in (
        np.array(folds.numbers),
        sum(
            np.isin(np.arange(len(files)), test) * (k + 1)
            for k, (_, test) in enumerate(theirs.split(strata, strata, groups))
        ),
    ):
        counts = pd.crosstab(pd.Series(strata), pd.Series(numbers))
        uneven.append(float((counts.max(axis=1) - counts.min(axis=1)).max()))
    assert uneven[0] <= uneven[1]
    sizes = np.bincount(folds.numbers)[1:]
    assert sizes.max() - sizes.min() <= 4


def test_about_a_tenth_of_the_rest_is_validation() -> None:
    for split in folds_of(films(patients=300), 5).splits:
        sides = Counter(file.split for file in split.files)
        assert 0.08 < sides["val"] / (sides["val"] + sides["train"]) < 0.12


def test_pictures_that_are_equal_share_a_fold() -> None:
    files = films()
    first, second = 0, next(i for i, f in enumerate(files) if f.patient != files[0].patient)
    folds = folds_of(files, 5, DuplicatePair(first, second, 1.0))
    assert folds.numbers[first] == folds.numbers[second]
    assert folds.groups[first] == folds.groups[second]


def test_the_order_of_the_files_makes_no_difference_and_a_seed_does() -> None:
    files = films()
    one, other = folds_of(files, 4), folds_of(files[::-1], 4)
    assert one.numbers == other.numbers[::-1]
    assert [s.sha256 for s in one.splits] == [s.sha256 for s in other.splits]
    assert one.numbers != folds_of(files, 4, seed=1).numbers


def test_a_given_split_does_not_count() -> None:
    files = films()
    marked = [LabelledFile(f.path, f.label, f.patient, "train", f.source) for f in files]
    assert folds_of(files, 3).numbers == folds_of(marked, 3).numbers


def test_classes_with_too_few_patients_are_refused_with_their_counts() -> None:
    files = [LabelledFile(f"{c}{i}", c, f"{c}{i // 2}") for c in "ABC" for i in range(8)]
    files += [LabelledFile(f"A{i}", "A", f"A{i}") for i in range(8, 20)]
    with pytest.raises(LabelError, match=r"5 folds need at least 5 .*: 'B' has 4, 'C' has 4; "):
        check_folds(files, count=5)
    check_folds(files, count=4)
    joined = join_patients(files, [None] * len(files))
    pairs = [DuplicatePair(20 - 4, 20 - 2, 1.0)]
    with pytest.raises(LabelError, match=r"4 folds need at least 4 .*: 'C' has 3; "):
        divide_folds(joined, pairs, count=4, seed=0)


def test_two_folds_leave_two_patients_of_each_class_to_learn_from() -> None:
    files = [LabelledFile(f"{c}{i}", c, f"{c}{i}") for c in "AB" for i in range(4)]
    assert [Counter(f.split for f in s.files) for s in folds_of(files, 2).splits] == [
        {"test": 4, "train": 2, "val": 2}
    ] * 2
    with pytest.raises(LabelError, match=r"2 folds need at least 4 .*: 'B' has 3; "):
        check_folds(files[:-1], count=2)


def test_a_fold_that_leaves_too_little_of_a_class_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patients with images of several classes can come to lie so."""

    def first_only(
        files: Sequence[LabelledFile],
        groups: Sequence[int],
        *,
        shares: Mapping[str, float],
        seed: int,
    ) -> list[str]:
        if "val" in shares:
            return ["train"] * len(files)
        return divide_groups(files, groups, shares=shares, seed=seed)

    monkeypatch.setattr("cxrbatch.training.fold_split.divide_groups", first_only)
    with pytest.raises(LabelError, match="around fold 1 no patient of 'A' is left for val"):
        folds_of(films(), 3)


def test_the_folds_are_a_labels_file_without_a_split(tmp_path: Path) -> None:
    files = films()
    folds = folds_of(files, 3)
    folds.write(tmp_path / "s.csv")
    rows = pd.read_csv(tmp_path / "s.csv")
    assert [*rows] == ["path", "label", "patient", "source", "fold", "group"]
    assert rows["fold"].tolist() == list(folds.numbers)
    assert not set(rows["patient"]) & {file.patient for file in files}
    assert "fold 1: " in folds.lines[0]
    assert by_fold(folds, "label")[0].total() == folds.numbers.count(1)
