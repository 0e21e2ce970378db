"""The bare decoder finds the pixels that pydicom and Pillow find, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.sample.dicom_writer import file_bytes, put_pixels
from cxrbatch.speed.machine import BareFile, decode_all, find_pixels


def write_dicom(path: Path, cells: np.ndarray, syntax: UID) -> Path:
    header = Dataset()
    header.SOPClassUID = ComputedRadiographyImageStorage
    header.SOPInstanceUID = "1.2.3"
    header.PhotometricInterpretation = "MONOCHROME2"
    header.SamplesPerPixel, header.BitsAllocated, header.BitsStored = 1, 16, 12
    header.HighBit, header.PixelRepresentation = 11, 0
    put_pixels(header, [cells], syntax=syntax)
    path.write_bytes(file_bytes(header, syntax=syntax))
    return path


def pixels(file: BareFile) -> np.ndarray:
    with file.path.open("rb") as stream:
        stream.seek(file.start)
        return file.decode(stream.read(file.length))


@pytest.fixture
def cells() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (90, 70)).astype(np.uint16)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        RLELossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_pixels_are_those_that_pydicom_finds(
    tmp_path: Path, cells: np.ndarray, syntax: UID
) -> None:
    path = write_dicom(tmp_path / "film", cells, syntax)
    found = find_pixels(path)
    assert found is not None
    assert found.length < path.stat().st_size
    np.testing.assert_array_equal(pixels(found), dcmread(path).pixel_array)
    decode_all([found] * 3, size=32, threads=2)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("times", [1, 20])
def test_pictures(tmp_path: Path, cells: np.ndarray, form: str, times: int) -> None:
    path = tmp_path / "picture"
    grey = np.tile((cells >> 4).astype(np.uint8), (times, times))  # also of many chunks
    Image.fromarray(grey).save(path, format=form)
    found = find_pixels(path)
    assert found is not None
    assert found.kind == form
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(found), np.asarray(image))


def test_colour_is_shrunk_too(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (200, 10, 10)).save(tmp_path / "a.png")
    found = find_pixels(tmp_path / "a.png")
    assert found is not None
    found.read(32)


def test_what_has_no_bare_decoder_is_passed_over(tmp_path: Path, cells: np.ndarray) -> None:
    deflated = write_dicom(tmp_path / "film", cells, DeflatedExplicitVRLittleEndian)
    (tmp_path / "text").write_text("no image")
    assert find_pixels(deflated) is None
    assert find_pixels(tmp_path / "text") is None
