"""The report of a split counts what a reader should know of it, and warns."""

from dataclasses import replace

from labelled import WHOLE

from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.split import split_files


def test_the_report_counts_images_groups_sources_and_duplicates() -> None:
    sources = ["s", "s", "t", "s", "s", "s", "s"]
    files = [replace(f, source=s) for f, s in zip(WHOLE, sources, strict=True)]
    pairs = [DuplicatePair(0, 5, 0.95), DuplicatePair(1, 6, 1.0), DuplicatePair(0, 1, 1.0)]
    report = split_files(files, pairs, seed=0).report
    assert report.to_card() == {
        "given": True,
        "patients": {
            "by_labels": 4,
            "by_headers": 0,
            "unknown": 3,
            "shared_ids": 0,
            "of_shared_ids": 0,
        },
        "images": {"train": {"A": 2, "B": 2}, "val": {"A": 1, "B": 1}, "test": {"A": 1}},
        "groups": {"train": {"A": 1, "B": 1}, "val": {"A": 1, "B": 1}, "test": {"A": 1}},
        "sources": {
            "train": {"A": {"s": 2}, "B": {"s": 2}},
            "val": {"A": {"t": 1}, "B": {"s": 1}},
            "test": {"A": {"s": 1}},
        },
        "classes_of_one_source": {"B": "s"},
        "equal_pairs": 2,
        "near_equal_pairs": 1,
        "contradictory_pairs": 1,
        "dropped_as_leaks": 0,
    }
    lines = list(report.lines())
    assert "train: 'A' 2 in 1 groups, 'B' 2 in 1 groups" in lines
    assert (
        "patients: named by the labels for 4 images, by headers alone for 0, unknown for 3" in lines
    )
    assert "duplicates inside a side: 2 equal and 1 nearly equal pairs" in lines
    assert "warning: one picture, two labels: 'a' is 'A', 'b' is 'B'" in lines
    assert [line for line in lines if line.startswith("warning: all images of 'B' are from 's'")]


def test_one_source_for_all_is_no_warning() -> None:
    files = [replace(f, source="s") for f in WHOLE]
    assert split_files(files, [], seed=0).report.one_source == {}
