"""Reads values of data elements as plain, short, printable types; no function here raises.

A header is foreign input: a value may be absent, empty, huge, of the wrong type or number. Each
function returns None or something empty for these, and its caller decides what that means.
"""

import contextlib
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from typing import cast

from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_TEXT_LENGTH = 64
_VALUE_BYTES = 4096
# Beyond any meaning; products of such numbers and of pixels of 32 bits stay finite.
_LARGEST_NUMBER = 1e100

# Tried in turn where the declared character set is wrong or missing; each but the last refuses
# bytes that it cannot hold.
_CODECS = """
iso2022_jp_2 gb18030 shift_jis euc_jp cp949 big5 cp1251 iso8859_5 koi8_r iso8859_7 iso8859_6
iso8859_8 iso8859_9 iso8859_2 tis_620 latin_1
"""
_DEFAULTS = frozenset(("iso8859", "latin_1"))
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress, in a `with` block, all warnings and pydicom's log messages.

    They may quote header values, which name a patient.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def values_of(dataset: Dataset, tag: int) -> list[object]:
    """Return an element's values, one or several, each as pydicom converts it.

    The list is empty if the element is absent, empty, over 4096 bytes long, or cannot be decoded.
    """
    value: object = None
    with contextlib.suppress(Exception):
        raw = dataset.get_item(tag)
        if raw is None or (isinstance(raw.value, bytes) and len(raw.value) > _VALUE_BYTES):
            return []
        value = dataset[tag].value
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def text(dataset: Dataset, tag: int) -> str | None:
    """Return an element's value as printable text of at most 64 characters.

    Several values are joined by backslashes, and a character that cannot be printed becomes a
    space. None if nothing is left, or where `values_of` returns no value.
    """
    values = values_of(dataset, tag)
    with contextlib.suppress(Exception):
        parts = (v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values)
        return _printable("\\".join(parts)) or None
    return None


def capitals(dataset: Dataset, tag: int) -> str:
    """Return what `text` returns for an element, in capitals; "" in place of None."""
    return (text(dataset, tag) or "").upper()


def decodings(dataset: Dataset, tag: int) -> Iterator[str]:
    """Decode an element's bytes in each character set that may be meant, the likeliest first.

    Code strings and ages are ASCII by the standard, and text in any script in real files: in
    UTF-8, in the Specific Character Set (0008,0005), or in another set. A declared set that fits
    the bytes and could have refused them is the last that is tried. Latin-1, which many files
    declare wrongly, refuses nothing.

    Yields:
        Printable text of at most 64 characters for each set that fits; of ASCII bytes one, and
        nothing for an absent element or one of over 4096 bytes.

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
    for codec in _CODECS.split():
        with contextlib.suppress(UnicodeDecodeError):
            yield _printable(data.decode(codec))


def describe_unknown(element: str, written: str) -> str:
    """Describe a value of `element` that the standard does not know, by its length alone.

    An example is "a modality of 5 characters that the standard does not know". The value is not
    quoted, as a person may have typed a name there.
    """
    count = "1 character" if len(written) == 1 else f"{len(written)} characters"
    return f"a {element} of {count} that the standard does not know"


def element_name(tag: int) -> str:
    """Name an element by its tag in a message, such as "element (0028,0010)".

    Where reading got out of step, the bytes of a tag may be letters of a value. So the tag is
    written out only if pydicom's dictionary has it, or if it is a private one (odd group) that
    cannot be text. Any other is "an element of unknown tag".
    """
    group = tag >> 16
    if dictionary_has_tag(tag) or (group % 2 and group < 0x2000):
        return f"element ({group:04X},{tag & 0xFFFF:04X})"
    return "an element of unknown tag"


def _printable(written: str) -> str:
    """The first 64 characters, each that cannot be printed as a space."""
    shown = "".join(c if c.isprintable() else " " for c in written[: 4 * _TEXT_LENGTH]).strip()
    return shown[:_TEXT_LENGTH].rstrip()


def integer(dataset: Dataset, tag: int) -> int | None:
    """Return an element's number; None unless it has exactly one, and that is whole."""
    number = numbers(dataset, tag)
    if number is None or len(number) != 1 or number[0] != int(number[0]):
        return None
    return int(number[0])


def numbers(dataset: Dataset, tag: int) -> list[float] | None:
    """Return all numbers of an element.

    None if `values_of` returns none, or if any of them is no number below 1e100 in size.
    """
    values = values_of(dataset, tag)
    # Python reads 1_500 as a number; DICOM does not.
    if any("_" in str(value) for value in values):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        result = [float(cast(float, value)) for value in values]
        if result and all(abs(value) < _LARGEST_NUMBER for value in result):
            return result
    return None


def listed_numbers(dataset: Dataset, tag: int) -> tuple[list[float | None], bool]:
    """Return the numbers of an element one by one, None for each value that is no number.

    A decimal comma is read as a point. Of "1500 HU" or "1500;400" the number in front counts, as
    in DCMTK. Only the first 4096 bytes are read.

    Returns:
        The values, and whether any number is read from text that is not written as the standard
        asks.

    Source: DICOM PS3.5 table 6.2-1 (DS).
    """
    exact = numbers(dataset, tag)
    if exact is not None:
        return [*exact], False
    data = raw_bytes(dataset, tag)
    if data is None:
        pieces = [str(value) for value in values_of(dataset, tag)]
    else:
        pieces = data[:_VALUE_BYTES].decode("latin-1").split("\\")
    read = [_leading_number(piece.strip(" \0")) for piece in pieces]
    return [value for value, _ in read], any(is_odd for _, is_odd in read)


def _leading_number(piece: str) -> tuple[float | None, bool]:
    """The number at the start of a text, and whether the text is more than a number."""
    has_comma = _DECIMAL_COMMA.fullmatch(piece) is not None
    if has_comma:
        piece = piece.replace(",", ".")
    match = _NUMBER.match(piece)
    if match is None or piece[match.end() :].startswith("_"):
        return None, False
    value, is_odd = float(match[0]), has_comma or match.end() < len(piece)
    return (value, is_odd) if abs(value) < _LARGEST_NUMBER else (None, False)


def first_item(dataset: Dataset, tag: int) -> Dataset | None:
    """Return the first item of a sequence.

    None if the element is absent, no sequence, without items, or cannot be parsed.
    """
    if tag not in dataset:
        return None
    with contextlib.suppress(Exception), quietly():
        sequence = dataset[tag].value
        if isinstance(sequence, Sequence) and len(sequence) > 0:
            item: Dataset = sequence[0]
            return item
    return None


def raw_bytes(dataset: Dataset, tag: int) -> bytes | None:
    """Return an element's value as the bytes in the file, before any conversion.

    None if the element is absent, or if its value is not held as bytes, such as one that pydicom
    has already converted to text or numbers.
    """
    with contextlib.suppress(Exception):
        element = dataset.get_item(tag)
        if element is not None and isinstance(element.value, bytes):
            return element.value
    return None


def words_of(dataset: Dataset, tag: int, *, little: bool) -> tuple[int, ...]:
    """Return an element's value as unsigned 16-bit words, whatever its value representation is.

    The result is empty where `raw_bytes` returns None; an odd last byte is left out. `little`
    says whether the bytes are in little endian.
    """
    data = raw_bytes(dataset, tag) or b""
    count = len(data) // 2
    return struct.unpack(f"{'<' if little else '>'}{count}H", data[: 2 * count])
