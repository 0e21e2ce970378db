"""Finds out whether the data of a JPEG lasted to the end of its image.

libjpeg fills what is missing with zeros and only warns. For most JPEGs the frame is decoded again
with other bytes in place of what may be missing. For a lossless one that would take twice the time,
so its last row is coded anew and looked up at the end of the data.

Where data end inside a row, libjpeg takes zeros from there on: the row's last differences to the
prediction are all alike, in front of them stands one code word of which the data hold only a part,
and what comes before is in the data whole. Rows after that one are of one middle grey. If the last
rows are of one value, as outside of a collimated field, the row in front of them is looked up too,
with all that follows.

Source: ITU-T T.81, C.2 (code words), H.1.2.1 (prediction), H.1.2.2 (differences).
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import (
    END,
    SCAN,
    JpegScan,
    jpeg_markers,
    list_scans,
    read_jpeg_header,
)
from cxrbatch.reading.outcomes import ReadingError

# Baseline, extended and progressive, by Huffman codes: libjpeg warns when their data run out.
_HUFFMAN = (0xC0, 0xC1, 0xC2)
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]", re.DOTALL)
# What a decoder makes of these differs from what it makes of zeros. The second is for the rare case
# that the first makes no difference: on 2,900 shortened files libjpeg's own warning was met but
# once less.
_OTHER_BYTES = (b"\xaa" * 32, bytes(range(0xFE, 0, -0x22)) * 4)
_LOSSLESS, _TABLES, _RESTART_INTERVAL = 0xC3, 0xC4, 0xDD
# Of a Huffman table: class and destination, and how many codes of each length it has.
_TABLE_HEAD = 17
_MARKER = re.compile(rb"\xff[^\0]", re.DOTALL)
# So many of the row's last samples are looked up: noise makes far fewer unmistakable, and after a
# dark border there may be hundreds of one value.
_SAMPLES = 2048
# Longest code of flat rows that is looked up: as text each bit takes a byte, more than once.
_MOST_BITS = 1 << 23
# Of a sample: a code word of 16 bits and 15 bits more, and a stuffed byte after each.
_MOST_BYTES = 8


def decode_faultless_jpeg(frame: bytes, *, rows: int, columns: int) -> NDArray[np.uint8] | None:
    """Decode a grey JPEG of 8 bits in which libjpeg finds no fault.

    libjpeg warns when data run out, and of other faults; simplejpeg turns its warnings into errors.
    This takes a quarter of the time of `imagecodecs` and `is_cut_short`.

    Args:
        frame: A JPEG whose size was checked.
        rows: Height to decode to, in pixels: the frame's, or that halved up to 3 times and rounded
            up, for which the decoder leaves out the higher frequencies of each block.
        columns: Width to decode to, in pixels: the frame's, halved as often as the height.

    Returns:
        The samples, shape (rows, columns); None for a JPEG of another kind, with a fault or of
        another size, which must be decoded by other means.
    """
    try:
        list_scans(frame)
        header = read_jpeg_header(frame)
        if header.process not in _HUFFMAN or (header.samples, header.precision) != (1, 8):
            return None
        samples: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            frame, "GRAY", min_height=rows, min_width=columns
        )
    except (ReadingError, ValueError):
        return None
    return samples[..., 0] if samples.shape == (rows, columns, 1) else None


def is_cut_short(
    frame: bytes, decoded: NDArray[Any], *, decode: Callable[[bytes], NDArray[Any]]
) -> bool:
    """Whether a decoder ran out of data before its image was complete.

    The frame is decoded again with other bytes after its data: if that changes the image, the
    decoder has read beyond the data. For a lossless JPEG `has_last_row` may decide without that.

    Args:
        frame: A JPEG whose markers were checked and which has an end marker.
        decoded: What `decode` returned for it, shape (rows, columns[, samples]).
        decode: A decoder of the libjpeg family; the errors that it raises pass through.

    Raises:
        ReadingError: Behind the first scan the end (`truncated`) or a marker (`corrupt`) lacks.
    """
    if has_last_row(frame, decoded):
        return False
    scans = list_scans(frame)
    return any(
        not np.array_equal(decode(pad_scans(frame, scans, other)), decoded)
        for other in _OTHER_BYTES
    )


def pad_scans(frame: bytes, scans: list[JpegScan], padding: bytes) -> bytes:
    """Return a JPEG with `padding` inserted in front of each marker that ends or divides a scan.

    A decoder that lacks data reads the padding instead; to any other it changes nothing. As a
    decoder that waits for a restart marker passes over everything else, the eight restart markers
    are inserted too at the end of each scan, each followed by `padding`. Outside a scan they mean
    nothing (T.81 B.1.1.2).

    Args:
        frame: The JPEG.
        scans: Its scans, as `list_scans` returns them.
        padding: Bytes without a marker.
    """
    restarts = b"".join(bytes((0xFF, code)) + padding for code in range(0xD0, 0xD8))
    parts = []
    last = 0
    for scan in scans:
        # Fill bytes belong to the marker: between them the padding would become one.
        data = frame[scan.start : scan.end].rstrip(b"\xff")
        divided = _RESTART.sub(padding + rb"\g<0>", data)
        parts += [frame[last : scan.start], divided, padding, restarts]
        last = scan.start + len(data)
    return b"".join((*parts, frame[last:]))


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


def has_last_row(frame: bytes, decoded: NDArray[Any]) -> bool:
    """Whether the data of a lossless JPEG certainly last to the last sample.

    The code of the last row that varies, and of all rows after it, is looked up at the end of the
    data.

    Args:
        frame: A JPEG that was decoded.
        decoded: Its image, shape (rows, columns[, samples]).

    Returns:
        True only if it is certain. False where the data may end early: for a row that ends in a
        pattern or is made up, and for a JPEG that is not lossless or has several components,
        restarts or a point transform.
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
    # A stuffed byte may be after each one.
    most = 2 * len(doubtful) // 8 + _MOST_BYTES * _SAMPLES
    data = _last_bits(frame, coding.start, most)
    # Had the data ended there, something else would stand after what they surely hold.
    at = data.find(certain)
    return at == data.rfind(certain) and data.startswith(certain + doubtful, max(at, 0))


