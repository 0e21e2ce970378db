"""Writes drawings as DICOM files in many transfer syntaxes, byte for byte the same each time."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
)

from cxrbatch.sample.projection import Grey, Plane, Stored

JPEG_QUALITY = 92

_ENCODERS: dict[UID, Callable[[Stored, int], bytes | bytearray]] = {
    JPEG2000Lossless: lambda frame, bits: imagecodecs.jpeg2k_encode(
        frame, level=0, codecformat="j2k", bitspersample=bits, reversible=True
    ),
    JPEGLossless: lambda frame, bits: _lossless_jpeg(frame, bits, predictor=4),
    JPEGLosslessSV1: lambda frame, bits: _lossless_jpeg(frame, bits, predictor=1),
    JPEGLSLossless: lambda frame, bits: imagecodecs.jpegls_encode(frame),
}


@dataclass(frozen=True, slots=True)
class Person:
    """An invented patient.

    Attributes:
        number: Makes the id; no hospital gives ids like these.
        sex: "F" or "M".
        age: In years.
        name: DICOM person name.
    """

    number: int
    sex: str
    age: int
    name: str

    @property
    def patient_id(self) -> str:
        """The synthetic id, for headers and labels.csv."""
        return f"PHANTOM-{self.number:03d}"


@dataclass(frozen=True, slots=True)
class Wrapping:
    """How a drawing is packed into a DICOM file.

    Attributes:
        syntax: Transfer syntax.
        grey: How grey becomes stored values.
        modality: "CR" or "DX".
        view: View Position: "PA", "AP" or "LL" (left lateral).
        body_part: Body Part Examined.
        for_processing: A DX image that is not meant for display.
        bare: Without preamble and file meta information, as some archives keep them.
    """

    syntax: UID = ExplicitVRLittleEndian
    grey: Grey = field(default_factory=Grey)
    modality: str = "CR"
    view: str = "PA"
    body_part: str = "CHEST"
    for_processing: bool = False
    bare: bool = False


def stable_uid(*parts: object) -> UID:
    """A UID under 2.25 that depends on `parts` alone (PS3.5 B.2)."""
    text = "/".join(str(part) for part in ("cxrbatch sample", *parts))
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def person_header(person: Person, *, study: int, instance: str) -> Dataset:
    """Patient, study and series attributes with fixed dates.

    Args:
        person: Who was drawn.
        study: Number of the study, from 1.
        instance: Names the object within the study; makes its UID.
    """
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName = person.name
    header.PatientID = person.patient_id
    header.PatientBirthDate = ""
    header.PatientSex = person.sex
    header.PatientAge = f"{person.age:03d}Y"
    header.StudyDate = f"2021{person.number:02d}{study:02d}"
    header.StudyTime = "120000"
    header.StudyID = str(study)
    header.AccessionNumber = ""
    header.ReferringPhysicianName = ""
    header.StudyInstanceUID = stable_uid(person.number, study)
    header.SeriesInstanceUID = stable_uid(person.number, study, instance, "series")
    header.SOPInstanceUID = stable_uid(person.number, study, instance)
    header.SeriesNumber = "1"
    header.InstanceNumber = "1"
    header.Manufacturer = "cxrbatch"
    header.ManufacturerModelName = "Drawn phantom"
    return header


def image_header(
    person: Person, wrapping: Wrapping, *, study: int, instance: str, frames: int
) -> Dataset:
    """Header of a phantom radiograph, without its pixels."""
    header = person_header(person, study=study, instance=instance)
    header.Modality = wrapping.modality
    header.BodyPartExamined = wrapping.body_part
    header.ViewPosition = wrapping.view
    header.SOPClassUID = _sop_class(wrapping, frames=frames)
    header.BurnedInAnnotation = "NO"
    if wrapping.modality == "DX":
        header.PresentationIntentType = (
            "FOR PROCESSING" if wrapping.for_processing else "FOR PRESENTATION"
        )
        header.PresentationLUTShape = "INVERSE" if wrapping.grey.inverted else "IDENTITY"
    if frames > 1:
        header.NumberOfFrames = str(frames)
        header.ConversionType = "WSD"
    wrapping.grey.describe(header)
    return header


def _sop_class(wrapping: Wrapping, *, frames: int) -> UID:
    if frames > 1:
        return MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    if wrapping.modality == "CR":
        return ComputedRadiographyImageStorage
    if wrapping.for_processing:
        return DigitalXRayImageStorageForProcessing
    return DigitalXRayImageStorageForPresentation


def dicom_bytes(
    drawings: list[Plane], person: Person, wrapping: Wrapping, *, study: int, instance: str
) -> bytes:
    """One DICOM file.

    Args:
        drawings: One for each frame, each of shape (rows, columns) in [0, 1].
        person: Who was drawn.
        wrapping: How they are packed.
        study: Number of the study, from 1.
        instance: Names the object within the study.

    Returns:
        The file's bytes.
    """
    header = image_header(person, wrapping, study=study, instance=instance, frames=len(drawings))
    stored = [wrapping.grey.store(drawing) for drawing in drawings]
    put_pixels(header, stored, syntax=wrapping.syntax)
    return file_bytes(header, syntax=wrapping.syntax, bare=wrapping.bare)


def put_pixels(header: Dataset, stored: list[Stored], *, syntax: UID) -> None:
    """Encode frames, each of shape (rows, columns), into Pixel Data (7FE0,0010)."""
    header.Rows, header.Columns = stored[0].shape
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    wire = np.stack(stored)
    big = syntax == ExplicitVRBigEndian
    header.PixelData = wire.astype(wire.dtype.newbyteorder(">" if big else "<")).tobytes()
    header["PixelData"].VR = "OB" if header.BitsAllocated == 8 else "OW"
    if syntax == RLELossless:
        header.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax in _ENCODERS:
        encode, bits = _ENCODERS[syntax], header.BitsStored
        _put_encapsulated(header, [bytes(encode(frame, bits)) for frame in stored])
    elif syntax == JPEGBaseline8Bit:
        _put_encapsulated(header, [jpeg_bytes(frame) for frame in stored])
        header.LossyImageCompression = "01"
        header.LossyImageCompressionMethod = "ISO_10918_1"
    header.file_meta.TransferSyntaxUID = syntax


def _put_encapsulated(header: Dataset, frames: list[bytes]) -> None:
    header.PixelData = encapsulate(frames)
    header["PixelData"].VR = "OB"


def _lossless_jpeg(grey: Stored, bits: int, *, predictor: int) -> bytes | bytearray:
    return imagecodecs.jpeg8_encode(grey, lossless=True, predictor=predictor, bitspersample=bits)


def jpeg_bytes(grey: Stored) -> bytes:
    """A grey JPEG baseline stream of 8-bit values, shape (rows, columns)."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def file_bytes(header: Dataset, *, syntax: UID, bare: bool = False) -> bytes:
    """Serialise a dataset, with preamble and file meta information unless `bare`.

    A bare file is Implicit VR Little Endian, the default transfer syntax (PS3.5 section 10.1).
    """
    stream = io.BytesIO()
    if bare:
        if syntax != ImplicitVRLittleEndian:
            raise ValueError("a file without file meta information is Implicit VR Little Endian")
        del header.file_meta
        header.save_as(stream, implicit_vr=True, little_endian=True)
        return stream.getvalue()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    header.file_meta = meta
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
