"""Whether the data of a JPEG lasted to the end of its image.

Where they do not, libjpeg warns, goes on with zeros, and returns a whole image whose end is grey.
The warning does not reach Python, so the question is put by experiment: other bytes behind the
data change the image exactly if the decoder had to go on reading there.

Source: ITU-T T.81, B.1.1 (markers), H.1.2.1 (predictors of lossless JPEG).
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codestreams import jpeg_markers

_END = b"\xff\xd9"
_OTHER_BYTES = bytes([0x5A]) * 256
_LOSSLESS, _SCAN = 0xC3, 0xDA


def ran_out(
    frame: bytes, decoded: NDArray[Any], *, decode: Callable[[bytes], NDArray[Any]]
) -> bool:
    """Whether the decoder ran out of data.

    Args:
        frame: A JPEG whose markers were checked and which has an end marker.
        decoded: What `decode` made of it, shape (rows, columns[, samples]).
        decode: A decoder of the libjpeg family.
    """
    if not _may_have_run_out(frame, decoded):
        return False
    end = frame.rindex(_END)
    # Any number of 0xFF may stand in front of a marker and belongs to it.
    while frame[end - 1] == 0xFF:
        end -= 1
    other = decode(frame[:end] + _OTHER_BYTES + frame[end:])
    return not np.array_equal(other, decoded)


def _may_have_run_out(frame: bytes, decoded: NDArray[Any]) -> bool:
    """Spare most lossless frames, the large and slow ones, the second decoding.

    From where data end, all differences to the prediction are the same number. Where the last two
    are not, as in nearly every image with noise, data lasted to the last pixel but one.
    """
    markers = dict(jpeg_markers(frame))
    if _LOSSLESS not in markers or min(decoded.shape[:2]) < 2 or decoded.shape[1] < 3:
        return True
    components = frame[markers[_SCAN] + 4]
    predictor = struct.unpack_from("B", frame, markers[_SCAN] + 5 + 2 * components)[0]
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
    return bool((differences[0] == differences[1]).all())
