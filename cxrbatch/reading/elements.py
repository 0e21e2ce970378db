"""Values of data elements as plain, short, printable types; nothing here raises.

A header is foreign input: values may be absent, empty, huge, of the wrong type or number. All of
these are None to the caller, who decides what an absent value means.
"""

import contextlib
import logging
import struct
import warnings
from collections.abc import Iterator
from typing import cast

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_TEXT_LENGTH = 64
_VALUE_BYTES = 4096


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's and Pillow's warnings in: they quote header values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def value_of(dataset: Dataset, tag: int) -> object:
    """An element's value, or None: absent, empty, overlong and undecodable are all the same."""
    with contextlib.suppress(Exception):
        raw = dataset.get_item(tag)
        if raw is None or (isinstance(raw.value, bytes) and len(raw.value) > _VALUE_BYTES):
            return None
        value: object = dataset[tag].value
        return value
    return None


def values_of(dataset: Dataset, tag: int) -> list[object]:
    """An element's values as a list, empty where there is none."""
    value = value_of(dataset, tag)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def text(dataset: Dataset, tag: int) -> str | None:
    """Printable text of at most 64 characters, or None."""
    values = values_of(dataset, tag)
    with contextlib.suppress(Exception):
        parts = (v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values)
        joined = "\\".join(parts)[: 4 * _TEXT_LENGTH]
        shown = "".join(c if c.isprintable() else " " for c in joined).strip()
        return shown[:_TEXT_LENGTH].rstrip() or None
    return None


def integer(dataset: Dataset, tag: int) -> int | None:
    """The single whole number of an element, or None."""
    number = numbers(dataset, tag)
    if number is None or len(number) != 1 or number[0] != int(number[0]):
        return None
    return int(number[0])


def numbers(dataset: Dataset, tag: int) -> list[float] | None:
    """All numbers of an element; None if it is absent, empty, or holds anything not finite."""
    values = values_of(dataset, tag)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        result = [float(cast(float, value)) for value in values]
        if result and all(abs(value) < 1e300 for value in result):
            return result
    return None


def is_present(dataset: Dataset, tag: int) -> bool:
    """Whether an element is there, be it empty or unreadable."""
    return tag in dataset


def first_item(dataset: Dataset, tag: int) -> Dataset | None:
    """The first item of a sequence, or None."""
    if not is_present(dataset, tag):
        return None
    with contextlib.suppress(Exception), quietly():
        sequence = dataset[tag].value
        if isinstance(sequence, Sequence) and len(sequence) > 0:
            item: Dataset = sequence[0]
            return item
    return None


def raw_bytes(dataset: Dataset, tag: int) -> bytes | None:
    """An element's value as the bytes of the file, or None."""
    with contextlib.suppress(Exception):
        element = dataset.get_item(tag)
        if element is not None and isinstance(element.value, bytes):
            return element.value
    return None


def words(dataset: Dataset, tag: int, *, little: bool) -> tuple[int, ...]:
    """An element's value as unsigned 16-bit words; its value representation is not asked."""
    data = raw_bytes(dataset, tag) or b""
    count = len(data) // 2
    return struct.unpack(f"{'<' if little else '>'}{count}H", data[: 2 * count])
