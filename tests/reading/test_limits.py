"""Bombs: each is refused before it takes time or memory, measured in a child of its own."""

import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
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
    write_dicom,
)
from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.codestreams import list_scans
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.reading.radiograph import iterate_radiographs_bytes, read_radiographs

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


def offsets_without_fit() -> bytes:
    """As many offsets as there are frames, none of them that of a frame."""
    frames, fragments = 20_000, 49_000
    header = {0x00280008: ("IS", frames), 0x00280010: ("US", 1), 0x00280011: ("US", 1)}
    table = struct.pack(f"<{frames}I", 0, *range(1, 2 * frames - 2, 2))
    data = make_encapsulated(dataset_of(ramp(), elements=header), [b"ab"], transfer_syntax=RLE)
    head = data[: data.index(b"\xe0\x7f\x10\0OB") + 12]
    item = b"\xfe\xff\x00\xe0"
    body = item + struct.pack("<I", len(table)) + table + fragments * (item + b"\2\0\0\0ab")
    return head + body + b"\xfe\xff\xdd\xe0\0\0\0\0"


def png_of_gigabytes() -> bytes:
    header = struct.pack(">IIBBBBB", 14000, 14000, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(600_000)))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_profile() -> bytes:
    """A profile that inflates to a gigabyte, in a damaged image: it is never inflated."""
    packed = zlib.compress(bytes(1 << 20), 9)
    profile = b"profile\0\0" + packed + b"".join(packed for _ in range(1000))
    body = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 50, 8, 0, 0, 0, 0))
    body += png_chunk(b"iCCP", profile) + png_chunk(b"zTXt", profile) + png_chunk(b"IDAT", b"")
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_of_one_colour() -> bytes:
    """A whole image of 190 million black pixels in 190 kB."""
    packer = zlib.compressobj(9)
    row = bytes(13_801)
    packed = b"".join(packer.compress(row) for _ in range(13_800)) + packer.flush()
    header = struct.pack(">IIBBBBB", 13_800, 13_800, 8, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def png_chunks_without_end() -> bytes:
    body = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 50, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"teXt", b"") * 1_000_000


def resized(frame: bytes, rows: int, columns: int) -> bytes:
    """A JPEG that claims another size."""
    marker = b"\xff\xc2" if b"\xff\xc2" in frame else b"\xff\xc0"
    at = frame.index(marker) + 5
    return frame[:at] + struct.pack(">HH", rows, columns) + frame[at + 4 :]


def jpeg_of_nothing() -> bytes:
    return resized(make_image_file(ramp(bits=8).astype("u1"), "JPEG"), 16_000, 12_000)


def jpeg_progressive_claim() -> bytes:
    frame = make_image_file(ramp(bits=8).astype("u1"), "JPEG", progressive=True)
    return resized(frame[:-2] + bytes(400_000) + b"\xff\xd9", 16_000, 12_000)


def jpeg_scans() -> bytes:
    frame = make_image_file(np.zeros((4000, 4000), np.uint8), "JPEG", progressive=True)
    last = list_scans(frame)[-1]
    again = frame[frame.rindex(b"\xff\xda") : last.end]
    return frame[: last.end] + again * 9000 + frame[last.end :]


