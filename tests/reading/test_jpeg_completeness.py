"""Lossless JPEG whose data end early, against a second decoding and against the image itself."""

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import list_scans
from cxrbatch.reading.codecs.jpeg_completeness import has_last_row, is_cut_short, pad_scans

END = b"\xff\xd9"
FLAT = np.full((20, 30), 7, np.uint16)


def noisy(bits: int, noise: int = 8) -> NDArray[np.unsignedinteger]:
    values = np.random.default_rng(noise).integers(0, noise, (20, 30))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def encode(cells: NDArray[np.generic], *, predictor: int = 1, bits: int = 12) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(cells, lossless=True, predictor=predictor, bitspersample=bits)
    )


def needs_more(frame: bytes, decoded: NDArray[np.generic]) -> bool:
    """Whether other bytes behind the data change the image."""
    scans = list_scans(frame)
    return any(
        not np.array_equal(imagecodecs.jpeg8_decode(pad_scans(frame, scans, other)), decoded)
        for other in (b"\xaa" * 32, b"\xcc" * 32, b"\x7f" * 32)
    )


@pytest.mark.parametrize("noise", [2, 3, 8, 200])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_each_of_the_last_bytes_is_missed(predictor: int, bits: int, noise: int) -> None:
    cells = noisy(bits, noise)
    whole = encode(cells, predictor=predictor, bits=bits)
    assert has_last_row(whole, cells)
    refused = 0
    for cut in range(1, 65):
        for ending in (b"", b"\0", b"\x7f"):
            frame = whole[: -2 - cut].rstrip(b"\xff") + ending + END
            decoded = imagecodecs.jpeg8_decode(frame)
            is_short = needs_more(frame, decoded)
            assert is_cut_short(frame, decoded, decode=imagecodecs.jpeg8_decode) == is_short
            refused += is_short
    assert refused > 180


@pytest.mark.parametrize(("cells", "times"), [(noisy(12), 0), (FLAT, 2)])
def test_only_what_its_last_row_does_not_show_is_decoded_again(
    cells: NDArray[np.uint16], times: int
) -> None:
    decoded = []

    def decode(frame: bytes) -> NDArray[np.uint16]:
        decoded.append(imagecodecs.jpeg8_decode(frame))
        return decoded[-1]

    assert not is_cut_short(encode(cells), cells, decode=decode)
    assert len(decoded) == times


def test_a_row_that_ends_alike_shows_it_by_what_comes_before() -> None:
    cells = noisy(12)
    cells[:, 12:] = 0
    assert has_last_row(encode(cells), cells)


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("value", [0, 7, 2048, 4095])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_flat_last_rows_are_counted(predictor: int, value: int, rows: int) -> None:
    """As outside of a collimated field; the middle grey is what rows without data have too."""
    cells = noisy(12)
    cells[-rows:] = value
    whole = encode(cells, predictor=predictor)
    assert has_last_row(whole, cells) == (value != 2048)
    refused = 0
    for cut in range(1, 120):
        for ending in (b"", b"\0", b"\x7f"):
            frame = whole[: -2 - cut].rstrip(b"\xff") + ending + END
            decoded = imagecodecs.jpeg8_decode(frame)
            if has_last_row(frame, decoded):
                assert not needs_more(frame, decoded)
            else:
                refused += 1
    assert refused > 300


def test_flat_rows_without_end_are_left_to_the_decoder() -> None:
    """Their code would take more memory than the image."""
    cells = np.full((5_000, 4_000), 7, np.uint16)
    cells[1] = np.random.default_rng(0).integers(0, 11, 4_000)
    assert not has_last_row(encode(cells), cells)
    assert has_last_row(encode(cells[:500]), cells[:500])


@pytest.mark.parametrize("tail", [b"\xff\xd0", b"\xff\xff"])
def test_a_marker_within_the_data_is_left_to_the_decoder(tail: bytes) -> None:
    frame = encode(noisy(12))
    assert not has_last_row(frame[:-20] + tail + frame[-20:], noisy(12))


def test_other_codings_are_left_to_the_decoder() -> None:
    cells = noisy(12)
    frame = encode(cells)
    start = frame.index(b"\xff\xda")
    assert has_last_row(frame, cells)
    assert not has_last_row(frame[:start] + b"\xff\xdd\0\4\0\x1e" + frame[start:], cells)
    shifted = frame[: start + 9] + b"\1" + frame[start + 10 :]
    assert not has_last_row(shifted, cells)
    colour = np.stack([noisy(8)] * 3, axis=-1)
    assert not has_last_row(encode(colour, bits=8), colour)
    lossy = bytes(imagecodecs.jpeg8_encode(noisy(8)))
    assert not has_last_row(lossy, imagecodecs.jpeg8_decode(lossy))
    assert not has_last_row(encode(cells[:1]), cells[:1])
