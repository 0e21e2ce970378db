"""Read damaged files and print what became of each: `python mutations.py COUNT [FIRST]`."""

import json
import random
import sys

import numpy as np
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    JPEG_BASELINE,
    RLE,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    make_lut,
    ramp,
    rle_frame,
)
from pydicom.data import get_testdata_file

from cxrbatch.reading.radiograph import ReadingOptions, read_radiographs_bytes

NAMES = (
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "examples_palette.dcm",
)


def originals() -> list[bytes]:
    """Small files of every kind that is read."""
    grey = ramp(bits=8).astype(np.uint8)
    lut = {0x00283010: ("SQ", [make_lut(list(range(4096)), first=0, bits=12)])}
    files = [
        make_dicom(ramp(), elements=lut),
        make_dicom(ramp(), transfer_syntax=BIG_ENDIAN),
        make_dicom(ramp(), transfer_syntax=DEFLATED),
        make_encapsulated(dataset_of(ramp()), [rle_frame(ramp())], transfer_syntax=RLE),
        make_encapsulated(
            dataset_of(grey, bits_stored=8),
            [make_image_file(grey, "JPEG")],
            transfer_syntax=JPEG_BASELINE,
        ),
        make_image_file(ramp(), "PNG"),
        make_image_file(np.stack([grey, grey, 255 - grey], -1), "PNG"),
        make_image_file(grey, "JPEG"),
    ]
    for name in NAMES:
        path = get_testdata_file(name, download=False)
        if path is not None:
            with open(path, "rb") as file:
                files.append(file.read())
    return files


def damage(data: bytes, generator: random.Random) -> bytes:
    """Flip bytes, cut, take out, repeat or overwrite a stretch; mostly in the header."""
    mutable = bytearray(data)
    # Headers are short, and damage there reaches more of the code.
    reach = min(len(mutable), generator.choice((700, 3000, len(mutable))))
    at = generator.randrange(reach)
    length = generator.randrange(1, 64)
    kind = generator.choice(("flip", "flip", "flip", "cut", "remove", "repeat", "fill"))
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
    return bytes(mutable)


def main(count: int, first: int = 0) -> None:
    """One line of JSON for each file."""
    files = originals()
    options = ReadingOptions(render_all=True)
    for number in range(first, first + count):
        generator = random.Random(number)
        data = damage(generator.choice(files), generator)
        outcomes = []
        for reading in read_radiographs_bytes(data, options):
            outcomes.append(reading.outcome.value)
            if reading.display is not None:
                assert np.isfinite(reading.display).all()
                assert reading.display.min() >= 0
                assert reading.display.max() <= 1
        print(json.dumps({"number": number, "outcomes": outcomes[:8]}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