def jpeg_long_scans() -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (500, 500)).astype(np.uint8)
    frame = make_image_file(noise, "JPEG", progressive=True)
    last = list_scans(frame)[-1]
    again = frame[frame.rindex(b"\xff\xda") : last.end]
    return frame[: last.end] + again * ((14 << 20) // len(again)) + frame[last.end :]


def claims_j2k() -> bytes:
    frame = imagecodecs.jpeg2k_encode(ramp(), codecformat="J2K", reversible=True)
    frame = frame[:8] + struct.pack(">IIII", 13000, 13000, 0, 0) + frame[24:]
    frame = frame[:24] + struct.pack(">II", 13000, 13000) + frame[32:]
    dataset = dataset_of(ramp(), elements=MIDDLE)
    return make_encapsulated(dataset, [frame], transfer_syntax="1.2.840.10008.1.2.4.90")


def claims_jpeg_ls() -> bytes:
    frame = imagecodecs.jpegls_encode(ramp())
    at = frame.index(b"\xff\xf7") + 5
    frame = frame[:at] + struct.pack(">HH", 13000, 13000) + frame[at + 4 :]
    dataset = dataset_of(ramp(), elements=MIDDLE)
    return make_encapsulated(dataset, [frame], transfer_syntax="1.2.840.10008.1.2.4.80")


def claims_lossless() -> bytes:
    frame = imagecodecs.jpeg8_encode(ramp(), bitspersample=12, lossless=True, predictor=1)
    at = frame.index(b"\xff\xc3") + 5
    frame = frame[:at] + struct.pack(">HH", 13000, 13000) + frame[at + 4 :]
    dataset = dataset_of(ramp(), elements=MIDDLE)
    return make_encapsulated(dataset, [frame], transfer_syntax="1.2.840.10008.1.2.4.70")


def fragment_of_gigabytes() -> bytes:
    data = make_encapsulated(dataset_of(ramp()), [rle_frame(ramp())], transfer_syntax=RLE)
    at = data.rindex(b"\xfe\xff\x00\xe0") + 4
    return data[:at] + struct.pack("<I", 800 << 20) + data[at + 4 : -8]


BOMBS: dict[str, Callable[[], bytes]] = {
    "claims raw": claims_raw,
    "claims raw within the limit": claims_raw_within_the_limit,
    "claims frames": claims_frames,
    "claims RLE": claims_rle,
    "replicating RLE": replicating_rle,
    "claims JPEG": claims_jpeg,
    "claims JPEG 2000": claims_j2k,
    "claims JPEG-LS": claims_jpeg_ls,
    "claims JPEG lossless": claims_lossless,
    "deflated": deflated_to_gigabytes,
    "nested": lambda: nested_sequences(defined=False),
    "nested, defined": lambda: nested_sequences(defined=True),
    "element of 4 GB": element_of_four_gigabytes,
    "endless header": endless_header,
    "fragments": fragments_without_end,
    "offsets": offsets_without_fit,
    "PNG": png_of_gigabytes,
    "PNG, one colour": png_of_one_colour,
    "PNG, profile": png_profile,
    "PNG, chunks": png_chunks_without_end,
    "JPEG of nothing": jpeg_of_nothing,
    "JPEG, progressive": jpeg_progressive_claim,
    "JPEG, scans": jpeg_scans,
    "JPEG, long scans": jpeg_long_scans,
}

# Start of a file, and the length that it is widened to with a hole.
SPARSE: dict[str, tuple[Callable[[], bytes], int]] = {
    "element of 4 GB, there": (element_of_four_gigabytes, 5 << 30),
    "element of 800 MB, there": (
        lambda: element_of_four_gigabytes()[:-4] + struct.pack("<I", 800 << 20),
        860 << 20,
    ),
    "fragment of 800 MB": (fragment_of_gigabytes, 850 << 20),
    "PNG": (png_of_gigabytes, 860 << 20),
    "PNG of zeros": (lambda: png_of_gigabytes()[:41], 860 << 20),
    "PNG within its size": (lambda: png_of_gigabytes()[:33], 500 << 20),
    "JPEG": (jpeg_of_nothing, 860 << 20),
    "JPEG within its size": (jpeg_of_nothing, 190 << 20),
}


def measure(path: Path) -> tuple[dict[str, object], float, float]:
    """What became of a file, and the seconds and megabytes that it took in a child."""
    source, target = os.pipe()
    with warnings.catch_warnings():
        # The child only reads, whatever threads of other libraries it does not inherit.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            report(path, target)
        finally:
            os._exit(1)
    os.close(target)
    with os.fdopen(source) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    row, took, grown = json.loads(text)
    return row, took, grown


def report(path: Path, target: int) -> None:
    with os.fdopen(target, "w") as pipe:
        before = peak()
        start = time.process_time()
        readings = list(read_radiographs(path))
        took = time.process_time() - start
        row = {"outcomes": [reading.outcome.value for reading in readings]}
        row["shown"] = sum(reading.display is not None for reading in readings)
        pipe.write(json.dumps([row, took, peak() - before]))
    os._exit(0)


def peak() -> float:
    """The most memory that this process ever held, in MB; of a child, since its fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def check(name: str, path: Path) -> None:
    row, took, grown = measure(path)
    (outcome,) = row["outcomes"]
    # RLE that goes on and on is a whole image after the first bytes of it.
    if name != "replicating RLE":
        assert row["shown"] == 0
        harmless = name == "nested, defined" or name.startswith("element of 8")
        assert Outcome(outcome).kind is OutcomeKind.FAILED or harmless
    assert outcome != Outcome.OUT_OF_MEMORY
    assert took < 1.0
    assert grown < 300


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_a_second(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name]())
    check(name, path)


@pytest.mark.parametrize(
    ("modality", "items", "expected"),
    [
        ("DX", 2_000, Outcome.SCORED),
        ("DX", 5_000, Outcome.TOO_LARGE),
        ("CT", 5_000, Outcome.NOT_A_RADIOGRAPH),
    ],
)
def test_a_long_sequence_is_read_or_told(modality: str, items: int, expected: Outcome) -> None:
    """What many items belong to is excluded by its modality, whichever comes first."""
    groups = [Dataset() for _ in range(items)]
    dataset = dataset_of(ramp(), modality=modality, elements={0x00209222: ("SQ", groups)})
    # One that tells its length is passed over at once.
    dataset[0x00209222].is_undefined_length = True
    (reading,) = iterate_radiographs_bytes(write_dicom(dataset))
    assert reading.outcome is expected


@pytest.mark.parametrize("name", SPARSE)
def test_large_files_are_refused_unread(name: str, tmp_path: Path) -> None:
    start, length = SPARSE[name]
    path = tmp_path / "bomb"
    path.write_bytes(start())
    os.truncate(path, length)
    check(name, path)
