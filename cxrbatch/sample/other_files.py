"""Makes broken files, and sound files that are no radiographs, as archives hold them."""

import struct
import zlib

import numpy as np
import pydicom.uid as uids
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrbatch.sample.dicom_writer import Person, file_bytes, person_header, put_pixels, stable_uid
from cxrbatch.sample.projection import Detector

_NOTES = (
    b"This archive was drawn by `cxrbatch sample`. The phantoms are drawings, not patients;\n"
    b"labels.csv says what was drawn. This file is here because archives hold such files.\n"
)
# Center, radii (both in image heights) and Hounsfield units of soft tissue, lungs and bone.
_AXIAL_ORGANS = (
    ((0.0, 0.5), (0.46, 0.33), 40.0),
    ((-0.2, 0.49), (0.17, 0.23), -820.0),
    ((0.21, 0.49), (0.16, 0.22), -820.0),
    ((0.05, 0.44), (0.12, 0.12), 45.0),
    ((0.0, 0.69), (0.055, 0.055), 350.0),
    ((0.03, 0.6), (0.03, 0.03), 50.0),
)
_AIR = -1000.0


def broken_files(*, dicom: bytes, png: bytes) -> dict[str, bytes]:
    """Make damaged copies of good files: an empty one, cut ones, and one with a wrong checksum.

    Args:
        dicom: A good DICOM file with native pixel data.
        png: A good PNG file.

    Returns:
        Path relative to the archive, with forward slashes, to content.
    """
    return {
        "broken/empty.dcm": b"",
        "broken/truncated.dcm": dicom[: len(dicom) * 3 // 5],
        "broken/truncated.png": png[: len(png) // 2],
        "broken/bad checksum.png": _with_bad_checksum(png),
    }


def foreign_files(person: Person) -> dict[str, bytes]:
    """Make sound files that are no radiographs: text, a DICOMDIR, a CT slice and a report.

    Args:
        person: The patient of the CT slice and the report.

    Returns:
        Path relative to the archive, with forward slashes, to content.
    """
    return {
        "DICOMDIR": _dicomdir(),
        "notes.txt": _NOTES,
        "pacs/other/text with a DICOM name.dcm": _NOTES,
        "pacs/other/ct slice.dcm": _ct_slice(person),
        "pacs/other/report.dcm": _structured_report(person),
    }


def _with_bad_checksum(png: bytes) -> bytes:
    """Flip one bit in the middle of the first IDAT chunk, so that its CRC-32 no longer fits."""
    at = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    middle = at + 4 + length // 2
    damaged = png[:middle] + bytes([png[middle] ^ 0x10]) + png[middle + 1 :]
    (recorded,) = struct.unpack(">I", damaged[at + 4 + length : at + 8 + length])
    if zlib.crc32(damaged[at : at + 4 + length]) == recorded:
        raise ValueError("the checksum still fits")
    return damaged


def _dicomdir() -> bytes:
    """A DICOMDIR without records (Basic Directory IOD, PS3.3 F.3)."""
    content = Dataset()
    content.SOPClassUID = uids.MediaStorageDirectoryStorage
    content.SOPInstanceUID = stable_uid("directory")
    content.FileSetID = "SAMPLE"
    content.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    content.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    content.FileSetConsistencyFlag = 0
    content.DirectoryRecordSequence = Sequence()
    return file_bytes(content, syntax=uids.ExplicitVRLittleEndian)


def _ct_slice(person: Person) -> bytes:
    """A drawn axial slice of a chest in Hounsfield units."""
    header = person_header(person, study=1, instance="ct")
    header.SOPClassUID = uids.CTImageStorage
    header.Modality, header.BodyPartExamined = "CT", "CHEST"
    header.SliceThickness, header.PixelSpacing = "5", ["1.5", "1.5"]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "-1024", "1", "HU"
    header.WindowCenter, header.WindowWidth = "40", "400"
    detector = Detector(256, 256)
    hounsfield = detector.empty() + _AIR
    for center, radii, value in _AXIAL_ORGANS:
        hounsfield[detector.ellipsoid(center=center, radii=radii) > 0] = value
    stored = np.floor(hounsfield + 1024.5).astype(np.uint16)
    put_pixels(header, [stored], syntax=uids.ExplicitVRLittleEndian)
    return file_bytes(header, syntax=uids.ExplicitVRLittleEndian)


def _structured_report(person: Person) -> bytes:
    """A Basic Text SR: a document about an image, without pixels (PS3.3 A.35.1)."""
    header = person_header(person, study=1, instance="report")
    header.SOPClassUID = uids.BasicTextSRStorage
    header.Modality = "SR"
    header.CompletionFlag, header.VerificationFlag = "COMPLETE", "UNVERIFIED"
    header.ContentDate, header.ContentTime = header.StudyDate, header.StudyTime
    header.ValueType, header.ContinuityOfContent = "CONTAINER", "SEPARATE"
    header.ConceptNameCodeSequence = Sequence([_code("18748-4", "Diagnostic imaging report")])
    finding = Dataset()
    finding.RelationshipType, finding.ValueType = "CONTAINS", "TEXT"
    finding.ConceptNameCodeSequence = Sequence([_code("59776-5", "Findings")])
    finding.TextValue = "A drawn phantom. No finding refers to a person."
    header.ContentSequence = Sequence([finding])
    return file_bytes(header, syntax=uids.ExplicitVRLittleEndian)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "LN", meaning
    return code
