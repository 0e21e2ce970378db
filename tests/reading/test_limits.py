"""Bombs: each is refused before it takes time or memory."""

import resource
import struct
import time
import zlib

import pytest
from makers import (
    DEFLATED,
    EXPLICIT,
    JPEG_BASELINE,
    RLE,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    png_chunk,
    ramp,
    rle_frame,
)

from cxrbatch.reading.outcomes import Kind, Outcome
from cxrbatch.reading.radiograph import read_radiographs_bytes

SIZE = {0x00280010: ("US", 65535), 0x00280011: ("US", 65535)}
MIDDLE = {0x00280010: ("US", 13000), 0x00280011: ("US", 13000)}


def claims_raw() -> bytes:
    return make_dicom(ramp(), elements=SIZE)


def claims_raw_within_the_limit() -> bytes:
    return make_dicom(ramp(), elements=MIDDLE)


def claims_frames() -> bytes:
    return make_dicom(ramp(), elements={0x00280008: ("IS", 2**31 - 1)})


def claims_rle() -> bytes:
    dataset = dataset_of(ramp(), elements=MIDDLE)
    return make_encapsulated(dataset, [rle_frame(ramp())], transfer_syntax=RLE)


def replicating_rle() -> bytes:
    """Segments that go on for ever: 20 MB that would unpack to more than a gigabyte."""
    segment = b"\x81\x00" * 5_000_000
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    frame = header + segment + segment
    return make_encapsulated(dataset_of(ramp()), [frame], transfer_syntax=RLE)


def claims_jpeg() -> bytes:
    frame = make_image_file(ramp(bits=8).astype("u1"), "JPEG")
    at = frame.index(b"\xff\xc0") + 5
    frame = frame[:at] + struct.pack(">HH", 13000, 13000) + frame[at + 4 :]
    dataset = dataset_of(ramp(bits=8).astype("u1"), bits_stored=8, elements=MIDDLE)
    return make_encapsulated(dataset, [frame], transfer_syntax=JPEG_BASELINE)


def deflated_to_gigabytes() -> bytes:
    plain = make_dicom(ramp(), elements={0x00080060: ("CS", "CR")}, transfer_syntax=DEFLATED)
    start = 132 + 12 + int.from_bytes(plain[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    body = packer.compress(struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, 2**31))
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(256))
    return plain[:start] + body + packer.flush()


def nested_sequences(*, defined: bool) -> bytes:
    depth = 20_000
    if defined:
        body = b""
        for _ in range(200):
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
            body = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(item)) + item
    else:
        opened = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
        opened += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        body = opened * depth
    data = make_dicom(None, transfer_syntax=EXPLICIT)
    return data + body


def element_of_four_gigabytes() -> bytes:
    data = make_dicom(None, transfer_syntax=EXPLICIT)
    return data + struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, 0xFFFFFFFE)


def endless_header() -> bytes:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    opened = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    return make_dicom(None) + opened + item * 1_000_000


def fragments_without_end() -> bytes:
    frame = make_encapsulated(dataset_of(ramp()), [rle_frame(ramp())], transfer_syntax=RLE)
    return frame[:-8] + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000


def png_of_gigabytes() -> bytes:
    header = struct.pack(">IIBBBBB", 14000, 14000, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(600_000)))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


BOMBS = {
    "claims raw": claims_raw,
    "claims raw within the limit": claims_raw_within_the_limit,
    "claims frames": claims_frames,
    "claims RLE": claims_rle,
    "replicating RLE": replicating_rle,
    "claims JPEG": claims_jpeg,
    "deflated": deflated_to_gigabytes,
    "nested": lambda: nested_sequences(defined=False),
    "nested, defined": lambda: nested_sequences(defined=True),
    "element of 4 GB": element_of_four_gigabytes,
    "endless header": endless_header,
    "fragments": fragments_without_end,
    "PNG": png_of_gigabytes,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_a_second(name: str) -> None:
    data = BOMBS[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    (reading,) = read_radiographs_bytes(data)
    took = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # RLE that goes on and on is a whole image after the first bytes of it.
    if name != "replicating RLE":
        assert reading.display is None
        harmless = name in ("nested, defined", "endless header")
        assert reading.outcome.kind is Kind.FAILED or harmless
    assert reading.outcome is not Outcome.OUT_OF_MEMORY
    assert took < 1.0
    assert grown < 300
