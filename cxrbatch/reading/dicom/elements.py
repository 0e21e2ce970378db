"""Values of data elements as plain, short, printable types; nothing here raises.

A header is foreign input: values may be absent, empty, huge, of the wrong type or number. All of
these are None to the caller, who decides what an absent value means.
"""

import contextlib
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from typing import cast

from pydicom.charset import decode_bytes
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from cxrbatch.reading.dicom.element_reader import UNDEFINED, ElementReader, Encoding, Head

_TEXT_LENGTH = 64
_VALUE_BYTES = 4096

# Tried where the declared character set is wrong or missing; each refuses what it cannot hold, but
# the last.
_CODECS = (
    *("utf-8", "iso2022_jp_2", "gb18030", "shift_jis", "euc_jp", "cp949", "big5"),
    *("cp1251", "iso8859_5", "koi8_r", "iso8859_7", "iso8859_6", "iso8859_8", "iso8859_9"),
    *("iso8859_2", "tis_620", "latin_1"),
)
_DEFAULTS = frozenset(("iso8859", "latin_1"))
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


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
        return _printable("\\".join(parts)) or None
    return None


def decodings(dataset: Dataset, tag: int) -> Iterator[str]:
    """What an element's bytes can mean as text, the likeliest first; each as `text` returns it.

    Code strings and ages are ASCII by the standard, and text in any script in real files: in
    UTF-8, in the Specific Character Set (0008,0005), or in another one. ASCII gives one text. No
    other set is tried behind a declared one that fits and could have refused; Latin-1, which many
    files declare wrongly, refuses nothing.

    Source: DICOM PS3.5 section 6.1.2.
    """
    data = raw_bytes(dataset, tag)
    if data is None or len(data) > _VALUE_BYTES:
        shown = text(dataset, tag)
        yield from [shown] if shown else []
        return
    if data.isascii() and b"\x1b" not in data:
        yield _printable(data.decode("ascii"))
        return
    with contextlib.suppress(UnicodeDecodeError):
        yield _printable(data.decode("utf-8"))
    with contextlib.suppress(Exception), quietly():
        declared = dataset.original_character_set
        encodings = [declared] if isinstance(declared, str) else list(declared)
        decoded = decode_bytes(data, encodings, set())
        if "\ufffd" not in decoded:
            yield _printable(decoded)
            if _DEFAULTS.isdisjoint(encodings):
                return
    for codec in _CODECS[1:]:
        with contextlib.suppress(UnicodeDecodeError):
            yield _printable(data.decode(codec))


def unknown(element: str, written: str) -> str:
    """Name a value that must not be quoted, as it may be a person's name typed by mistake."""
    count = "1 character" if len(written) == 1 else f"{len(written)} characters"
    return f"a {element} of {count} that the standard does not know"


def _printable(written: str) -> str:
    """The first 64 characters, each that cannot be printed as a space."""
    shown = "".join(c if c.isprintable() else " " for c in written[: 4 * _TEXT_LENGTH]).strip()
    return shown[:_TEXT_LENGTH].rstrip()


def integer(dataset: Dataset, tag: int) -> int | None:
    """The single whole number of an element, or None."""
    number = numbers(dataset, tag)
    if number is None or len(number) != 1 or number[0] != int(number[0]):
        return None
    return int(number[0])


def numbers(dataset: Dataset, tag: int) -> list[float] | None:
    """All numbers of an element; None if it is absent, empty, or holds anything not finite."""
    values = values_of(dataset, tag)
    # Python reads 1_500 as a number; DICOM does not.
    if any("_" in str(value) for value in values):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        result = [float(cast(float, value)) for value in values]
        if result and all(abs(value) < 1e300 for value in result):
            return result
    return None


def listed_numbers(dataset: Dataset, tag: int) -> tuple[list[float | None], bool]:
    """The numbers of an element one by one, None for each value that is none.

    A decimal comma is read as a point; of "1500 HU" or "1500;400" the number in front counts, as in
    DCMTK.

    Returns:
        The values, and whether any was read although it is not written as the standard wants it
        (PS3.5 table 6.2-1, DS).
    """
    exact = numbers(dataset, tag)
    if exact is not None:
        return [*exact], False
    data = raw_bytes(dataset, tag)
    if data is None:
        pieces = [str(value) for value in values_of(dataset, tag)]
    else:
        pieces = data[:_VALUE_BYTES].decode("latin-1").split("\\")
    read = [_number(piece.strip(" \0")) for piece in pieces]
    return [value for value, _ in read], any(is_odd for _, is_odd in read)


def _number(piece: str) -> tuple[float | None, bool]:
    """The number at the start of a text, and whether the text is more than a number."""
    if _DECIMAL_COMMA.fullmatch(piece):
        return float(piece.replace(",", ".")), True
    found = _NUMBER.match(piece)
    value = float(found[0]) if found else None
    is_cut = found is not None and piece[found.end() :].startswith("_")
    if found is None or value is None or is_cut or not abs(value) < 1e300:
        return None, False
    return value, found.end() < len(piece)


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


_LARGEST_VALUE = 1 << 20


def raw_element(reader: ElementReader, head: Head, end: int, encoding: Encoding) -> RawDataElement:
    """An element by its head; a value of more than a mebibyte is left out.

    Args:
        reader: Of the file.
        head: Of the element.
        end: Offset behind it.
        encoding: Of the data set.

    Raises:
        ReadingError: As of `ElementReader.value`.
    """
    tag, vr, length, start = head
    little = encoding.little
    value: bytes | None = None
    if length == UNDEFINED:
        value = reader.value(head, end)
        vr, little = "SQ", value[:1] == b"\xfe"
    elif length == 0:
        value = cast(bytes | None, empty_value_for_VR(vr, raw=True))
    elif length <= _LARGEST_VALUE:
        value = reader.value(head, end)
    # UN is in little endian in all files (PS3.5 section 6.2.2).
    little = little or vr == "UN"
    return RawDataElement(BaseTag(tag), vr, length, value, start, encoding.implicit, little)
