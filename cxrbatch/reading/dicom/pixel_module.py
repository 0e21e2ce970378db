"""What the Image Pixel Module of a header says about every frame: size, samples and bits.

Source: DICOM PS3.3 C.7.6.3.
"""

from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.decoders import FrameShape
from cxrbatch.reading.dicom.colour import COLOUR_SPACES, GREYSCALES, read_photometric
from cxrbatch.reading.dicom.elements import integer
from cxrbatch.reading.display import StoredLayout
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.reading.outcomes import Outcome, ReadingError


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008); 1 where it is absent or says nothing usable."""
    return max(1, integer(dataset, 0x00280008) or 1)


def read_shape(dataset: Dataset, facts: HeaderFacts) -> tuple[FrameShape, StoredLayout]:
    """Read the size and sample layout of every frame.

    Raises:
        ReadingError: `corrupt` or `unsupported_image`, with what is wrong or missing.
    """
    if not facts.rows or not facts.columns or facts.rows < 0 or facts.columns < 0:
        raise ReadingError(Outcome.CORRUPT, "the header gives no rows or no columns")
    photometric = facts.photometric
    if photometric is None:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, read_photometric(dataset)[1])
    if photometric not in GREYSCALES and photometric not in COLOUR_SPACES:
        detail = f"photometric interpretation {photometric}"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    is_mono = photometric in GREYSCALES or photometric == "PALETTE COLOR"
    samples = integer(dataset, 0x00280002) or (1 if is_mono else 3)
    if samples != (1 if is_mono else 3):
        raise ReadingError(
            Outcome.UNSUPPORTED_IMAGE, "samples per pixel do not fit the photometric interpretation"
        )
    if photometric == "YBR_FULL_422" and facts.columns % 2:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "YBR_FULL_422 with an odd width")
    allocated = integer(dataset, 0x00280100)
    if allocated not in (1, 8, 12, 16, 32):
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "bits allocated that are not read")
    stored = integer(dataset, 0x00280101) or allocated
    high = integer(dataset, 0x00280102)
    high = stored - 1 if high is None else high
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise ReadingError(Outcome.CORRUPT, "bits stored do not fit into bits allocated")
    is_signed = integer(dataset, 0x00280103) == 1
    shape = FrameShape(
        rows=facts.rows,
        columns=facts.columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        photometric=photometric,
        planar=integer(dataset, 0x00280006) == 1,
        is_signed=is_signed,
    )
    return shape, StoredLayout(bits_stored=stored, high_bit=high, is_signed=is_signed)
