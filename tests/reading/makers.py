"""Makers of small DICOM, PNG and JPEG files, as bytes; pure functions."""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
DX_IMAGE = "1.2.840.10008.5.1.4.1.1.1.1"

Elements = Mapping[int, tuple[str, object]]


def ramp(rows: int = 40, columns: int = 50, *, bits: int = 12) -> NDArray[np.uint16]:
    """A test image that uses every part of its range and is not symmetric."""
    values = np.linspace(0, (1 << bits) - 1, rows * columns).reshape(rows, columns)
    values[5:9, 7:11] = (1 << bits) - 1
    return values.astype(np.uint16)


def dataset_of(
    cells: NDArray[np.generic] | None,
    *,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    signed: bool = False,
    modality: str | None = "DX",
    elements: Elements | None = None,
) -> Dataset:
    """A data set around cells of shape (rows, columns[, 3]) or, with frames, one axis more.

    Args:
        cells: Pixel cells; None for an object without pixels.
        photometric: Photometric Interpretation.
        bits_stored: Bits Stored; High Bit follows.
        signed: Pixel Representation.
        modality: Modality; None leaves it out.
        elements: More elements, tag to (VR, value); they win.
    """
    dataset = Dataset()
    dataset.SOPClassUID = DX_IMAGE
    dataset.SOPInstanceUID = "1.2.3.4"
    if modality is not None:
        dataset.Modality = modality
    if cells is not None:
        samples = 3 if cells.ndim > 2 and cells.shape[-1] == 3 else 1
        plane = cells.shape[:-1] if samples == 3 else cells.shape
        dataset.SamplesPerPixel = samples
        dataset.PhotometricInterpretation = photometric
        dataset.Rows, dataset.Columns = plane[-2:]
        if len(plane) == 3:
            dataset.NumberOfFrames = plane[0]
        if samples == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = 8 * cells.dtype.itemsize
        dataset.BitsStored = bits_stored
        dataset.HighBit = bits_stored - 1
        dataset.PixelRepresentation = int(signed)
        dataset.add_new(0x7FE00010, "OB" if cells.dtype.itemsize == 1 else "OW", cells.tobytes())
    for tag, (vr, value) in (elements or {}).items():
        dataset.add_new(tag, vr, value)
    return dataset


def write_dicom(dataset: Dataset, *, transfer_syntax: str = EXPLICIT) -> bytes:
    """A DICOM file; `dataset` holds pixel data that already fit the transfer syntax."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX_IMAGE)
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.file_meta = meta
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def make_dicom(
    cells: NDArray[np.generic] | None,
    *,
    transfer_syntax: str = EXPLICIT,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    signed: bool = False,
    modality: str | None = "DX",
    elements: Elements | None = None,
) -> bytes:
    """A DICOM file in an uncompressed transfer syntax; see `dataset_of`."""
    if transfer_syntax == BIG_ENDIAN and cells is not None:
        cells = cells.astype(cells.dtype.newbyteorder(">"))
    dataset = dataset_of(
        cells,
        photometric=photometric,
        bits_stored=bits_stored,
        signed=signed,
        modality=modality,
        elements=elements,
    )
    return write_dicom(dataset, transfer_syntax=transfer_syntax)


def make_hostile(values: Mapping[int, bytes]) -> bytes:
    """A DICOM file with any bytes as values, whose elements are read by their usual types."""
    data = make_dicom(ramp(), elements={tag: ("OB", value) for tag, value in values.items()})
    for tag in values:
        name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        # Of unknown type, a known element is read by the dictionary (PS3.5 section 6.2.2).
        data = data.replace(name + b"OB\0\0", name + b"UN\0\0")
    return data


def make_encapsulated(
    dataset: Dataset, frames: list[bytes], *, transfer_syntax: str, fragments: int = 1
) -> bytes:
    """A DICOM file around compressed frames, each cut into a number of fragments."""
    dataset.add_new(
        0x7FE00010, "OB", encapsulate(frames, fragments_per_frame=fragments, has_bot=True)
    )
    dataset["PixelData"].is_undefined_length = True
    return write_dicom(dataset, transfer_syntax=transfer_syntax)


def rle_frame(cells: NDArray[np.generic]) -> bytes:
    """PackBits with literal runs only, by byte planes from high to low; one sample per pixel."""
    width = cells.dtype.itemsize
    planes = cells.astype(f">u{width}").tobytes()
    segments = []
    for plane in range(width):
        data = planes[plane::width]
        runs = [data[at : at + 128] for at in range(0, len(data), 128)]
        packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets = [64 + sum(len(part) for part in segments[:at]) for at in range(len(segments))]
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def make_lut(entries: list[int], *, first: int, bits: int, vr: str = "US") -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new(0x00283002, vr, [len(entries) % 65536, first, bits])
    item.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return item


def make_image_file(
    pixels: NDArray[np.generic] | Image.Image, form: str, **options: object
) -> bytes:
    """A file written by Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def make_png(
    samples: NDArray[np.generic],
    *,
    depth: int,
    colour_type: int,
    filters: bool = True,
    interlaced: bool = False,
    transparency: bytes | None = None,
    palette: bytes | None = None,
) -> bytes:
    """A PNG of any kind, written from the specification and not by Pillow.

    Args:
        samples: Shape (rows, columns) or (rows, columns, channels).
        depth: 1, 2, 4, 8 or 16.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        filters: Use all five row filters in turn, or none.
        interlaced: Store in Adam7's passes.
        transparency: Body of tRNS.
        palette: Body of PLTE.
    """
    rows, columns = samples.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour_type, 0, 0, int(interlaced))
    steps = [(0, 0, 1, 1)]
    if interlaced:
        steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        steps += [(0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[r::dr, c::dc] for r, c, dr, dc in steps]
    raw = b"".join(_png_rows(part, depth, filters=filters) for part in parts if part.size)
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", palette)] if palette is not None else []
    chunks += [(b"tRNS", transparency)] if transparency is not None else []
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Length, name, body and checksum."""
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def _png_rows(samples: NDArray[np.generic], depth: int, *, filters: bool) -> bytes:
    channels = samples.shape[2] if samples.ndim == 3 else 1
    step = max(1, channels * depth // 8)
    above = b""
    lines = []
    for number, row in enumerate(samples):
        line = _pack_row(row, depth)
        above = above or bytes(len(line))
        kind = number % 5 if filters else 0
        lines.append(bytes([kind]) + _filter_row(line, above, step, kind))
        above = line
    return b"".join(lines)


def _pack_row(row: NDArray[np.generic], depth: int) -> bytes:
    flat = row.reshape(-1)
    if depth == 16:
        return flat.astype(">u2").tobytes()
    if depth == 8:
        return flat.astype(np.uint8).tobytes()
    bits = np.unpackbits(flat.astype(np.uint8)[:, None], axis=1)[:, -depth:]
    return np.packbits(bits.reshape(-1)).tobytes()


def _filter_row(line: bytes, above: bytes, step: int, kind: int) -> bytes:
    """The forward filters of the PNG specification, section 9.2, byte by byte."""
    result = bytearray()
    for at, value in enumerate(line):
        left = line[at - step] if at >= step else 0
        up = above[at]
        corner = above[at - step] if at >= step else 0
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda candidate: abs(guess - candidate))
        result.append((value - (0, left, up, (left + up) // 2, nearest)[kind]) % 256)
    return bytes(result)
