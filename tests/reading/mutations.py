"""Read damaged files and print what became of each: `python mutations.py COUNT [FIRST]`."""

import io
import json
import random
import struct
import sys
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    JPEG_BASELINE,
    RLE,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    make_lut,
    make_png,
    png_chunk,
    ramp,
    rle_frame,
)
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement

from cxrbatch.reading.radiograph import ReadingOptions, iterate_radiographs_bytes

NAMES = ("JPGExtended.dcm", "SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm")
JPEG = "1.2.840.10008.1.2.4."
GREY = ramp(bits=8).astype(np.uint8)
COLOUR = np.stack([GREY, GREY, 255 - GREY], -1)


def originals() -> list[bytes]:
    """Small files of every kind that is read."""
    files = [*plain_dicom(), *compressed_dicom(), *rasters()]
    for name in NAMES:
        path = get_testdata_file(name, download=False)
        if path is not None:
            with open(path, "rb") as file:
                files.append(file.read())
    return files


def plain_dicom() -> Iterator[bytes]:
    lut = {0x00283010: ("SQ", [make_lut(list(range(4096)), first=0, bits=12)])}
    yield make_dicom(ramp(), elements=lut)
    yield make_dicom(np.stack([ramp()] * 3))
    for transfer_syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED):
        yield make_dicom(ramp(), transfer_syntax=transfer_syntax)


def compressed_dicom() -> Iterator[bytes]:
    cells = ramp()
    lossless = {"level": 100, "bitspersample": 12, "lossless": True, "predictor": 1}
    frames = {
        RLE: rle_frame(cells),
        JPEG + "51": imagecodecs.jpeg8_encode(cells, level=95, bitspersample=12),
        JPEG + "57": imagecodecs.jpeg8_encode(cells, **lossless),
        JPEG + "70": imagecodecs.jpeg8_encode(cells, **lossless),
        JPEG + "80": imagecodecs.jpegls_encode(cells),
        JPEG + "90": imagecodecs.jpeg2k_encode(cells, codecformat="J2K", reversible=True),
    }
    for transfer_syntax, frame in frames.items():
        yield make_encapsulated(dataset_of(cells), [frame], transfer_syntax=transfer_syntax)
    baseline = make_image_file(GREY, "JPEG")
    yield make_encapsulated(
        dataset_of(GREY, bits_stored=8), [baseline], transfer_syntax=JPEG_BASELINE
    )


def rasters() -> Iterator[bytes]:
    yield make_image_file(ramp(), "PNG")
    yield make_image_file(COLOUR, "PNG")
    yield make_png(GREY % 16, depth=4, colour_type=3, palette=bytes(48), transparency=b"\1")
    yield make_png(ramp(), depth=16, colour_type=0, interlaced=True, transparency=b"\0\1")
    yield make_png(np.stack([GREY, GREY], -1), depth=16, colour_type=4)
    yield make_image_file(GREY, "JPEG")
    yield make_image_file(GREY, "JPEG", progressive=True)
    yield make_image_file(COLOUR, "JPEG", restart_marker_blocks=2)
    yield make_image_file(COLOUR, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01")


def damage(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Flip bytes, cut, take out, repeat, overwrite, or rewrite fields; mostly in the header."""
    kind = generator.choice(("flip", "flip", "cut", "remove", "repeat", "fill", "field", "field"))
    if kind == "field":
        fields = fields_of(data)
        if fields:
            return kind, rewritten(data, generator.choice(fields), generator)
        kind = "flip"
    mutable = bytearray(data)
    # Headers are short, and damage there reaches more of the code.
    reach = min(len(mutable), generator.choice((700, 3000, len(mutable))))
    at = generator.randrange(reach)
    length = generator.randrange(1, 64)
    if kind == "flip":
        for _ in range(generator.randrange(1, 9)):
            mutable[generator.randrange(reach)] = generator.randrange(256)
    elif kind == "cut":
        del mutable[at:]
    elif kind == "remove":
        del mutable[at : at + length]
    elif kind == "repeat":
        mutable[at:at] = mutable[at : at + length]
    else:
        mutable[at : at + length] = bytes([generator.choice((0, 1, 0x7F, 0xFF))]) * length
    return kind, bytes(mutable)


def fields_of(data: bytes) -> list[tuple[int, int]]:
    """Start and length of each length and value: of elements, chunks or segments."""
    if data[128:132] == b"DICM":
        dataset = dcmread(io.BytesIO(data))
        if dataset.file_meta.TransferSyntaxUID == DEFLATED:
            return []
        raw = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118
        known = [item for item in raw if isinstance(item, RawDataElement)]
        at = [(item.value_tell, item.length) for item in known if item.length != 0xFFFFFFFF]
        return [(start - 4, 4) for start, _ in at] + [(start, min(8, size)) for start, size in at]
    if data.startswith(b"\x89PNG"):
        return [(at + 8, 13) for at in positions(data, b"IHDR", b"PLTE", b"tRNS", b"IDAT")]
    return [(at, 12) for at in positions(data, b"\xff\xc0", b"\xff\xc2", b"\xff\xda", b"\xff\xc4")]


def positions(data: bytes, *names: bytes) -> list[int]:
    return [data.index(name) - 4 * (len(name) == 4) for name in names if name in data]


def rewritten(data: bytes, field: tuple[int, int], generator: random.Random) -> bytes:
    """A field with another value, extreme or random; a PNG's checksum follows."""
    start, length = field
    value = generator.choice((bytes(length), b"\xff" * length, generator.randbytes(length)))
    if generator.random() < 0.5 and length:
        at = generator.randrange(length)
        value = data[start : start + at] + value[:1] + data[start + at + 1 : start + length]
    mutable = data[:start] + value + data[start + length :]
    if not data.startswith(b"\x89PNG"):
        return mutable
    end = start + struct.unpack_from(">I", data, start - 8)[0]
    chunk = png_chunk(mutable[start - 4 : start], mutable[start:end])
    assert zlib.crc32(data[start - 4 : end]) == struct.unpack_from(">I", data, end)[0]
    return mutable[: start - 8] + chunk + mutable[end + 4 :]


def mutants(count: int, first: int = 0) -> Iterator[tuple[int, str, int, bytes]]:
    """Number, kind of damage, bytes that are missing, and the damaged file."""
    files = originals()
    for number in range(first, first + count):
        generator = random.Random(number)
        original = generator.choice(files)
        kind, data = damage(original, generator)
        yield number, kind, len(original) - len(data), data


def main(count: int, first: int = 0) -> None:
    """One line of JSON for each file."""
    options = ReadingOptions(render_all=True)
    for number, kind, missing, data in mutants(count, first):
        outcomes = []
        for reading in iterate_radiographs_bytes(data, options):
            outcomes.append(reading.outcome.value)
            if reading.display is not None:
                assert np.isfinite(reading.display).all()
                assert reading.display.min() >= 0
                assert reading.display.max() <= 1
        row = {"number": number, "kind": kind, "missing": missing, "outcomes": outcomes[:8]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
