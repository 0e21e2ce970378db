"""Grey levels from DICOM headers against the standard's formulas, written out value by value."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from makers import BIG_ENDIAN, EXPLICIT, IMPLICIT, make_dicom, make_lut, ramp

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes

CENTER, WIDTH, FUNCTION = 0x00281050, 0x00281051, 0x00281056
INTERCEPT, SLOPE = 0x00281052, 0x00281053
MODALITY_LUT, VOI_LUT = 0x00283000, 0x00283010
SHAPE = 0x20500020


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, options or ReadingOptions())
    assert reading.outcome is Outcome.SCORED, reading.detail
    return reading


def window(center: object, width: object, function: str | None = None) -> dict:
    elements = {CENTER: ("DS", center), WIDTH: ("DS", width)}
    return elements | ({FUNCTION: ("CS", function)} if function is not None else {})


def linear(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.2.1, as it is printed."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.3.2."""
    if x <= c - w / 2:
        return 0.0
    if x > c + w / 2:
        return 1.0
    return (x - c) / w + 0.5


def sigmoid(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.3.1."""
    return 1 / (1 + math.exp(min(700, -4 * (x - c) / w)))


def expected(values: np.ndarray, formula: Callable[[float], float]) -> np.ndarray:
    return np.vectorize(formula, otypes=[float])(values.astype(float))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (600, 900), (0.5, 2), (100, 1)])
@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (None, linear),
        ("", linear),
        ("LINEAR", linear),
        ("LINEAR_EXACT", linear_exact),
        ("SIGMOID", sigmoid),
    ],
)
def test_windows(
    function: str | None,
    formula: Callable[[float, float, float], float],
    center: float,
    width: float,
    signed: bool,
) -> None:
    values = ramp().astype(np.int32) - (2048 if signed else 0)
    cells = (values & 0xFFFF).astype(np.uint16)
    data = make_dicom(cells, signed=signed, elements=window(center, width, function))
    reading = read(data)
    np.testing.assert_allclose(
        reading.display, expected(values, lambda x: formula(x, center, width)), atol=1e-6
    )
    assert reading.facts.voi_source == f"window_{(function or 'LINEAR').lower()}"
    assert reading.flags == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_one_inversion(photometric: str, shape: str | None) -> None:
    elements = window(2048, 4096) | ({SHAPE: ("CS", shape)} if shape else {})
    display = read(make_dicom(ramp(), photometric=photometric, elements=elements)).display
    upright = expected(ramp(), lambda x: linear(x, 2048, 4096))
    # The presentation LUT shape, where there is one, says the same; DCMTK follows it.
    inverted = shape == "INVERSE" or (shape is None and photometric == "MONOCHROME1")
    np.testing.assert_allclose(display, 1 - upright if inverted else upright, atol=1e-6)


def test_contradictory_polarity_is_said() -> None:
    elements = window(2048, 4096) | {SHAPE: ("CS", "IDENTITY")}
    assert (
        "contradict"
        in read(make_dicom(ramp(), photometric="MONOCHROME1", elements=elements)).detail
    )


@pytest.mark.parametrize(
    ("signed", "slope", "intercept"),
    [(False, 2, -100), (False, 0.5, 7), (True, -1, 0), (True, 3, 9)],
)
def test_rescale_comes_before_the_window(signed: bool, slope: float, intercept: float) -> None:
    values = ramp().astype(np.int32) - (2048 if signed else 0)
    elements = window(500, 1500) | {SLOPE: ("DS", slope), INTERCEPT: ("DS", intercept)}
    data = make_dicom((values & 0xFFFF).astype(np.uint16), signed=signed, elements=elements)
    formula = expected(values * slope + intercept, lambda x: linear(x, 500, 1500))
    np.testing.assert_allclose(read(data).display, formula, atol=1e-6)


@pytest.mark.parametrize(
    ("entries", "first", "bits", "vr"),
    [
        ([x // 16 for x in range(4096)], 0, 8, "US"),  # entries narrower than the index
        (list(range(4096)), 0, 12, "US"),
        ([4095 - x for x in range(4096)], 0, 12, "US"),
        ([x * 20 for x in range(3000)], 500, 16, "US"),
        ([x * 10 for x in range(4196)], -100, 16, "SS"),
        ([0, 255], 2000, 8, "US"),
    ],
)
def test_voi_luts(entries: list[int], first: int, bits: int, vr: str) -> None:
    elements = {VOI_LUT: ("SQ", [make_lut(entries, first=first, bits=bits, vr=vr)])}
    reading = read(make_dicom(ramp(), elements=elements | window(1, 2)))
    index = np.clip(ramp().astype(int) - first, 0, len(entries) - 1)
    formula = np.minimum(np.array(entries), (1 << bits) - 1)[index] / ((1 << bits) - 1)
    np.testing.assert_allclose(reading.display, formula, atol=1e-6)
    assert reading.facts.voi_source == "voi_lut"


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
def test_packed_eight_bit_lut(transfer_syntax: str) -> None:
    item = make_lut([0] * 256, first=0, bits=8)
    item.add_new(0x00283006, "OW", bytes(255 - x for x in range(256)))
    data = make_dicom(
        ramp(bits=8),
        bits_stored=8,
        elements={VOI_LUT: ("SQ", [item])},
        transfer_syntax=transfer_syntax,
    )
    np.testing.assert_allclose(read(data).display, 1 - ramp(bits=8) / 255, atol=1e-6)


def test_modality_lut_of_the_full_signed_range() -> None:
    values = np.linspace(-32768, 32767, 2000).astype(np.int16).reshape(40, 50)
    entries = list(range(65536))
    elements = {
        MODALITY_LUT: ("SQ", [make_lut(entries, first=-32768, bits=16, vr="SS")]),
        **window(32768, 65536),
    }
    data = make_dicom(values.view(np.uint16), bits_stored=16, signed=True, elements=elements)
    formula = expected(values.astype(int) + 32768, lambda x: linear(x, 32768, 65536))
    np.testing.assert_allclose(read(data).display, formula, atol=1e-6)


def test_modality_lut_before_voi_lut_and_rescale_unused() -> None:
    elements = {
        MODALITY_LUT: ("SQ", [make_lut([4095 - x for x in range(4096)], first=0, bits=12)]),
        VOI_LUT: ("SQ", [make_lut([x // 2 for x in range(4096)], first=0, bits=12)]),
        SLOPE: ("DS", 9),
        INTERCEPT: ("DS", 9),
    }
    formula = (4095 - ramp().astype(int)) // 2 / 4095
    np.testing.assert_allclose(
        read(make_dicom(ramp(), elements=elements)).display, formula, atol=1e-6
    )


@pytest.mark.parametrize("signed", [False, True])
def test_other_bits_of_the_cell_do_not_count(signed: bool) -> None:
    values = ramp().astype(np.int32) - (2048 if signed else 0)
    noise = np.random.default_rng(3).integers(0, 16, values.shape)
    elements = window(0 if signed else 2048, 4096)
    expected_display = read(
        make_dicom((values & 0xFFFF).astype(np.uint16), signed=signed, elements=elements)
    ).display
    above = ((values & 0xFFF) | noise << 12).astype(np.uint16)
    np.testing.assert_array_equal(
        read(make_dicom(above, signed=signed, elements=elements)).display, expected_display
    )
    below = ((values & 0xFFF) << 4 | noise).astype(np.uint16)
    shifted = make_dicom(below, signed=signed, elements=elements | {0x00280102: ("US", 15)})
    np.testing.assert_array_equal(read(shifted).display, expected_display)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("limit", "count"), [(None, 1), (1010, 11), (990, 11)])
def test_padding_is_black_by_stored_value(photometric: str, limit: int | None, count: int) -> None:
    cells = np.arange(4000, dtype=np.uint16).reshape(40, 100)
    elements = window(1500, 4000) | {
        0x00280120: ("US", 1000),
        SLOPE: ("DS", 2),
        INTERCEPT: ("DS", 50),
    }
    elements |= {0x00280121: ("US", limit)} if limit is not None else {}
    plain = read(make_dicom(cells, photometric=photometric, elements=window(1500, 4000)))
    display = read(make_dicom(cells, photometric=photometric, elements=elements)).display
    assert display is not None
    assert plain.display is not None
    low, high = sorted((1000, 1000 if limit is None else limit))
    assert (display[(cells >= low) & (cells <= high)] == 0).all()
    assert high - low + 1 == count
    assert display[cells == low - 1] > 0


@pytest.mark.parametrize(
    "elements",
    [
        window("", ""),
        window(None, None),
        window(100, 0),
        window(100, -5),
        window(100, 0.5),
        {CENTER: ("DS", 100)},
        {VOI_LUT: ("SQ", [])},
        {VOI_LUT: ("SQ", [make_lut([1, 2, 3], first=0, bits=0)])},
        {SLOPE: ("DS", 0), INTERCEPT: ("DS", 5)},
        {SLOPE: ("DS", ""), INTERCEPT: ("DS", "")},
        {SLOPE: ("DS", 2)},
        {MODALITY_LUT: ("SQ", [])},
    ],
)
def test_invalid_transforms_are_as_absent_and_flagged(elements: dict) -> None:
    reading = read(make_dicom(ramp(), elements=elements))
    plain = read(make_dicom(ramp()))
    np.testing.assert_array_equal(reading.display, plain.display)
    assert reading.flags == (Flag.NO_VOI, Flag.VOI_IGNORED)
    assert plain.flags == (Flag.NO_VOI,)


def test_an_empty_voi_lut_leaves_the_window() -> None:
    reading = read(make_dicom(ramp(), elements=window(2048, 4096) | {VOI_LUT: ("SQ", [])}))
    np.testing.assert_allclose(
        reading.display, expected(ramp(), lambda x: linear(x, 2048, 4096)), atol=1e-6
    )
    assert reading.flags == (Flag.VOI_IGNORED,)


def test_the_first_of_several_windows_counts() -> None:
    data = make_dicom(ramp(), elements=window([600, 1], [900, 1]))
    formula = expected(ramp(), lambda x: linear(x, 600, 900))
    np.testing.assert_allclose(read(data).display, formula, atol=1e-6)


def test_the_robust_policy_sees_a_negative_as_the_negative() -> None:
    """Also where half a percent of the pixels is a whole number of them, and of sampled rows."""
    for shape in ((20, 20), (1100, 2000)):
        cells = np.random.default_rng(5).integers(0, 4096, shape).astype(np.uint16)
        positive = read(make_dicom(cells))
        negative = read(make_dicom(4095 - cells, photometric="MONOCHROME1"))
        assert positive.display is not None
        np.testing.assert_allclose(negative.display, positive.display, atol=1e-7)


def test_without_voi_the_robust_policy_clips_half_a_percent_at_each_end() -> None:
    cells = np.full((100, 100), 1000, np.uint16)
    cells[:50] = 2000
    cells[0, :40] = 65535
    cells[99, :40] = 0
    reading = read(make_dicom(cells, bits_stored=16))
    assert reading.facts.voi_source == "none_robust"
    assert reading.display is not None
    assert set(np.unique(reading.display)) == {0.0, 1.0}
    assert reading.display[99, 99] == 0
    assert reading.display[1, 0] == 1


def test_padding_has_no_part_in_the_percentiles() -> None:
    cells = np.linspace(1000, 2000, 10_000).astype(np.uint16).reshape(100, 100)
    plain = read(make_dicom(cells, bits_stored=16))
    framed = np.pad(cells, 50)
    padded = read(make_dicom(framed, bits_stored=16, elements={0x00280120: ("US", 0)}))
    assert padded.display is not None
    np.testing.assert_array_equal(padded.display[50:-50, 50:-50], plain.display)


def test_without_voi_full_range_and_eight_bits_keep_the_stored_range() -> None:
    deep = read(make_dicom(ramp() // 2), ReadingOptions(no_voi="full_range"))
    np.testing.assert_allclose(deep.display, (ramp() // 2) / 4095, atol=1.01 / 255)
    shallow = read(make_dicom((ramp(bits=8) // 2).astype(np.uint8), bits_stored=8))
    np.testing.assert_array_equal(shallow.display, (ramp(bits=8) // 2 / 255).astype(np.float32))
    assert shallow.facts.voi_source == deep.facts.voi_source == "none_full_range"


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_flat_image_has_finite_grey_levels(value: int) -> None:
    display = read(make_dicom(np.full((9, 9), value, np.uint16))).display
    assert display is not None
    assert np.isfinite(display).all()


@pytest.mark.parametrize(
    "elements",
    [
        {SLOPE: ("DS", "-1e299"), INTERCEPT: ("DS", "-1e299")},
        {SLOPE: ("DS", "1e99"), INTERCEPT: ("DS", "-1e99")},
        {SLOPE: ("DS", "5e-324"), INTERCEPT: ("DS", "0")},
        window("1", "1e-300", "SIGMOID"),
        window("5e-324", "5e-324", "LINEAR_EXACT"),
        window("-9e299", "9e299", "SIGMOID"),
        window("-1e99", "1e99"),
    ],
)
@pytest.mark.filterwarnings("error")  # a warning would turn the outcome into a failure
def test_extreme_numbers_give_finite_grey_levels(elements: dict) -> None:
    cells = ramp().astype(np.uint32) * 1_000_003
    for stored in (cells, ramp()):
        data = make_dicom(stored, bits_stored=8 * stored.itemsize, elements=elements)
        display = read(data).display
        assert display is not None
        assert display.min() >= 0
        assert display.max() <= 1


def test_an_inverted_twin_is_equal() -> None:
    first = read(make_dicom(ramp(), photometric="MONOCHROME1", elements=window(2000, 3001)))
    twin = read(make_dicom(4095 - ramp(), elements=window(4096 - 2000, 3001)))
    assert first.display is not None
    np.testing.assert_allclose(first.display, twin.display, atol=1e-6)


def test_thirty_two_bits_take_the_same_steps() -> None:
    cells = ramp().astype(np.uint32)
    deep = read(make_dicom(cells, bits_stored=12, elements=window(600, 900)))
    np.testing.assert_array_equal(
        deep.display, read(make_dicom(ramp(), elements=window(600, 900))).display
    )


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, BIG_ENDIAN])
def test_luts_in_other_encodings(transfer_syntax: str) -> None:
    lut = make_lut([4095 - x for x in range(4096)], first=0, bits=12)
    if transfer_syntax == BIG_ENDIAN:
        lut.add_new(0x00283006, "OW", np.array(range(4095, -1, -1), ">u2").tobytes())
    data = make_dicom(ramp(), elements={VOI_LUT: ("SQ", [lut])}, transfer_syntax=transfer_syntax)
    np.testing.assert_allclose(read(data).display, 1 - ramp() / 4095, atol=1e-6)
