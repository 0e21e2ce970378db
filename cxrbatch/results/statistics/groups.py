"""Whose an image is: the groups that are resampled together."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Groups = npt.NDArray[np.int32]
"""Shape (n,): for each image the number of its group, from 0 without gaps."""


def numbered(groups: Sequence[Hashable] | npt.NDArray[np.generic]) -> Groups:
    """Number groups in the order in which they first occur."""
    if isinstance(groups, np.ndarray):
        codes: Groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
        return codes
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int32)


def patient_groups(patient_keys: pa.ChunkedArray) -> Groups:
    """Number the patients of a table's column `patient_key`; an image of nobody is its own."""
    codes = pc.dictionary_encode(patient_keys).combine_chunks()
    numbers = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    alone = numbers < 0
    numbers[alone] = len(codes.dictionary) + np.arange(np.count_nonzero(alone), dtype=np.int32)
    return numbered(numbers)
