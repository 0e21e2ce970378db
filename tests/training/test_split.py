"""No patient and no picture is on two sides, whatever the seed; a given split is checked."""

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled import WHOLE, given

from cxrbatch.errors import LabelError, TableError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_lists import read_labels
from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.split import Split, group_files, split_files
from cxrbatch.training.split_report import LeakError, find_leaks, write_leaks


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


def some_pairs(files: Sequence[LabelledFile], seed: int, *, count: int = 6) -> list[DuplicatePair]:
    chosen = random.Random(seed).sample(range(len(files)), 2 * count)
    return [DuplicatePair(*sorted(chosen[i : i + 2]), 0.97) for i in range(0, 2 * count, 2)]


def subsets_of(split: Split) -> dict[int, set[str | None]]:
    sides = defaultdict(set)
    for file, group in zip(split.files, split.groups, strict=True):
        sides[group].add(file.split)
    return sides


# Groups


def test_patients_and_pairs_are_joined_through_each_other() -> None:
    patients = ["p", None, "q", "p", None, "q", None]
    files = [LabelledFile(f"{i}", "A", patient) for i, patient in enumerate(patients)]
    assert group_files(files, [DuplicatePair(1, 3, 1.0), DuplicatePair(1, 5, 0.95)]) == (
        0,
        0,
        0,
        0,
        1,
        0,
        2,
    )


