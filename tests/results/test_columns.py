"""Columns of a table: equal to PyArrow's own, and refused alike."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cxrbatch.results.columns import column_of

LONG = "ä" * 300
CASES: list[tuple[list[Any], pa.DataType]] = [
    (["", "é", None, LONG, "\x00", "\U0001fac1"], pa.string()),
    ([0, None, -(2**31), 2**31 - 1], pa.int32()),
    ([-(2**63), 2**63 - 1], pa.int64()),
    ([2**64 - 1, None, 0], pa.uint64()),
    ([np.float32(0.1), None, 1e-45, float("inf")], pa.float32()),
    ([None] * 9, pa.float32()),
    ([b"abc", None, b"\x00\x01\x02"], pa.binary(3)),
    ([["a", ""], [], ["b"]], pa.list_(pa.string())),
]


@pytest.mark.parametrize(("values", "kind"), CASES, ids=lambda case: str(case)[:20])
@pytest.mark.parametrize("times", [0, 1, 7])
def test_a_column_is_the_one_that_pyarrow_makes(
    values: list[Any], kind: pa.DataType, times: int
) -> None:
    made = column_of(values * times, kind)
    made.validate(full=True)
    assert made.type == kind
    assert made.equals(pa.array(values * times, kind))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**31, pa.int32()),
        (-1, pa.uint64()),
        ("x", pa.int32()),
        ("\udc80", pa.string()),
        (b"ab", pa.binary(3)),
        (["\udc80"], pa.list_(pa.string())),
    ],
)
def test_what_a_type_cannot_hold_is_refused(value: object, kind: pa.DataType) -> None:
    with pytest.raises((OverflowError, ValueError)):
        pa.array([value], kind)
    with pytest.raises((OverflowError, ValueError)):
        column_of([value], kind)
