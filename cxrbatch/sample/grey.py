"""From a drawing in [0, 1] to the stored values of a file, and the header that undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrbatch.sample.projection import Plane

Stored = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]


class Voi(StrEnum):
    """How a phantom's header says what to show (VOI LUT module, PS3.3 C.11.2)."""

    WINDOW = "one window, LINEAR, over the drawing's range"
    TWO_WINDOWS = "two windows; the first shows the drawing"
    SIGMOID = "one window with the function SIGMOID"
    NONE = "no window: the drawing fills all stored values"


@dataclass(frozen=True, slots=True)
class Grey:
    """How grey becomes stored values.

    Attributes:
        bits: Bits Stored, 8 to 16; 8 bits are allocated 8, more are allocated 16.
        inverted: Stored as MONOCHROME1.
        voi: What the header says about the range to show.
        signed: Stored as two's complement, half of the range subtracted; the Rescale Intercept
            adds it back.
    """

    bits: int = 12
    inverted: bool = False
    voi: Voi = Voi.WINDOW
    signed: bool = False

    @property
    def top(self) -> int:
        """The largest unsigned value."""
        return (1 << self.bits) - 1

    def window(self) -> tuple[float, float]:
        """Center and width of the LINEAR window that shows the drawing as it was (C.11.2.1.2)."""
        low, span = self._range()
        low = self.top - low - span if self.inverted else low
        return low + span / 2 + 0.5, span + 1.0

    def store(self, drawing: Plane) -> Stored:
        """Stored values of a drawing.

        Args:
            drawing: Shape (rows, columns), in [0, 1].

        Returns:
            Same shape, uint8, uint16 or int16.
        """
        low, span = self._range()
        levels = low + np.floor(drawing * span + 0.5).astype(np.int64)
        if self.inverted:
            levels = self.top - levels
        if self.signed:
            return (levels - (1 << self.bits - 1)).astype(np.int16)
        return levels.astype(np.uint8) if self.bits == 8 else levels.astype(np.uint16)

    def describe(self, header: Dataset) -> None:
        """Put the pixel, Modality LUT and VOI attributes into a header."""
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME1" if self.inverted else "MONOCHROME2"
        header.BitsAllocated = 8 if self.bits == 8 else 16
        header.BitsStored = self.bits
        header.HighBit = self.bits - 1
        header.PixelRepresentation = int(self.signed)
        if self.signed:
            header.RescaleIntercept = str(1 << self.bits - 1)
            header.RescaleSlope = "1"
            header.RescaleType = "US"
        self._describe_voi(header)

    def _describe_voi(self, header: Dataset) -> None:
        if self.voi is Voi.NONE:
            return
        center, width = self.window()
        if self.voi is Voi.TWO_WINDOWS:
            header.WindowCenter = [f"{center:g}", f"{center * 0.8:.1f}"]
            header.WindowWidth = [f"{width:g}", f"{width * 0.5:.1f}"]
            header.WindowCenterWidthExplanation = ["STANDARD", "LUNG"]
            return
        header.WindowCenter, header.WindowWidth = f"{center:g}", f"{width:g}"
        if self.voi is Voi.SIGMOID:
            header.VOILUTFunction = "SIGMOID"

    def _range(self) -> tuple[int, int]:
        """Smallest stored value of a drawing, and the steps up to its largest."""
        if self.voi is Voi.NONE:
            return 0, self.top
        low = (1 << self.bits) // 20
        return low, 2 * ((self.top - 3 * low) // 2)
