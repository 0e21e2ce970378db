"""Phantoms read back from every container: equal pixels, sound headers, DCMTK's word."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.sample.archive_writer import (
    PERSONS,
    Drawing,
    PhantomFile,
    RasterFormat,
    SampleSummary,
    phantom_files,
)
from cxrbatch.sample.dicom_writer import (
    DicomPacking,
    GreyEncoding,
    VoiKind,
    dicom_bytes,
    stable_uid,
)
from cxrbatch.sample.projection import Plane

DCM2PNM = shutil.which("dcm2pnm")
NATIVE = {
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
}


Drawings = dict[Drawing, Plane]


def phantoms(
    written: SampleSummary, drawings: Drawings
) -> Iterator[tuple[PhantomFile, Path, list[Plane]]]:
    """Each phantom file with its place on disk and its drawings."""
    for file in phantom_files():
        path = written.directory / file.path
        yield file, path, [drawings[drawing] for drawing in file.drawings]


def dicom_phantoms(
    written: SampleSummary, drawings: Drawings
) -> Iterator[tuple[PhantomFile, DicomPacking, Path, list[Plane]]]:
    for file, path, drawn in phantoms(written, drawings):
        if isinstance(file.packing, DicomPacking):
            yield file, file.packing, path, drawn


def read(packing: DicomPacking, path: Path) -> pydicom.FileDataset:
    header = pydicom.dcmread(path, force=packing.bare)
    if packing.bare:
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return header


def test_lossless_files_hold_the_drawing_exactly(
    written: SampleSummary, drawings: Drawings
) -> None:
    seen = set()
    for file, packing, path, drawn in dicom_phantoms(written, drawings):
        if packing.syntax == JPEGBaseline8Bit:
            continue
        pixels = read(packing, path).pixel_array
        expected = np.stack([packing.grey.store(each) for each in drawn])
        assert np.array_equal(pixels.reshape(expected.shape), expected), file.path
        seen.add(packing.syntax)
    assert seen == {*NATIVE, JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1}


def test_jpeg_baseline_is_near_and_declared_lossy(
    written: SampleSummary, drawings: Drawings
) -> None:
    for _, packing, path, drawn in dicom_phantoms(written, drawings):
        if packing.syntax == JPEGBaseline8Bit:
            header = read(packing, path)
            away = header.pixel_array.astype(int) - np.floor(drawn[0] * 255 + 0.5)
            assert np.abs(away).max() < 30
            assert np.abs(away).mean() < 3
            assert header.LossyImageCompression == "01"
            return
    pytest.fail("no JPEG baseline file")


def test_png_is_exact_and_jpeg_near(written: SampleSummary, drawings: Drawings) -> None:
    kinds = set()
    for file, path, drawn in phantoms(written, drawings):
        if not isinstance(file.packing, RasterFormat):
            continue
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(int)
            mode = image.mode
        top = 65535 if file.packing is RasterFormat.PNG16 else 255
        away = np.abs(pixels - np.floor(drawn[0] * top + 0.5))
        assert mode == ("I;16" if file.packing is RasterFormat.PNG16 else "L")
        assert away.max() == 0 if file.packing is not RasterFormat.JPEG else away.mean() < 3
        kinds.add(file.packing)
    assert kinds == set(RasterFormat)


def test_headers_vary_as_archives_do(written: SampleSummary, drawings: Drawings) -> None:
    headers = [read(packing, path) for file, packing, path, _ in dicom_phantoms(written, drawings)]
    assert {header.PhotometricInterpretation for header in headers} == {
        "MONOCHROME1",
        "MONOCHROME2",
    }
    assert {header.BitsStored for header in headers} >= {8, 10, 12, 16}
    assert {header.Modality for header in headers} == {"CR", "DX"}
    assert {header.ViewPosition for header in headers} == {"PA", "AP", "LL"}
    assert {header.BodyPartExamined for header in headers} == {"CHEST", "FOREARM"}
    assert {header.PatientSex for header in headers} == {"F", "M"}
    assert max(header.get("NumberOfFrames", 1) for header in headers) == 2


def test_uids_are_unique_and_a_visit_is_a_study(written: SampleSummary, drawings: Drawings) -> None:
    headers = [
        (file, read(packing, path)) for file, packing, path, _ in dicom_phantoms(written, drawings)
    ]
    instances = [header.SOPInstanceUID for _, header in headers]
    assert len(set(instances)) == len(instances)
    studies = {header.StudyInstanceUID: (file.person, file.study) for file, header in headers}
    assert len(studies) == len({(file.person, file.study) for file, _ in headers})
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in [*instances, *studies])


def test_stable_uid_depends_on_its_parts_alone() -> None:
    assert stable_uid(1, "a") == stable_uid(1, "a")
    assert stable_uid(1, "a") != stable_uid(1, "b")


def test_bare_file_begins_with_its_first_element(
    written: SampleSummary, drawings: Drawings
) -> None:
    (bare,) = [path for file, packing, path, _ in dicom_phantoms(written, drawings) if packing.bare]
    content = bare.read_bytes()
    assert content[:4] == b"\x08\x00\x05\x00"  # Specific Character Set (0008,0005)
    assert content[128:132] != b"DICM"


@pytest.mark.parametrize(
    "grey",
    [
        GreyEncoding(),
        GreyEncoding(inverted=True),
        GreyEncoding(bits=8),
        GreyEncoding(bits=16, signed=True),
        GreyEncoding(bits=10, voi=VoiKind.TWO_WINDOWS),
        GreyEncoding(bits=16, inverted=True, voi=VoiKind.NONE),
    ],
)
def test_the_header_undoes_the_storing(grey: GreyEncoding) -> None:
    """PS3.3 C.11.2.1.2.1 on what was stored gives the drawing back, to a stored step."""
    drawing = np.linspace(0.0, 1.0, 600).reshape(20, 30)
    header = pydicom.Dataset()
    grey.describe(header)
    values = grey.store(drawing).astype(float) + float(header.get("RescaleIntercept", 0))
    if grey.voi is VoiKind.NONE:
        shown = values / grey.top
    else:
        center = float(np.atleast_1d(header.WindowCenter)[0])
        width = float(np.atleast_1d(header.WindowWidth)[0])
        shown = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    assert np.abs(shown - drawing).max() < 0.51 / (0.8 * grey.top)
    assert header.BitsAllocated == (8 if grey.bits == 8 else 16)


@pytest.mark.skipif(DCM2PNM is None, reason="dcm2pnm (dcmtk) is not installed")
def test_dcmtk_renders_the_drawing(written: SampleSummary, drawings: Drawings) -> None:
    """DCMTK shows what was drawn, within two of 255 grey levels, whatever the packing."""
    shown = 0
    for file, packing, path, drawn in dicom_phantoms(written, drawings):
        grey = packing.grey
        if packing.syntax not in NATIVE or grey.voi is VoiKind.SIGMOID:
            continue
        window = [] if grey.voi is VoiKind.NONE else ["+Wi", "1"]
        bare = ["-f"] if packing.bare else []
        command = [DCM2PNM, *bare, *window, "+op", str(path)]
        output = subprocess.run(command, check=True, capture_output=True).stdout
        with Image.open(io.BytesIO(output)) as image:
            pixels = np.asarray(image).astype(float)
        assert np.abs(pixels - 255 * drawn[0]).max() <= 2, file.path
        shown += 1
    assert shown >= 12


def test_a_bare_file_is_implicit_little_endian_only() -> None:
    drawing = np.zeros((8, 8))
    with pytest.raises(ValueError, match="Implicit"):
        dicom_bytes([drawing], PERSONS[0], DicomPacking(bare=True), study=1, instance="x")