def test_groups_are_those_of_a_graph_of_all_links() -> None:
    """Against scipy's connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    for seed in range(5):
        files = archive(seed, known=0.7)
        pairs = some_pairs(files, seed, count=20)
        links = [(p.first, p.second) for p in pairs]
        links += [
            (i, j)
            for i, a in enumerate(files)
            for j, b in enumerate(files)
            if a.patient is not None and a.patient == b.patient
        ]
        rows, columns = np.array(links).T
        graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(files),) * 2)
        count, expected = connected_components(graph, directed=False)
        groups = group_files(files, pairs)
        assert len(set(groups)) == count
        assert len(set(zip(groups, expected.tolist(), strict=True))) == count


# A split that is made here


@pytest.mark.parametrize("known", [1.0, 0.5])
def test_no_group_is_on_two_sides(known: float) -> None:
    for seed in range(5):
        files = archive(seed, known=known)
        pairs = some_pairs(files, seed)
        split = split_files(files, pairs, seed=seed)
        assert {len(sides) for sides in subsets_of(split).values()} == {1}
        assert find_leaks(split.files, pairs) == []
        assert [replace(f, split=None) for f in split.files] == files
        assert {f.split for f in split.files} == {"train", "val", "test"}


def test_images_without_patients_are_divided_8_1_1_within_each_class() -> None:
    counts = {"A": 400, "B": 100, "C": 20}
    files = [LabelledFile(f"{c}/{i}", c) for c, n in counts.items() for i in range(n)]
    for seed in range(2):
        found = Counter((f.label, f.split) for f in split_files(files, [], seed=seed).files)
        for label, count in counts.items():
            assert found[label, "train"] == 0.8 * count
            assert found[label, "val"] == found[label, "test"] == 0.1 * count


def test_a_class_is_divided_within_each_of_its_sources() -> None:
    counts = {"s": 200, "t": 20}
    files = [
        LabelledFile(f"{c}{s}{i}", c, source=s)
        for c in "AB"
        for s in counts
        for i in range(counts[s])
    ]
    found = Counter((f.label, f.source, f.split) for f in split_files(files, [], seed=0).files)
    for label in "AB":
        for source, count in counts.items():
            assert found[label, source, "train"] == 0.8 * count
            assert found[label, source, "test"] == 0.1 * count


def test_sources_too_small_to_divide_leave_no_side_without_their_class() -> None:
    files = [LabelledFile(f"{c}{i}", c, source=f"{c}{i}") for c in "AB" for i in range(4)]
    found = Counter((f.label, f.split) for f in split_files(files, [], seed=0).files)
    assert len(found) == 6


def test_patients_are_divided_near_8_1_1() -> None:
    for seed in range(4):
        files = split_files(archive(seed, patients=150), [], seed=seed).files
        found = Counter(f.split for f in files)
        assert 0.76 < found["train"] / len(files) < 0.84
        for label in "ABC":
            sides = [f.split for f in files if f.label == label]
            assert 0.65 < sides.count("train") / len(sides) < 0.9


def test_one_rare_class_does_not_change_how_the_others_are_divided() -> None:
    files = [LabelledFile(f"A{i}", "A") for i in range(100)]
    files += [LabelledFile(f"B{i}", "B") for i in range(3)]
    found = Counter((f.label, f.split) for f in split_files(files, [], seed=0).files)
    assert found["A", "train"] == 80
    assert found["B", "train"] == found["B", "val"] == found["B", "test"] == 1


def test_every_class_reaches_every_side_even_with_three_patients() -> None:
    files = [LabelledFile(f"{c}/{i}", c, f"{c}{i}") for c in "AB" for i in range(3)]
    for seed in range(10):
        found = Counter((f.label, f.split) for f in split_files(files, [], seed=seed).files)
        assert set(found.values()) == {1}
        assert len(found) == 6


def test_the_seed_decides_and_the_order_of_the_files_does_not() -> None:
    files = archive(1, known=0.6)
    pairs = some_pairs(files, 1)
    split = split_files(files, pairs, seed=5)
    assert split_files(files, pairs, seed=5) == split
    assert split_files(files, pairs, seed=6).sha256 != split.sha256
    order = random.Random(0).sample(range(len(files)), len(files))
    places = {old: new for new, old in enumerate(order)}
    moved = [DuplicatePair(*sorted((places[p.first], places[p.second])), p.likeness) for p in pairs]
    again = split_files([files[i] for i in order], moved, seed=5)
    assert again.sha256 == split.sha256
    assert {f.path: f.split for f in again.files} == {f.path: f.split for f in split.files}


def test_too_few_patients_or_pictures_are_refused() -> None:
    files = [LabelledFile(f"A/{i}", "A", f"p{i}") for i in range(10)]
    files += [LabelledFile(f"B/{i}", "B", f"q{i % 2}") for i in range(10)]
    with pytest.raises(LabelError, match=r"at least three patients.*'B' has 2"):
        split_files(files, [], seed=0)
    copies = [LabelledFile(f"{c}{i}", c) for c in "AB" for i in range(4)]
    split_files(copies, [], seed=0)
    with pytest.raises(LabelError, match="'B' has 1"):
        split_files(copies, [DuplicatePair(4, i, 1.0) for i in (5, 6, 7)], seed=0)


def test_a_split_that_was_given_is_kept() -> None:
    pairs = [DuplicatePair(0, 5, 0.98)]
    split = split_files(WHOLE, pairs, seed=0)
    assert list(split.files) == WHOLE
    assert split.report.given


def test_half_a_split_is_refused() -> None:
    files = given(("a", "A", None, "train"), ("b", "A", None, None), ("c", "B", None, None))
    with pytest.raises(LabelError, match="2 of 3 files have no split"):
        split_files(files, [], seed=0)


def test_leaks_are_listed_by_file_with_their_reason() -> None:
    files = [*WHOLE, *given(("h", "B", "p3", "train"))]
    pairs = [DuplicatePair(2, 5, 1.0), DuplicatePair(3, 6, 0.9612), DuplicatePair(5, 6, 1.0)]
    with pytest.raises(LeakError, match="3 pairs are on two sides") as caught:
        split_files(files, pairs, seed=0)
    message = str(caught.value)
    assert "'e' (test) and 'h' (train): the same patient" in message
    assert "'c' (val) and 'f' (train): the same picture;" in message
    assert "'d' (val) and 'g' (train): nearly the same picture (likeness 0.961)" in message
    assert "--drop-leaks" in message
    assert "\n" not in message


def test_of_many_leaks_the_first_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    sides = ("train", "val")
    files = given(*((f"{s}/{i}", "AB"[i % 2], f"Doe{i}", s) for i in range(30) for s in sides))
    with pytest.raises(LeakError, match="and 10 more") as caught:
        split_files(files, [], seed=0)
    assert "Doe" not in str(caught.value)
    write_leaks(caught.value.leaks, tmp_path / "leaks.csv")
    with (tmp_path / "leaks.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["first"], row["second"]) for row in rows] == [
        (f"train/{i}", f"val/{i}") for i in range(30)
    ]
    assert "Doe" not in (tmp_path / "leaks.csv").read_text()


def test_dropping_leaks_keeps_test_before_val_before_train() -> None:
    files = [*WHOLE, *given(("h", "B", "p3", "train"), ("i", "B", "p3", "val"))]
    pairs = [DuplicatePair(2, 5, 1.0), DuplicatePair(0, 5, 0.95)]
    with pytest.raises(LabelError, match="no image of 'A' in the train split"):
        split_files(files, pairs, seed=0, drop_leaks=True)
    split = split_files(files, pairs[:1], seed=0, drop_leaks=True)
    sides = {f.path: f.split for f in split.files}
    assert [path for path, side in sides.items() if side is None] == ["f", "h", "i"]
    assert {p: s for p, s in sides.items() if s} == {
        f.path: f.split for f in WHOLE if f.path != "f"
    }
    assert split.report.dropped == ("f", "h", "i")
    kept = [file for file in split.files if file.split is not None]
    assert find_leaks(kept, []) == []


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
        split_files(files, [], seed=0)


def test_a_given_split_needs_no_test_side() -> None:
    files = given(*((f"{c}{s}", c, None, s) for c in "AB" for s in ("train", "val")))
    assert list(split_files(files, [], seed=0).files) == files


# What is written and told


def test_a_written_split_gives_itself_again(tmp_path: Path) -> None:
    files = [replace(f, source=f.label.lower()) for f in archive(3, known=0.6)]
    files.append(LabelledFile('odd, "quoted"\nname', "A", None, None, "é"))
    pairs = some_pairs(files, 3)
    split = split_files(files, pairs, seed=3)
    split.write(tmp_path / "split.csv")
    read = read_labels(tmp_path / "split.csv")
    assert [replace(f, patient=None) for f in read] == [
        replace(f, patient=None) for f in split.files
    ]
    again = split_files(read, pairs, seed=99)
    assert (again.sha256, again.groups) == (split.sha256, split.groups)
    assert {**again.report.to_card(), "given": False} == split.report.to_card()
    again.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "split.csv").read_bytes()


def test_a_written_split_names_no_patient_and_no_group_of_another(tmp_path: Path) -> None:
    named = [replace(f, patient=f.patient and f"Doe-{f.patient}") for f in archive(3, known=0.6)]
    patients = []
    for seed in (0, 1):
        split_files(named, [], seed=seed).write(tmp_path / "split.csv")
        assert "Doe" not in (tmp_path / "split.csv").read_text()
        read = read_labels(tmp_path / "split.csv")
        assert [f.patient is None for f in read] == [f.patient is None for f in named]
        patients.append({f.patient for f in read} - {None})
    assert not patients[0] & patients[1]


def test_a_split_is_written_without_what_was_dropped(tmp_path: Path) -> None:
    split = split_files(WHOLE, [DuplicatePair(2, 5, 1.0)], seed=0, drop_leaks=True)
    split.write(tmp_path / "split.csv")
    assert [file.path for file in read_labels(tmp_path / "split.csv")] == list("abcdeg")


def test_a_disk_that_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot write"):
        split_files(WHOLE, [], seed=0).write(tmp_path / "none" / "split.csv")


def test_the_hash_is_of_paths_labels_sides_and_groups() -> None:
    hashes = {
        split_files(files, pairs, seed=0).sha256
        for files, pairs in (
            (WHOLE, []),
            (WHOLE, [DuplicatePair(0, 5, 1.0)]),
            ([replace(WHOLE[0], path="z"), *WHOLE[1:]], []),
            ([replace(WHOLE[0], label="B"), *WHOLE[1:]], []),
            ([*WHOLE[:6], replace(WHOLE[6], split="test")], []),
        )
    }
    assert len(hashes) == 5
    assert split_files(WHOLE, [DuplicatePair(0, 5, 0.93)], seed=0).sha256 in hashes
