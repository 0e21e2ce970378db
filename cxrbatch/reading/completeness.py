"""Whether the data of a JPEG lasted to the end of its image.

Where they do not, libjpeg warns, goes on with zeros, and returns a whole image whose end is grey.
The warning does not reach Python, so the question is put by experiment: other bytes behind the
data of a scan change the image exactly if the decoder had to go on reading there.

Source: ITU-T T.81, B.1.1 (markers), H.1.2.1 (predictors of lossless JPEG).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codestreams import SCAN, jpeg_markers
from cxrbatch.reading.jpeg_scans import list_scans, padded

# What a decoder makes of these differs from what it makes of zeros, and if by a rare chance one
# does not, the other does: libjpeg's own word on 2,900 shortened files was met but once less.
_OTHER_BYTES = (b"\xaa" * 32, bytes(range(0xFE, 0, -0x22)) * 4)
_LOSSLESS, _TABLES = 0xC3, 0xC4
# Class and destination of a Huffman table, and how many codes of each length it has.
_TABLE_HEAD = 17


def ran_out(
    frame: bytes, decoded: NDArray[Any], *, decode: Callable[[bytes], NDArray[Any]]
) -> bool:
    """Whether the decoder ran out of data.

    Args:
        frame: A JPEG whose markers were checked and which has an end marker.
        decoded: What `decode` made of it, shape (rows, columns[, samples]).
        decode: A decoder of the libjpeg family; its own refusals pass through.

    Raises:
        ReadingError: `truncated` without an end marker, `corrupt` where markers are missing.
    """
    if not _may_have_run_out(frame, decoded):
        return False
    scans = list_scans(frame)
    return any(
        not np.array_equal(decode(padded(frame, scans, other)), decoded) for other in _OTHER_BYTES
    )


def _may_have_run_out(frame: bytes, decoded: NDArray[Any]) -> bool:
    """Spare most lossless frames, the large and slow ones, the second decoding.

    From where data end, all differences to the prediction are that of a code of zeros, or 0 from
    the next row on. Where the last two are neither, as in most images with noise, data lasted to
    the last pixel.
    """
    predictor, zeros = _last_scan(frame)
    if predictor is None or decoded.shape[0] < 2 or decoded.shape[1] < 3:
        return True
    corner = decoded[-2:, -3:].astype(np.int64)
    upper_left, above, left = corner[0, :2], corner[0, 1:], corner[1, :2]
    predictions = {
        1: left,
        2: above,
        3: upper_left,
        4: left + above - upper_left,
        5: left + ((above - upper_left) >> 1),
        6: above + ((left - upper_left) >> 1),
        7: (left + above) >> 1,
    }
    differences = corner[1, 1:] - predictions.get(predictor, left)
    return bool(
        (differences[0] == differences[1]).all() or np.isin(differences[1], list(zeros)).any()
    )


def _last_scan(frame: bytes) -> tuple[int | None, set[int]]:
    """The predictor of a lossless JPEG, None for others, and the differences of codes of zeros."""
    is_lossless = False
    zeros: set[int] = set()
    for code, position in jpeg_markers(frame):
        is_lossless |= code == _LOSSLESS
        if code == _TABLES:
            length = int.from_bytes(frame[position + 2 : position + 4], "big")
            zeros |= _zero_codes(frame[position + 4 : position + 2 + length])
        if code == SCAN:
            predictor = frame[position + 5 + 2 * frame[position + 4]]
            return (predictor if is_lossless else None), zeros
    return None, zeros


def _zero_codes(tables: bytes) -> set[int]:
    """Of each Huffman table the difference that its first code, of zeros, and more zeros stand for.

    Source: T.81 B.2.4.2 (tables), H.1.2.2 (magnitude categories).
    """
    found = set()
    while len(tables) > _TABLE_HEAD:
        category = tables[_TABLE_HEAD]
        found.add(1 - (1 << category) if category < 16 else -(1 << 15))
        tables = tables[_TABLE_HEAD + sum(tables[1:_TABLE_HEAD]) :]
    return found
