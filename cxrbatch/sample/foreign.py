"""Files that an archive should not hold but does: broken ones, other modalities, no images."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from cxrbatch.sample.dicom_writer import (
    Person,
    file_bytes,
    person_header,
    put_pixels,
    stable_uid,
)
from cxrbatch.sample.projection import Film, Plane, ellipsoid

NOTES = (
    "This archive was drawn by `cxrbatch sample`. The phantoms are drawings, not patients;\n"
    "labels.csv says what was drawn. This file is here because archives hold such files.\n"
)


def broken_files(*, dicom: bytes, png: bytes) -> dict[str, bytes]:
    """Damaged copies of good files.

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
        "broken/bad checksum.png": with_bad_checksum(png),
    }


def foreign_files(person: Person) -> dict[str, bytes]:
    """Sound files that are no radiographs: path to content, as in `broken_files`."""
    return {
        "DICOMDIR": _directory(),
        "notes.txt": NOTES.encode(),
        "pacs/other/text with a DICOM name.dcm": NOTES.encode(),
        "pacs/other/ct slice.dcm": _ct_slice(person),
        "pacs/other/report.dcm": _structured_report(person),
    }


def with_bad_checksum(png: bytes) -> bytes:
    """Flip one bit in the middle of the first IDAT chunk, so that its CRC-32 no longer fits."""
    at = 8
    while png[at + 4 : at + 8] != b"IDAT":
        at += 12 + int(struct.unpack(">I", png[at : at + 4])[0])
    length = int(struct.unpack(">I", png[at : at + 4])[0])
    middle = at + 8 + length // 2
    damaged = png[:middle] + bytes([png[middle] ^ 0x10]) + png[middle + 1 :]
    content, (recorded,) = (
        damaged[at + 4 : at + 8 + length],
        struct.unpack(">I", damaged[at + 8 + length : at + 12 + length]),
    )
    if zlib.crc32(content) == recorded:
        raise ValueError("the checksum still fits")
    return damaged


def _directory() -> bytes:
    """A DICOMDIR without records (Basic Directory IOD, PS3.3 F.3)."""
    header = Dataset()
    header.SOPClassUID = MediaStorageDirectoryStorage
    header.SOPInstanceUID = stable_uid("directory")
    content = Dataset()
    content.FileSetID = "SAMPLE"
    content.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    content.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    content.FileSetConsistencyFlag = 0
    content.DirectoryRecordSequence = Sequence()
    content.file_meta = FileMetaDataset()
    content.SOPClassUID = header.SOPClassUID
    content.SOPInstanceUID = header.SOPInstanceUID
    return file_bytes(content, syntax=ExplicitVRLittleEndian)


def _ct_slice(person: Person) -> bytes:
    """A drawn axial slice of a chest in Hounsfield units."""
    header = person_header(person, study=1, instance="ct")
    header.SOPClassUID = CTImageStorage
    header.Modality = "CT"
    header.BodyPartExamined = "CHEST"
    header.SliceThickness = "5"
    header.PixelSpacing = ["1.5", "1.5"]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = "-1024", "1", "HU"
    header.WindowCenter, header.WindowWidth = "40", "400"
    hounsfield = _axial_chest(Film(256, 256))
    stored = np.floor(hounsfield + 1024.5).astype(np.uint16)
    put_pixels(header, [stored], syntax=ExplicitVRLittleEndian)
    return file_bytes(header, syntax=ExplicitVRLittleEndian)


def _axial_chest(film: Film) -> Plane:
    """Shape (rows, columns): Hounsfield units of air, soft tissue, lung and bone."""
    hounsfield = np.full((film.rows, film.columns), -1000.0)
    organs = [
        ((0.0, 0.5), (0.46, 0.33), 40.0),
        ((-0.2, 0.49), (0.17, 0.23), -820.0),
        ((0.21, 0.49), (0.16, 0.22), -820.0),
        ((0.05, 0.44), (0.12, 0.12), 45.0),
        ((0.0, 0.69), (0.055, 0.055), 350.0),
        ((0.03, 0.6), (0.03, 0.03), 50.0),
    ]
    for center, radii, value in organs:
        hounsfield[ellipsoid(film, center=center, radii=radii) > 0] = value
    return hounsfield


def _structured_report(person: Person) -> bytes:
    """A Basic Text SR: a document about an image, without pixels (PS3.3 A.35.1)."""
    header = person_header(person, study=1, instance="report")
    header.SOPClassUID = BasicTextSRStorage
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
    return file_bytes(header, syntax=ExplicitVRLittleEndian)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "LN", meaning
    return code
