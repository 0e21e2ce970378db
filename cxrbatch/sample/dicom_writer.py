"""Writes drawings as DICOM files in many transfer syntaxes, byte for byte the same each time."""

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import imagecodecs
import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from cxrbatch.sample.projection import Plane

_JPEG_QUALITY = 92

Stored = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]
"""Values of pixels as a file holds them, shape (rows, columns)."""


class VoiKind(StrEnum):
    """How a phantom's header says which range of values to show (PS3.3 C.11.2)."""

    WINDOW = "one window, LINEAR, over the drawing's range"
    TWO_WINDOWS = "two windows; the first shows the drawing"
    SIGMOID = "one window with the function SIGMOID"
    NONE = "no window: the drawing fills all stored values"


@dataclass(frozen=True, slots=True)
class GreyEncoding:
    """How grey levels become stored values.

    Attributes:
        bits: Bits Stored, 8 to 16; 8 bits are allocated 8, more are allocated 16.
        inverted: Stored as MONOCHROME1.
        voi: Which range the header says to show.
        signed: Stored as two's complement, half of the range subtracted; the Rescale Intercept
            adds it back.
    """

    bits: int = 12
    inverted: bool = False
    voi: VoiKind = VoiKind.WINDOW
    signed: bool = False

    @property
    def top(self) -> int:
        """The largest unsigned value, 2^bits - 1."""
        return (1 << self.bits) - 1

    def store(self, drawing: Plane) -> Stored:
        """Turn a drawing into stored pixel values; if `inverted`, each is subtracted from `top`.

        Args:
            drawing: Shape (rows, columns), in [0, 1]. If `voi` is NONE, 0 and 1 become the smallest
                and largest value, 0 and `top`; else values about 5 % and 90 % of the way to `top`,
                before they are inverted or signed.

        Returns:
            Same shape: int16 if `signed`, else uint8 for 8 bits and uint16 for more.
        """
        low, span = self._range()
        levels = low + np.floor(drawing * span + 0.5).astype(np.int64)
        if self.inverted:
            levels = self.top - levels
        if self.signed:
            return (levels - (1 << self.bits - 1)).astype(np.int16)
        return levels.astype(np.uint8) if self.bits == 8 else levels.astype(np.uint16)

    def describe(self, header: Dataset) -> None:
        """Set, in a header, the elements that say how the values of `store` are shown.

        These are samples per pixel, photometric interpretation, bits and sign; for signed values
        the rescale; and the window or windows of `voi`.
        """
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME1" if self.inverted else "MONOCHROME2"
        header.BitsAllocated = 8 if self.bits == 8 else 16
        header.BitsStored = self.bits
        header.HighBit = self.bits - 1
        header.PixelRepresentation = int(self.signed)
        if self.signed:
            header.RescaleIntercept = str(1 << self.bits - 1)
            header.RescaleSlope, header.RescaleType = "1", "US"
        if self.voi is VoiKind.NONE:
            return
        # The LINEAR window that shows the drawing as it was (C.11.2.1.2).
        low, span = self._range()
        low = self.top - low - span if self.inverted else low
        center, width = low + span / 2 + 0.5, span + 1.0
        if self.voi is VoiKind.TWO_WINDOWS:
            header.WindowCenter = [f"{center:g}", f"{center * 0.8:.1f}"]
            header.WindowWidth = [f"{width:g}", f"{width * 0.5:.1f}"]
            header.WindowCenterWidthExplanation = ["STANDARD", "LUNG"]
            return
        header.WindowCenter, header.WindowWidth = f"{center:g}", f"{width:g}"
        if self.voi is VoiKind.SIGMOID:
            header.VOILUTFunction = "SIGMOID"

    def _range(self) -> tuple[int, int]:
        """Smallest stored value of a drawing, and the number of steps up to its largest."""
        if self.voi is VoiKind.NONE:
            return 0, self.top
        low = (1 << self.bits) // 20
        return low, 2 * ((self.top - 3 * low) // 2)


@dataclass(frozen=True, slots=True)
class Person:
    """An invented patient.

    Attributes:
        number: From 1; makes the id.
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
        """The invented Patient ID, such as "PHANTOM-007"."""
        return f"PHANTOM-{self.number:03d}"


@dataclass(frozen=True, slots=True)
class DicomPacking:
    """How a drawing is packed into a DICOM file.

    Attributes:
        syntax: Transfer syntax.
        grey: How grey levels become stored values.
        modality: "CR" or "DX".
        view: View Position: "PA", "AP" or "LL" (left lateral).
        body_part: Body Part Examined.
        for_processing: A DX image that is not meant for display.
        bare: Without preamble and file meta information, as some archives keep their files.
    """

    syntax: uids.UID = uids.ExplicitVRLittleEndian
    grey: GreyEncoding = field(default_factory=GreyEncoding)
    modality: str = "CR"
    view: str = "PA"
    body_part: str = "CHEST"
    for_processing: bool = False
    bare: bool = False


def stable_uid(*parts: object) -> uids.UID:
    """Make a DICOM UID (2.25 and a number) from a hash of `parts`: the same in every run.

    Source: DICOM PS3.5 section B.2.
    """
    text = "/".join(str(part) for part in ("cxrbatch sample", *parts))
    return uids.UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def person_header(person: Person, *, study: int, instance: str) -> Dataset:
    """Make a header with patient, study and series elements, without pixels.

    The study date is made from the numbers of person and study; the time is noon.

    Args:
        person: Who was drawn.
        study: Number of the study, from 1.
        instance: Name of the object within the study. The UIDs of series and object are made from
            it, the study and the person's number, that of the study from the latter two.
    """
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName, header.PatientID = person.name, person.patient_id
    header.PatientBirthDate = ""
    header.PatientSex, header.PatientAge = person.sex, f"{person.age:03d}Y"
    header.StudyDate = f"2021{person.number:02d}{study:02d}"
    header.StudyTime, header.StudyID = "120000", str(study)
    header.AccessionNumber = header.ReferringPhysicianName = ""
    header.StudyInstanceUID = stable_uid(person.number, study)
    header.SeriesInstanceUID = stable_uid(person.number, study, instance, "series")
    header.SOPInstanceUID = stable_uid(person.number, study, instance)
    header.SeriesNumber = header.InstanceNumber = "1"
    header.Manufacturer, header.ManufacturerModelName = "cxrbatch", "Drawn phantom"
    return header


def dicom_bytes(
    drawings: list[Plane], person: Person, packing: DicomPacking, *, study: int, instance: str
) -> bytes:
    """Return drawings as the bytes of one DICOM file.

    One drawing makes a CR or DX image, several a multi-frame secondary capture.

    Args:
        drawings: One for each frame, each of shape (rows, columns) in [0, 1].
        person: Who was drawn.
        packing: How the drawings are packed.
        study: Number of the study, from 1.
        instance: Name of the object within the study; makes its UID.
    """
    header = person_header(person, study=study, instance=instance)
    header.Modality = packing.modality
    header.BodyPartExamined = packing.body_part
    header.ViewPosition = packing.view
    header.SOPClassUID = uids.ComputedRadiographyImageStorage
    header.BurnedInAnnotation = "NO"
    if packing.modality == "DX":
        header.SOPClassUID = uids.DigitalXRayImageStorageForPresentation
        header.PresentationIntentType = "FOR PRESENTATION"
        header.PresentationLUTShape = "INVERSE" if packing.grey.inverted else "IDENTITY"
        if packing.for_processing:
            header.SOPClassUID = uids.DigitalXRayImageStorageForProcessing
            header.PresentationIntentType = "FOR PROCESSING"
    if len(drawings) > 1:
        header.SOPClassUID = uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
        header.NumberOfFrames, header.ConversionType = str(len(drawings)), "WSD"
    packing.grey.describe(header)
    stored = [packing.grey.store(drawing) for drawing in drawings]
    put_pixels(header, stored, syntax=packing.syntax)
    return file_bytes(header, syntax=packing.syntax, bare=packing.bare)


def put_pixels(header: Dataset, stored: list[Stored], *, syntax: uids.UID) -> None:
    """Encode frames in a transfer syntax, and set them as Pixel Data (7FE0,0010) of a header.

    Rows, Columns and the transfer syntax are set too, and for baseline JPEG the elements of lossy
    compression.

    Args:
        header: Is changed. It must already describe its pixels, as `GreyEncoding.describe` does.
        stored: Frames of one shape (rows, columns), at least one.
        syntax: The transfer syntax. One for which there is no encoder here (RLE, baseline JPEG and
            lossless JPEG, JPEG-LS and JPEG 2000 have one) leaves the pixels uncompressed.
    """
    header.Rows, header.Columns = stored[0].shape
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    wire = np.stack(stored)
    is_big = syntax == uids.ExplicitVRBigEndian
    header.PixelData = wire.astype(wire.dtype.newbyteorder(">" if is_big else "<")).tobytes()
    header["PixelData"].VR = "OB" if header.BitsAllocated == 8 else "OW"
    if syntax == uids.RLELossless:
        header.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax in _ENCODERS:
        encode, bits = _ENCODERS[syntax], header.BitsStored
        header.PixelData = encapsulate([bytes(encode(frame, bits)) for frame in stored])
        header["PixelData"].VR = "OB"
        if syntax == uids.JPEGBaseline8Bit:
            header.LossyImageCompression = "01"
            header.LossyImageCompressionMethod = "ISO_10918_1"
    header.file_meta.TransferSyntaxUID = syntax


def jpeg_bytes(grey: Stored) -> bytes:
    """Return a baseline JPEG file, quality 92, of uint8 values of shape (rows, columns)."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def _jpeg_lossless(grey: Stored, bits: int, *, predictor: int) -> bytes | bytearray:
    return imagecodecs.jpeg8_encode(grey, lossless=True, predictor=predictor, bitspersample=bits)


_ENCODERS: dict[uids.UID, Callable[[Stored, int], bytes | bytearray]] = {
    uids.JPEGBaseline8Bit: lambda frame, bits: jpeg_bytes(frame),
    uids.JPEG2000Lossless: lambda frame, bits: imagecodecs.jpeg2k_encode(
        frame, level=0, codecformat="j2k", bitspersample=bits, reversible=True
    ),
    uids.JPEGLossless: lambda frame, bits: _jpeg_lossless(frame, bits, predictor=4),
    uids.JPEGLosslessSV1: lambda frame, bits: _jpeg_lossless(frame, bits, predictor=1),
    uids.JPEGLSLossless: lambda frame, bits: imagecodecs.jpegls_encode(frame),
}


def file_bytes(header: Dataset, *, syntax: uids.UID, bare: bool = False) -> bytes:
    """Return a data set as the bytes of a DICOM file.

    Args:
        header: The data set, with its pixels as `syntax` has them. Its `file_meta` is replaced, or
            deleted if `bare`.
        syntax: The transfer syntax.
        bare: Whether the file has no preamble and no file meta information; it is then Implicit VR
            Little Endian, the default transfer syntax (PS3.5 section 10.1).

    Raises:
        ValueError: If `bare` is asked for with another transfer syntax.
    """
    stream = io.BytesIO()
    if bare:
        if syntax != uids.ImplicitVRLittleEndian:
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
