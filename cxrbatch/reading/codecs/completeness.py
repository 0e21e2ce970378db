"""Whether the data of a JPEG lasted to the end of its image.

Where they do not, libjpeg warns, goes on with zeros, and returns a whole image whose end is grey.
The warning does not reach Python, so the question is put by experiment: other bytes behind the
data of a scan change the image exactly if the decoder had to go on reading there. Lossless JPEG,
large and slow, is spared it where its last row shows as much.

Source: ITU-T T.81, B.1.1 (markers).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codecs.jpeg import list_scans, padded
from cxrbatch.reading.codecs.lossless_jpeg import holds_last_row

# What a decoder makes of these differs from what it makes of zeros, and if by a rare chance one
# does not, the other does: libjpeg's own word on 2,900 shortened files was met but once less.
_OTHER_BYTES = (b"\xaa" * 32, bytes(range(0xFE, 0, -0x22)) * 4)


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
    if holds_last_row(frame, decoded):
        return False
    scans = list_scans(frame)
    return any(
        not np.array_equal(decode(padded(frame, scans, other)), decoded) for other in _OTHER_BYTES
    )
