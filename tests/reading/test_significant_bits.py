"""PNGs of 16 bits whose samples use fewer: shown over what they use, and never in silence."""

import io

import numpy as np
import pytest
from makers import make_png, png_chunk
from PIL import Image

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes

RNG = np.random.default_rng(72)
BEHIND_HEADER = 8 + 25


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, options or ReadingOptions())
    assert reading.outcome is Outcome.SCORED
    return reading


def with_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    return data[:BEHIND_HEADER] + png_chunk(name, body) + data[BEHIND_HEADER:]


def png16(values: np.ndarray, sbit: int | None = None, colour_type: int = 0) -> bytes:
    data = make_png(values.astype(np.uint16), depth=16, colour_type=colour_type)
    channels = 1 if values.ndim == 2 else values.shape[2]
    return data if sbit is None else with_chunk(data, b"sBIT", bytes([sbit]) * channels)


def shown(data: bytes, options: ReadingOptions | None = None) -> np.ndarray:
    display = read(data, options).display
    assert display is not None
    return display


@pytest.mark.parametrize("size", [(40, 50), (400, 410)], ids=["small", "large"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_unscaled_samples_are_shown_over_the_bits_that_sbit_names(
    bits: int, size: tuple[int, int]
) -> None:
    values = RNG.integers(0, 1 << bits, size)
    reading = read(png16(values, sbit=bits))
    np.testing.assert_allclose(reading.display, values / ((1 << bits) - 1), atol=1e-6)
    assert reading.flags == (Flag.NONCONFORMING,)
    assert "sBIT" in reading.detail
    assert reading.facts.bits_stored == bits
    # Dark samples are no reason to show them brighter than they are: sBIT names the range.
    np.testing.assert_allclose(
        shown(png16(values // 2, sbit=bits)), shown(png16(values, bits)) / 2, atol=1 / (1 << bits)
    )


@pytest.mark.parametrize("way", ["shifted", "repeated", "multiplied"])
@pytest.mark.parametrize("bits", [3, 5, 10, 12, 13])
def test_samples_that_were_scaled_up_are_shown_as_pillow_has_them(bits: int, way: str) -> None:
    # The specification's two ways of scaling (section 13.12), and the plain shift.
    for values in (RNG.integers(0, 1 << bits, (40, 50)), RNG.integers(0, 1 << bits, (40, 50)) // 2):
        text = [format(value, f"0{bits}b") for value in values.reshape(-1)]
        scaled = {
            "shifted": values << (16 - bits),
            "repeated": np.array([int((bit * 16)[:16], 2) for bit in text]).reshape(values.shape),
            "multiplied": np.rint(values * 65535 / ((1 << bits) - 1)).astype(int),
        }[way]
        data = png16(scaled, sbit=bits)
        reading = read(data)
        by_pillow = np.asarray(Image.open(io.BytesIO(data))) / 65535
        np.testing.assert_allclose(reading.display, by_pillow, atol=1e-6)
        assert reading.flags == ()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
def test_without_sbit_the_policy_of_a_dicom_without_window_holds(bits: int) -> None:
    values = RNG.integers(0, 1 << bits, (40, 50))
    values[0, 0] = (1 << bits) - 1
    values[1] = 0
    reading = read(png16(values))
    assert reading.flags == (Flag.NO_VOI,)
    assert reading.facts.voi_source == "none_robust"
    ordered = np.sort(values.reshape(-1))
    low, high = ordered[9], ordered[-10]  # by nearest rank, 0.5 % of 2,000 pixels at either end
    robust = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_allclose(reading.display, robust, atol=1e-6)
    full = read(png16(values), ReadingOptions(no_voi="full_range"))
    assert full.facts.voi_source == "none_full_range"
    assert full.flags == (Flag.NO_VOI,)
    np.testing.assert_allclose(full.display, values / ((1 << bits) - 1), atol=1e-6)


def test_colours_and_alpha_are_shown_as_their_grey_twin() -> None:
    grey = RNG.integers(0, 4096, (40, 50))
    opaque = np.full_like(grey, 65535)
    for sbit in (None, 12):
        twin = shown(png16(grey, sbit))
        for channels, kind in (([grey] * 3, 2), ([grey, opaque], 4), ([grey] * 3 + [opaque], 6)):
            data = png16(np.stack(channels, axis=2), sbit, colour_type=kind)
            np.testing.assert_allclose(shown(data), twin, atol=1e-6)


@pytest.mark.parametrize("sbit", [b"\0", b"\x11", b"", b"\x0c\x0c", b"\x10"])
def test_an_sbit_that_names_no_range_is_as_none(sbit: bytes) -> None:
    for most in (4096, 65536):
        data = png16(RNG.integers(0, most, (40, 50)))
        with_sbit, without = read(with_chunk(data, b"sBIT", sbit)), read(data)
        np.testing.assert_array_equal(with_sbit.display, without.display)
        assert with_sbit.flags == without.flags


@pytest.mark.parametrize("sbit", [None, 12])
@pytest.mark.parametrize("marker", [4096, 32768, 65535])
def test_a_marker_does_not_make_the_picture_black(marker: int, sbit: int | None) -> None:
    values = RNG.integers(0, 4096, (40, 50))
    values[:3, :3] = marker
    reading = read(png16(values, sbit))
    display = reading.display
    assert display is not None
    assert display[:3, :3].min() == 1
    np.testing.assert_allclose(display, np.minimum(values / 4095, 1), atol=0.01)
    assert reading.flags == ((Flag.NO_VOI,) if sbit is None else (Flag.NONCONFORMING,))


def test_an_sbit_that_the_samples_contradict_is_as_none() -> None:
    values = RNG.integers(0, 4096, (40, 50))
    with_sbit, without = read(png16(values, sbit=10)), read(png16(values))
    np.testing.assert_array_equal(with_sbit.display, without.display)
    assert with_sbit.flags == (Flag.NO_VOI,)


def test_samples_that_fit_into_the_bits_of_sbit_are_not_taken_for_dark_ones() -> None:
    values = RNG.integers(0, 256, (40, 50)) << 4  # of 8 bits in 12; scaled to 16 they were black
    reading = read(png16(values, sbit=12))
    np.testing.assert_allclose(reading.display, values / 4095, atol=1e-6)
    assert reading.flags == (Flag.NONCONFORMING,)


def test_unscaled_alpha_is_opaque_too() -> None:
    grey = RNG.integers(0, 4096, (40, 50))
    data = png16(np.stack([grey, np.full_like(grey, 4095)], axis=2), 12, colour_type=4)
    np.testing.assert_allclose(shown(data), grey / 4095, atol=1e-6)


@pytest.mark.parametrize("value", [0, 1, 4095, 32767, 32768, 65535])
def test_one_grey_level_gives_no_error(value: int) -> None:
    for sbit in (None, 12):
        assert np.ptp(shown(png16(np.full((9, 9), value), sbit))) == 0
