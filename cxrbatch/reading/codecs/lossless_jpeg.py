"""Whether the last row of a lossless JPEG is in its data, without decoding it again.

Where data end inside a row, libjpeg takes zeros from there on: the row's last differences to the
prediction are all alike, in front of them stands one code word of which the data hold only a part,
and what comes before is in the data whole. Rows behind that one are of one middle grey. So the
last row is coded again, and looked up at the end of the data. Where rows of one value are the
last, as outside of a collimated field, so is the row in front of them, with all that follows.

Source: ITU-T T.81, C.2 (code words), H.1.2.1 (prediction), H.1.2.2 (differences).
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import SCAN, jpeg_markers

_LOSSLESS, _TABLES, _RESTART_INTERVAL = 0xC3, 0xC4, 0xDD
_END = b"\xff\xd9"
# Of a Huffman table: class and destination, and how many codes of each length it has.
_TABLE_HEAD = 17
_MARKER = re.compile(rb"\xff[^\0]", re.DOTALL)
# So many of the row's last samples are looked up: noise makes far fewer unmistakable, and behind a
# dark border there may be hundreds of one value.
_SAMPLES = 2048
# Of flat rows: as text they take a byte each, more than once.
_MOST_BITS = 1 << 23
# Of a sample: a code word of 16 bits and 15 bits more, and a stuffed byte behind each.
_MOST_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Coding:
    """How a scan of one component is coded, and where its data start.

    Attributes:
        predictor: 1 to 7.
        middle: Value of rows that libjpeg has no data for.
        codes: Code word of each magnitude category, as text of 0 and 1.
        start: Offset in the frame.
    """

    predictor: int
    middle: int
    codes: dict[int, str]
    start: int


def holds_last_row(frame: bytes, decoded: NDArray[Any]) -> bool:
    """Whether the data are certain to have lasted to the last sample.

    Args:
        frame: A JPEG that was decoded.
        decoded: Its image, shape (rows, columns[, samples]).

    Returns:
        False where that cannot be told: for a row that ends in a pattern or is made up, and for a
        JPEG that is not lossless or has several components, restarts or a point transform.
    """
    coding = _read_coding(frame)
    if coding is None or decoded.ndim != 2 or min(decoded.shape) < 2:
        return False
    last = _last_varied_row(decoded)
    flat = decoded[last + 1 :]
    if last < 1 or (flat.size and int(flat[0, 0]) == coding.middle):
        return False
    differences = _differences(decoded[last - 1 : last + 1, -1 - _SAMPLES :], coding.predictor)
    try:
        row_words = _code_words(differences, coding.codes)
        flat_words = _flat_words(decoded[last : last + 2], len(flat), coding) if flat.size else ""
    except KeyError:
        return False
    if flat_words is None:
        return False
    # Samples are stored modulo their type, and so are those differences that were made up.
    wrapped = differences.astype(decoded.dtype)
    alike = int((wrapped[::-1] != wrapped[-1]).argmax()) or wrapped.size
    certain = "".join(row_words[: -1 - alike])
    doubtful = "".join(row_words[-1 - alike :]) + flat_words
    # A stuffed byte may be behind each one.
    most = 2 * len(doubtful) // 8 + _MOST_BYTES * _SAMPLES
    data = _last_bits(frame, coding.start, most)
    # Behind what the data surely hold something else would stand had they ended there.
    at = data.find(certain)
    return at == data.rfind(certain) and data.startswith(certain + doubtful, max(at, 0))


def _last_varied_row(decoded: NDArray[Any]) -> int:
    """The row in front of the last ones that are of one and the same value; -1 if all are."""
    value = decoded[-1, 0]
    for number in range(len(decoded) - 1, -1, -1):
        if (decoded[number] != value).any():
            return number
    return -1


def _flat_words(rows: NDArray[Any], count: int, coding: _Coding) -> str | None:
    """The code of `count` rows of one value, the second of two rows and those behind it.

    None where it is too long to be looked up.
    """
    first = int(rows[1, 0]) - int(rows[0, 0])  # the first sample is predicted by the one above
    differences = [_wrapped(np.array([first])), _differences(rows, coding.predictor)]
    words = _code_words(np.concatenate(differences), coding.codes)
    zeros: int = rows.shape[1] * (count - 1)
    if zeros * len(coding.codes[0]) > _MOST_BITS:
        return None
    return "".join(words) + coding.codes[0] * zeros


def _read_coding(frame: bytes) -> _Coding | None:
    """What stands in front of the first scan, None if it is of another kind."""
    tables: dict[int, dict[int, str]] = {}
    middle = None
    for code, position in jpeg_markers(frame):
        end = position + 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
        segment = frame[position + 4 : end]
        if code == _LOSSLESS:
            middle = 1 << (segment[0] - 1) if segment and 2 <= segment[0] <= 16 else None
        elif code == _TABLES:
            tables |= _read_tables(segment)
        elif code == _RESTART_INTERVAL and any(segment):
            return None
        elif code == SCAN:
            components, _, selectors, predictor, _, transform = segment[:6].ljust(6, b"\0")
            if middle is None or components != 1 or transform:
                return None
            return _Coding(predictor, middle, tables.get(selectors >> 4, {}), end)
    return None


def _read_tables(segment: bytes) -> dict[int, dict[int, str]]:
    """Code words by category, of each Huffman table in a segment (T.81 B.2.4.2, C.2)."""
    tables = {}
    while len(segment) > _TABLE_HEAD:
        codes: dict[int, str] = {}
        code = 0
        categories = iter(segment[_TABLE_HEAD:])
        for length, count in enumerate(segment[1:_TABLE_HEAD], 1):
            for category in itertools.islice(categories, count):
                codes[category] = f"{code:0{length}b}"
                code += 1
            code <<= 1
        tables[segment[0]] = codes
        segment = segment[_TABLE_HEAD + sum(segment[1:_TABLE_HEAD]) :]
    return tables


def _differences(rows: NDArray[Any], predictor: int) -> NDArray[np.int64]:
    """Differences to the prediction in the second of two rows, but for its first sample."""
    last = rows.astype(np.int64)
    upper_left, above, left = last[0, :-1], last[0, 1:], last[1, :-1]
    predictions = {
        1: left,
        2: above,
        3: upper_left,
        4: left + above - upper_left,
        5: left + ((above - upper_left) >> 1),
        6: above + ((left - upper_left) >> 1),
        7: (left + above) >> 1,
    }
    return _wrapped(last[1, 1:] - predictions.get(predictor, left))


def _wrapped(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Modulo 2**16, where -2**15 does not exist and 2**15 does."""
    wrapped: NDArray[np.int64] = (differences + 0x7FFF) % 0x10000 - 0x7FFF
    return wrapped


def _code_words(differences: NDArray[np.int64], codes: dict[int, str]) -> list[str]:
    """The code of each difference, as text of 0 and 1.

    Raises:
        KeyError: The table has no such category.
    """
    words = {number: _code_word(number, codes) for number in set(differences.tolist())}
    return [words[number] for number in differences.tolist()]


def _code_word(difference: int, codes: dict[int, str]) -> str:
    """The code of the category, and the bits that tell the difference within it."""
    category = abs(difference).bit_length()
    if category in (0, 16):
        return codes[category]
    within = (difference - (difference < 0)) & ((1 << category) - 1)
    return f"{codes[category]}{within:0{category}b}"


def _last_bits(frame: bytes, start: int, most: int) -> str:
    """Bits of the last bytes in front of the end marker; none if another marker is there."""
    end = frame.rfind(_END)
    tail = frame[max(start, end - most) : end].rstrip(b"\xff")
    if _MARKER.search(tail):
        return ""
    plain = tail.replace(b"\xff\0", b"\xff")
    return f"{int.from_bytes(plain, 'big'):0{8 * len(plain)}b}"
