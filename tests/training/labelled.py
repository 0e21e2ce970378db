"""Labelled files with a split, for tests of splits and of their reports."""

from cxrbatch.results.label_files import LabelledFile


def given(*files: tuple[str, str, str | None, str | None]) -> list[LabelledFile]:
    return [LabelledFile(path, label, patient, split) for path, label, patient, split in files]


WHOLE = given(
    ("a", "A", "p1", "train"),
    ("b", "B", "p1", "train"),
    ("c", "A", "p2", "val"),
    ("d", "B", None, "val"),
    ("e", "A", "p3", "test"),
    ("f", "A", None, "train"),
    ("g", "B", None, "train"),
)
