"""What tests of the command `train` are called with, and what they look for."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.training.labelled_files import CollectedLabels, LabelSources, collect_labels

PngMaker = Callable[[Path, np.ndarray], Path]
FAST = ["--size", "32", "--epochs", "1", "--draws", "8", "--batch-size", "8", "--workers", "0"]
FAST += ["--device", "cpu"]


def labels_csv(
    level_archive: Path, folder: Path, *, split: Callable[[str, int], str], extra: str = ""
) -> Path:
    """A CSV file of the archive's images with a split; `extra` is appended."""
    lines = ["path,label,split"]
    for path in sorted(level_archive.glob("*/*.png")):
        lines.append(f"{path},{path.parent.name},{split(path.parent.name, int(path.stem))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n" + extra)
    return folder / "labels.csv"


def collect(
    data: Sequence[Path],
    *,
    roots: Sequence[Path] = (),
    classes: Sequence[str] = (),
    all_unlabelled: bool = False,
    options: LabelOptions = AS_USUAL,
) -> CollectedLabels:
    """Collect labels; headers are read in this process."""
    sources = LabelSources(data=data, roots=roots, options=options, classes=classes)
    return collect_labels(sources, all_unlabelled=all_unlabelled)


def ordinary(label: str, number: int) -> str:
    return "train" if number < 12 else "val" if number < 16 else "test"


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, which must be the only one that is an error."""
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]
