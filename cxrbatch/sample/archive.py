"""Writes the sample archive: phantoms, real radiographs, broken and foreign files, labels.csv.

The phantoms are drawings, not patients: the archive is for trying and testing the program, and
labels.csv says what was drawn. Real radiographs come from the package pydicom-data, unchanged and
without a label. Each file, labels.csv included, becomes a row when the archive is scored
(labels.csv as `not_an_image`).

With the same versions of the libraries every run writes the same bytes: seeds, UIDs and dates are
fixed.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.sample.dicom_writer import (
    Person,
    Wrapping,
    dicom_bytes,
    file_bytes,
    jpeg_bytes,
    person_header,
    put_pixels,
    stable_uid,
)
from cxrbatch.sample.plan import PERSONS, PhantomFile, Picture, Raster, phantom_files
from cxrbatch.sample.projection import Film, Grey, Plane, Stored, Voi, ellipsoid

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


LABELS = "labels.csv"

REAL_RADIOGRAPHS = (
    "RG1_J2KI.dcm",
    "RG1_J2KR.dcm",
    "RG1_UNCR.dcm",
    "RG3_J2KI.dcm",
    "RG3_J2KR.dcm",
    "RG3_UNCR.dcm",
)
"""The radiographs in pydicom-data: RG1 a chest, RG3 a lower leg, uncompressed and as JPEG 2000 with
and without loss. Their `_UNCI` twins (13 MB) would add no encoding."""

DICOM, PNG, JPEG = "phantoms as DICOM", "phantoms as PNG", "phantoms as JPEG"
REAL, BROKEN, FOREIGN = "real radiographs (pydicom-data)", "broken files", "foreign files"
KINDS = (DICOM, PNG, JPEG, REAL, BROKEN, FOREIGN, LABELS)
"""Kinds of file, as the summary counts them."""

Content = tuple[str, str, bytes]
"""Path relative to the archive with forward slashes, kind of file, bytes."""


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What was written.

    Attributes:
        directory: Where.
        kinds: Kind of file to number of files, each of `KINDS`; they sum to all files.
        labelled: Rows of labels.csv.
        size: Bytes in all.
        remark: One line on what was left out; empty where nothing was.
    """

    directory: Path
    kinds: Mapping[str, int]
    labelled: int
    size: int
    remark: str

    @property
    def files(self) -> int:
        """Number of files, labels.csv included."""
        return sum(self.kinds.values())


def write_sample(directory: Path) -> SampleSummary:
    """Write the sample archive.

    Args:
        directory: Made where it is missing; must be empty where it is not.

    Returns:
        The counts.

    Raises:
        UsageError: If `directory` is a file, or holds something.
        CxrbatchError: If the disk refuses a file; what was written until then stays.
    """
    kinds: Counter[str] = Counter()
    size = 0
    real = _real_folder()
    try:
        _require_empty(directory)
        for path, kind, content in _contents(real):
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            kinds[kind] += 1
            size += len(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CxrbatchError(
            f"the sample archive could not be written to {directory}: {reason}; "
            "name another directory, or make room and start with an empty one"
        ) from error
    return SampleSummary(
        directory=directory,
        kinds={kind: kinds[kind] for kind in KINDS},
        labelled=len(_label_rows()),
        size=size,
        remark="" if real else "real radiographs left out: pip install 'cxrbatch[sample]'",
    )


def _require_empty(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; name a new or empty directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; name a new or empty directory")


def _contents(real: Path | None) -> Iterator[Content]:
    """All files one after the other, with one person's drawings in memory at a time."""
    draw = lru_cache(maxsize=4)(Picture.draw)
    samples: dict[str, bytes] = {}
    for file in phantom_files():
        drawings = [draw(picture) for picture in file.pictures]
        kind, content = _phantom_bytes(file, drawings)
        samples.setdefault(kind, content)
        yield file.path, kind, content
    if real is not None:
        for name in REAL_RADIOGRAPHS:
            yield f"real/{name}", REAL, (real / name).read_bytes()
    broken = broken_files(dicom=samples[DICOM], png=samples[PNG])
    for path, content in broken.items():
        yield path, BROKEN, content
    for path, content in foreign_files(PERSONS[0]).items():
        yield path, FOREIGN, content
    yield LABELS, LABELS, _labels_csv()


def _phantom_bytes(file: PhantomFile, drawings: list[Plane]) -> tuple[str, bytes]:
    """Kind and content of one phantom file."""
    if isinstance(file.wrapping, Wrapping):
        instance = file.path.rpartition("/")[2]
        content = dicom_bytes(
            drawings, file.person, file.wrapping, study=file.study, instance=instance
        )
        return DICOM, content
    bits = 16 if file.wrapping is Raster.PNG16 else 8
    stored = Grey(bits=bits, voi=Voi.NONE).store(drawings[0])
    if file.wrapping is Raster.JPEG:
        return JPEG, jpeg_bytes(stored)
    return PNG, _png_bytes(stored)


def _png_bytes(grey: Stored) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    return stream.getvalue()


def _label_rows() -> list[tuple[str, str, str]]:
    """Path, label and patient of each phantom of a chest, sorted by path."""
    rows = [
        (file.path, file.label, file.person.patient_id)
        for file in phantom_files()
        if file.label is not None
    ]
    return sorted(rows)


def _labels_csv() -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "patient"))
    writer.writerows(_label_rows())
    return stream.getvalue().encode()


def _real_folder() -> Path | None:
    """Folder of pydicom-data's files; None where the package is not installed or lacks them."""
    spec = importlib.util.find_spec("data_store")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "data"
    return folder if all((folder / name).is_file() for name in REAL_RADIOGRAPHS) else None
