"""Groups of files that must stay in one subset: those of one patient, and those of one picture."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrbatch.results.labels import LabelledFile
from cxrbatch.training.duplicates import DuplicatePair

# The largest public archives have some 200 radiographs of their most examined patient.
_MOST_FILES = 1000
# In a small archive one person may well have so many, and so large a share of those with an id.
_FEW_FILES, _LARGEST_SHARE = 20, 1 / 3

_Links = Sequence[tuple[int, int]]


def group_files(files: Sequence[LabelledFile], pairs: Iterable[DuplicatePair]) -> tuple[int, ...]:
    """Join files of one patient, pairs of one picture, and groups that share a file.

    Args:
        files: All files.
        pairs: From `near_duplicates`, by index into `files`.

    Returns:
        The group of each file, counted from 0 by the first path of each group in the order of
        text: the order of the files makes no difference.
    """
    patients = _links_of_equal([file.patient for file in files])
    return _connected(files, [*patients, *((pair.first, pair.second) for pair in pairs)])


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """Number of files by how their patient is known.

    Attributes:
        by_labels: Files whose patient the labels name.
        by_headers: Files whose patient their header alone names.
        unknown: Files whose patient nothing names.
        shared_ids: Ids in headers that are on too many files to be one person's.
        of_shared_ids: Files with one of these ids, which are not joined by it.
    """

    by_labels: int
    by_headers: int
    unknown: int
    shared_ids: int = 0
    of_shared_ids: int = 0

    def to_card(self) -> dict[str, int]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JoinedPatients:
    """Labelled files with the persons whom labels or headers name.

    Attributes:
        files: In the order given; `patient` is the number of a person as text, which says nothing
            of the ids, or None.
        counts: How the patients are known.
    """

    files: tuple[LabelledFile, ...]
    counts: PatientCounts


def join_patients(files: Sequence[LabelledFile], keys: Sequence[str | None]) -> JoinedPatients:
    """Number the persons: files belong to one person if labels or headers say so.

    Labels are trusted. An id of headers is ignored if it is on all files, or on more of those with
    an id than a person has: de-identification wrote it, and it would join an archive into one.

    Args:
        files: All labelled files.
        keys: The key of the patient in the header of each file; None if there is none.
    """
    held = Counter(key for key in keys if key is not None)
    most = min(max(_FEW_FILES, _LARGEST_SHARE * sum(held.values())), _MOST_FILES)
    shared = {key: n for key, n in held.items() if n > most or n == len(files)}
    headers = [None if key in shared else key for key in keys]
    labels = [file.patient for file in files]
    persons = _connected(files, [*_links_of_equal(labels), *_links_of_equal(headers)])
    known = [pair != (None, None) for pair in zip(labels, headers, strict=True)]
    by_labels = sum(label is not None for label in labels)
    counts = PatientCounts(
        by_labels, sum(known) - by_labels, known.count(False), len(shared), sum(shared.values())
    )
    named = (
        replace(file, patient=str(person) if is_known else None)
        for file, person, is_known in zip(files, persons, known, strict=True)
    )
    return JoinedPatients(tuple(named), counts)


def _links_of_equal(values: Sequence[str | None]) -> _Links:
    """Link each place with the first one of the same value; None equals nothing."""
    codes, _ = pd.factorize(pd.Series(values, dtype=object))
    first = pd.Series(np.arange(len(codes))).groupby(codes).transform("first")
    return [(int(a), b) for b, a in enumerate(first) if codes[b] >= 0]


def _connected(files: Sequence[LabelledFile], links: _Links) -> tuple[int, ...]:
    """Number the connected components of a graph by their first path in the order of text."""
    ends = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (ends[0], ends[1])), shape=(len(files),) * 2)
    _, components = connected_components(graph, directed=False)
    numbers: dict[int, int] = {}
    for index in sorted(range(len(files)), key=lambda i: files[i].path):
        numbers.setdefault(int(components[index]), len(numbers))
    return tuple(numbers[int(component)] for component in components)
