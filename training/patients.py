"""Whose the labelled files are: what labels say and what headers say, joined."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from cxrbatch.results.truth import LabelledFile
from cxrbatch.training.groups import alike, joined, numbered

# The largest public archives have some 200 radiographs of their most examined patient.
_MOST_FILES = 1000
# In a small archive one person may well have so many, and so large a share of those with an id.
_FEW_FILES, _LARGEST_SHARE = 20, 1 / 3


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """Of how many files the patient is known.

    Attributes:
        by_labels: Files whose patient the labels name.
        by_headers: Files whose patient their header alone names.
        unknown: Files whose patient nothing names.
        shared_ids: Ids in headers that are on too many files to be one person's.
        of_shared_ids: Files with one of these, which are not joined by it.
    """

    by_labels: int
    by_headers: int
    unknown: int
    shared_ids: int = 0
    of_shared_ids: int = 0

    def to_card(self) -> dict[str, int]:
        """Give the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Patients:
    """Labelled files with the persons whom labels or headers name.

    Attributes:
        files: In the order given; `patient` is the number of a person as text, which says nothing
            of the ids, or None.
        counts: How they are known.
    """

    files: tuple[LabelledFile, ...]
    counts: PatientCounts


def join_patients(files: Sequence[LabelledFile], keys: Sequence[str | None]) -> Patients:
    """Join the files that labels, or headers, or both in turn, give to one person.

    Labels are taken at their word. An id of headers is not used where it is on all files, or on
    more of those with an id than a person has: de-identification wrote it, and it would join an
    archive into one.

    Args:
        files: All labelled files.
        keys: Of each the key of the patient in its header, None where there is none.
    """
    held = Counter(key for key in keys if key is not None)
    most = min(max(_FEW_FILES, _LARGEST_SHARE * sum(held.values())), _MOST_FILES)
    shared = {key: n for key, n in held.items() if n > most or n == len(files)}
    headers = [None if key in shared else key for key in keys]
    labels = [file.patient for file in files]
    persons = numbered(files, joined(len(files), [*alike(labels), *alike(headers)]))
    known = [pair != (None, None) for pair in zip(labels, headers, strict=True)]
    by_labels = sum(label is not None for label in labels)
    counts = PatientCounts(
        by_labels, sum(known) - by_labels, known.count(False), len(shared), sum(shared.values())
    )
    named = (
        replace(file, patient=str(person) if is_known else None)
        for file, person, is_known in zip(files, persons, known, strict=True)
    )
    return Patients(tuple(named), counts)
