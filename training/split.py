"""Training, validation and test sides that no patient is on two of."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from cxrbatch.errors import LabelError
from cxrbatch.results.truth import SPLITS, LabelledFile

_FOLDS = 10
_SHOWN = 5


def split_files(files: Sequence[LabelledFile], *, seed: int) -> list[LabelledFile]:
    """Give every file a side; a split that came with the labels is kept and checked.

    Without one, images are divided 8 : 1 : 1 by patient (by image where no patient is known),
    stratified by class.

    Raises:
        LabelError: Only some files have a split, a class or patient makes it impossible, or the
            given split has one patient on two sides.
    """
    given = [file.split is not None for file in files]
    if any(given) and not all(given):
        raise LabelError(f"{given.count(False)} files have no split; give all of them one or none")
    divided = list(files) if all(given) else _divide(files, seed=seed)
    _check_sides(divided)
    return divided


def _divide(files: Sequence[LabelledFile], *, seed: int) -> list[LabelledFile]:
    groups = [_group(file) for file in files]
    labels = [file.label for file in files]
    folds = min(_FOLDS, _smallest_class(groups, labels))
    if folds < len(SPLITS):
        raise LabelError("each class needs images of at least three patients to be split")
    sides = np.full(len(files), "train", dtype=object)
    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    held_out = [fold for _, fold in divider.split(labels, labels, groups)]
    sides[held_out[0]], sides[held_out[1]] = "test", "val"
    return [replace(file, split=str(side)) for file, side in zip(files, sides, strict=True)]


def _group(file: LabelledFile) -> str:
    return f"patient {file.patient}" if file.patient is not None else f"image {file.path}"


def _smallest_class(groups: Sequence[str], labels: Sequence[str]) -> int:
    members: defaultdict[str, set[str]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        members[label].add(group)
    return min(len(named) for named in members.values())


def _check_sides(files: Sequence[LabelledFile]) -> None:
    sides: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        sides[_group(file)].setdefault(str(file.split), file.path)
    if leaks := [tuple(paths.values()) for paths in sides.values() if len(paths) > 1]:
        shown = "; ".join(" and ".join(paths[:2]) for paths in leaks[:_SHOWN])
        raise LabelError(f"{len(leaks)} patients are on two sides of the split: {shown}")
    for side in ("train", "val"):
        present = {file.label for file in files if file.split == side}
        if missing := {file.label for file in files} - present:
            raise LabelError(f"no image of {sorted(missing)[0]!r} in the {side} split")