def _last_varied_row(decoded: NDArray[Any]) -> int:
    """Number of the row in front of the last rows of one single value; -1 if all rows are."""
    value = decoded[-1, 0]
    for number in range(len(decoded) - 1, -1, -1):
        if (decoded[number] != value).any():
            return number
    return -1


def _flat_words(rows: NDArray[Any], count: int, coding: _Coding) -> str | None:
    """The code of `count` rows of one value, or None if it is too long to be looked up.

    Args:
        rows: The row in front of them and the first of them.
        count: How many rows there are.
        coding: How they are coded.
    """
    first = int(rows[1, 0]) - int(rows[0, 0])  # the first sample is predicted by the one above
    differences = [_wrapped(np.array([first])), _differences(rows, coding.predictor)]
    words = _code_words(np.concatenate(differences), coding.codes)
    zeros: int = rows.shape[1] * (count - 1)
    if zeros * len(coding.codes[0]) > _MOST_BITS:
        return None
    return "".join(words) + coding.codes[0] * zeros


def _read_coding(frame: bytes) -> _Coding | None:
    """Read the coding of the first scan; None if it is not lossless or has what is not handled."""
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
    """Modulo 2**16, in a range without -2**15 and with 2**15."""
    wrapped: NDArray[np.int64] = (differences + 0x7FFF) % 0x10000 - 0x7FFF
    return wrapped


def _code_words(differences: NDArray[np.int64], codes: dict[int, str]) -> list[str]:
    """The code of each difference, as text of 0 and 1: its category, then its place in that.

    Raises:
        KeyError: The table has no such category.
    """
    words = {}
    for difference in set(differences.tolist()):
        category = abs(difference).bit_length()
        words[difference] = codes[category]
        if category not in (0, 16):
            within = (difference - (difference < 0)) & ((1 << category) - 1)
            words[difference] += f"{within:0{category}b}"
    return [words[difference] for difference in differences.tolist()]


def _last_bits(frame: bytes, start: int, most: int) -> str:
    """Bits of the last bytes in front of the end marker; none if another marker is there."""
    end = frame.rfind(END)
    tail = frame[max(start, end - most) : end].rstrip(b"\xff")
    if _MARKER.search(tail):
        return ""
    plain = tail.replace(b"\xff\0", b"\xff")
    return f"{int.from_bytes(plain, 'big'):0{8 * len(plain)}b}"
