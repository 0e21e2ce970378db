"""A grid of LUT and window cases through whole files, each value by the standard's own formulas.

The formulas of PS3.3 are written out here once more, on one Python number at a time, and share
nothing with the code under test: no numpy, no table, no common order of steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from makers import Elements, make_dicom, make_lut

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import iterate_radiographs_bytes

CENTER, WIDTH, FUNCTION = 0x00281050, 0x00281051, 0x00281056
INTERCEPT, SLOPE = 0x00281052, 0x00281053
HIGH_BIT, PADDING, PADDING_LIMIT = 0x00280102, 0x00280120, 0x00280121
MODALITY_LUT, VOI_LUT, SHAPE = 0x00283000, 0x00283010, 0x20500020

Voi = Callable[[float], float]


def linear(c: float, w: float) -> Voi:
    """C.11.2.1.2.1: conditions and ranges as printed, with an output of 0 to 1."""

    def apply(x: float) -> float:
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        if x > c - 0.5 + (w - 1) / 2:
            return 1.0
        return (x - (c - 0.5)) / (w - 1) + 0.5

    return apply


def exact(c: float, w: float) -> Voi:
    """C.11.2.1.3.2."""

    def apply(x: float) -> float:
        if x <= c - w / 2:
            return 0.0
        if x > c + w / 2:
            return 1.0
        return (x - c) / w + 0.5

    return apply


def sigmoid(c: float, w: float) -> Voi:
    """C.11.2.1.3.1."""
    return lambda x: 1 / (1 + math.exp(min(700.0, -4 * (x - c) / w)))


def table(entries: list[int], first: int) -> Voi:
    """C.11.1.1 and C.11.2.1.1: below the first value the first entry, beyond the last the last."""

    def apply(x: float) -> float:
        at = int(x) - first
        return float(entries[0 if at < 0 else min(at, len(entries) - 1)])

    return apply


def voi_table(entries: list[int], first: int, bits: int) -> Voi:
    look_up = table(entries, first)
    return lambda x: look_up(x) / (2**bits - 1)


def rescale(slope: float, intercept: float) -> Voi:
    return lambda x: slope * x + intercept


@dataclass(frozen=True)
class Case:
    """A header, and what it means."""

    voi: Voi
    elements: Elements
    bits: int = 12
    signed: bool = False
    modality: Voi = float
    photometric: str = "MONOCHROME2"
    inverted: bool = False
    shift: int = 0
    noise: bool = False
    padding: frozenset[int] = field(default_factory=frozenset)


def window(center: object, width: object, function: str | None = None) -> Elements:
    elements = {CENTER: ("DS", center), WIDTH: ("DS", width)}
    return elements | ({FUNCTION: ("CS", function)} if function is not None else {})


def lut(tag: int, entries: list[int], first: int, bits: int) -> Elements:
    vr = "SS" if first < 0 else "US"
    return {tag: ("SQ", [make_lut(entries, first=first, bits=bits, vr=vr)])}


def slope(value: object, intercept: object) -> Elements:
    return {SLOPE: ("DS", value), INTERCEPT: ("DS", intercept)}


SQUARES = [x * x // 4095 for x in range(4096)]
FALLING = list(range(4095, -1, -1))
NARROW = [x // 16 for x in range(4096)]
STEEP = [min(65535, 30 * x) for x in range(3000)]
MIDDLE, MIDDLE_WINDOW = linear(2048, 4096), window(2048, 4096)
TWO_LUTS = {
    VOI_LUT: ("SQ", [make_lut(SQUARES, first=0, bits=12), make_lut(NARROW, first=0, bits=8)])
}

CASES = {
    # Windows: functions, depths and signs.
    "linear": Case(linear(2048, 4096), window(2048, 4096)),
    "linear, named": Case(linear(700, 1001), window(700, 1001, "LINEAR")),
    "linear, function empty": Case(linear(700, 1001), window(700, 1001, "")),
    "linear, 8 bits": Case(linear(128, 256), window(128, 256), bits=8),
    "linear, 8 bits, narrow": Case(linear(60, 30), window(60, 30), bits=8),
    "linear, 10 bits": Case(linear(512, 700), window(512, 700), bits=10),
    "linear, 16 bits": Case(linear(32768, 65536), window(32768, 65536), bits=16),
    "linear, 16 bits, low": Case(linear(1000, 1500), window(1000, 1500), bits=16),
    "linear, signed": Case(linear(0, 4096), window(0, 4096), signed=True),
    "linear, signed, 16 bits": Case(linear(-200, 30000), window(-200, 30000), bits=16, signed=True),
    "linear, negative center": Case(linear(-600, 1500), window(-600, 1500), signed=True),
    "linear, fractional": Case(linear(1000.25, 333.5), window(1000.25, 333.5)),
    "linear, beside all values": Case(linear(9000, 100), window(9000, 100)),
    "linear, wider than all values": Case(linear(2000, 90000), window(2000, 90000)),
    "linear, width 1": Case(linear(1000, 1), window(1000, 1)),
    "linear, width 2": Case(linear(1000, 2), window(1000, 2)),
    "linear, width 1.5": Case(linear(1000, 1.5), window(1000, 1.5)),
    "exact": Case(exact(2048, 4096), window(2048, 4096, "LINEAR_EXACT")),
    "exact, width 1": Case(exact(1000, 1), window(1000, 1, "LINEAR_EXACT")),
    "exact, width below 1": Case(exact(1000, 0.25), window(1000, 0.25, "LINEAR_EXACT")),
    "exact, signed": Case(exact(-7.5, 900), window(-7.5, 900, "LINEAR_EXACT"), signed=True),
    "sigmoid": Case(sigmoid(2048, 2000), window(2048, 2000, "SIGMOID")),
    "sigmoid, width 1": Case(sigmoid(1000, 1), window(1000, 1, "SIGMOID")),
    "sigmoid, signed": Case(sigmoid(-300, 450), window(-300, 450, "SIGMOID"), signed=True),
    # Several windows, and those that say nothing.
    "first of two windows": Case(linear(600, 900), window([600, 2000], [900, 4000])),
    "first of two functions": Case(exact(600, 900), window([600, 1], [900, 1], "LINEAR_EXACT")),
    # Rescale.
    "slope 2": Case(
        linear(500, 1500), slope(2, -100) | window(500, 1500), modality=rescale(2, -100)
    ),
    "slope below 1": Case(
        linear(500, 800), slope(0.25, 7.5) | window(500, 800), modality=rescale(0.25, 7.5)
    ),
    "negative slope": Case(
        linear(-2048, 4096), slope(-1, 0) | window(-2048, 4096), modality=rescale(-1, 0)
    ),
    "negative slope, signed": Case(
        linear(100, 3000), slope(-3, 9) | window(100, 3000), signed=True, modality=rescale(-3, 9)
    ),
    "rescale and a VOI LUT": Case(
        voi_table(SQUARES, 0, 12),
        slope(1, 500) | lut(VOI_LUT, SQUARES, 0, 12),
        modality=rescale(1, 500),
    ),
    # Lookup tables.
    "VOI LUT": Case(voi_table(SQUARES, 0, 12), lut(VOI_LUT, SQUARES, 0, 12)),
    "VOI LUT of 8 bits": Case(voi_table(NARROW, 0, 8), lut(VOI_LUT, NARROW, 0, 8)),
    "VOI LUT of 16 bits": Case(voi_table(STEEP, 0, 16), lut(VOI_LUT, STEEP, 0, 16)),
    "VOI LUT, falling": Case(voi_table(FALLING, 0, 12), lut(VOI_LUT, FALLING, 0, 12)),
    "VOI LUT from 900": Case(voi_table(STEEP, 900, 16), lut(VOI_LUT, STEEP, 900, 16)),
    "VOI LUT from -100": Case(voi_table(STEEP, -100, 16), lut(VOI_LUT, STEEP, -100, 16)),
    "VOI LUT, signed": Case(
        voi_table(SQUARES, -2048, 12), lut(VOI_LUT, SQUARES, -2048, 12), signed=True
    ),
    "VOI LUT before a window": Case(
        voi_table(SQUARES, 0, 12), lut(VOI_LUT, SQUARES, 0, 12) | window(1, 2)
    ),
    "first of two VOI LUTs": Case(voi_table(SQUARES, 0, 12), TWO_LUTS),
    "empty VOI LUT leaves the window": Case(MIDDLE, {VOI_LUT: ("SQ", [])} | MIDDLE_WINDOW),
    "modality LUT": Case(
        linear(2000, 3000),
        lut(MODALITY_LUT, FALLING, 0, 12) | window(2000, 3000),
        modality=table(FALLING, 0),
    ),
    "modality LUT of 16 bits from -2048": Case(
        linear(30000, 50000),
        lut(MODALITY_LUT, STEEP, -2048, 16) | window(30000, 50000),
        signed=True,
        modality=table(STEEP, -2048),
    ),
    "modality LUT before rescale": Case(
        linear(100, 200),
        lut(MODALITY_LUT, NARROW, 0, 8) | slope(5, 5) | window(100, 200),
        modality=table(NARROW, 0),
    ),
    "modality LUT and VOI LUT": Case(
        voi_table(SQUARES, 0, 12),
        lut(MODALITY_LUT, FALLING, 0, 12) | lut(VOI_LUT, SQUARES, 0, 12),
        modality=table(FALLING, 0),
    ),
    # Polarity.
    "MONOCHROME1": Case(MIDDLE, MIDDLE_WINDOW, photometric="MONOCHROME1", inverted=True),
    "MONOCHROME1 and a VOI LUT": Case(
        voi_table(SQUARES, 0, 12),
        lut(VOI_LUT, SQUARES, 0, 12),
        photometric="MONOCHROME1",
        inverted=True,
    ),
    "INVERSE": Case(MIDDLE, {SHAPE: ("CS", "INVERSE")} | MIDDLE_WINDOW, inverted=True),
    "MONOCHROME1 and INVERSE": Case(
        MIDDLE,
        {SHAPE: ("CS", "INVERSE")} | MIDDLE_WINDOW,
        photometric="MONOCHROME1",
        inverted=True,
    ),
    "MONOCHROME1, signed, negative slope": Case(
        linear(0, 4096),
        slope(-1, 0) | window(0, 4096),
        signed=True,
        modality=rescale(-1, 0),
        photometric="MONOCHROME1",
        inverted=True,
    ),
    # The pixel cell.
    "overlay bits": Case(MIDDLE, MIDDLE_WINDOW, noise=True),
    "overlay bits, signed": Case(linear(0, 4096), window(0, 4096), signed=True, noise=True),
    "high bit 15": Case(MIDDLE, {HIGH_BIT: ("US", 15)} | MIDDLE_WINDOW, shift=4, noise=True),
    "high bit 13, signed": Case(
        linear(0, 4096),
        {HIGH_BIT: ("US", 13)} | window(0, 4096),
        shift=2,
        noise=True,
        signed=True,
    ),
    # Padding.
    "padding": Case(MIDDLE, {PADDING: ("US", 2000)} | MIDDLE_WINDOW, padding=frozenset({2000})),
    "padding range": Case(
        MIDDLE,
        {PADDING: ("US", 0), PADDING_LIMIT: ("US", 40)} | MIDDLE_WINDOW,
        padding=frozenset(range(41)),
    ),
    "padding, MONOCHROME1": Case(
        MIDDLE,
        {PADDING: ("US", 0)} | MIDDLE_WINDOW,
        padding=frozenset({0}),
        photometric="MONOCHROME1",
        inverted=True,
    ),
    "padding is a stored value": Case(
        linear(500, 1500),
        {PADDING: ("US", 300)} | slope(2, -100) | window(500, 1500),
        modality=rescale(2, -100),
        padding=frozenset({300}),
    ),
    "padding, signed": Case(
        linear(0, 4096),
        {PADDING: ("SS", -2048)} | window(0, 4096),
        signed=True,
        padding=frozenset({-2048}),
    ),
}


def stored_values(case: Case) -> list[int]:
    """2,000 values over the whole range, both ends included."""
    low = -(1 << (case.bits - 1)) if case.signed else 0
    span = (1 << case.bits) - 1
    return [low + round(span * at / 1999) for at in range(2000)]


def cells_of(case: Case, values: list[int]) -> np.ndarray:
    """Values in their cells; where there are other bits, these are full of noise."""
    mask = ((1 << case.bits) - 1) << case.shift
    noise = np.random.default_rng(5).integers(0, 1 << 16, len(values))
    cells = [
        ((value << case.shift) & mask) | (int(other) & 0xFFFF & ~mask if case.noise else 0)
        for value, other in zip(values, noise, strict=True)
    ]
    if case.signed and not case.noise:
        cells = [value & 0xFFFF for value in values]
    return np.array(cells, np.uint8 if case.bits == 8 else np.uint16).reshape(40, 50)


def grey_level(case: Case, value: int) -> float:
    """One stored value, step by step (PS3.4 N.2)."""
    if value in case.padding:
        return 0.0
    grey = case.voi(case.modality(value))
    return 1 - grey if case.inverted else grey


@pytest.mark.parametrize("name", CASES)
def test_the_grid(name: str) -> None:
    case = CASES[name]
    values = stored_values(case)
    data = make_dicom(
        cells_of(case, values),
        bits_stored=case.bits,
        signed=case.signed,
        photometric=case.photometric,
        elements=case.elements,
    )
    (reading,) = iterate_radiographs_bytes(data)
    assert reading.outcome is Outcome.SCORED
    assert reading.display is not None
    formula = [grey_level(case, value) for value in values]
    np.testing.assert_allclose(reading.display.reshape(-1), formula, rtol=0, atol=1e-6)
