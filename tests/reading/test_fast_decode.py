"""Decoding at a reduced size: the pixels of other decoders, and else what full decoding tells."""

import io
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from makers import JPEG_BASELINE, dataset_of, make_encapsulated, make_image_file, make_png
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.reading.codecs.decoders import halvings
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes
from cxrbatch.reading.readings import memory_for

# Halved twice, 9 are 3: sides that no halving divides evenly.
ROWS, COLUMNS = 153, 201
FULL = ReadingOptions(no_voi="full_range")
JPEG = "1.2.840.10008.1.2.4."
EXTENDED, LOSSLESS, J2K_LOSSLESS, J2K, HTJ2K = (JPEG + n for n in ("51", "70", "90", "91", "201"))

Cells = NDArray[np.integer]


def film(bits: int = 12, *, noise: float = 0.01) -> Cells:
    """Smooth waves with some noise, over most of the range."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    waves = 0.5 + 0.4 * np.sin(rows / 17) * np.cos(columns / 23)
    waves += np.random.default_rng(bits).normal(0, noise, waves.shape)
    cells = (waves.clip(0, 1) * ((1 << bits) - 1)).round()
    return cells.astype(np.uint8 if bits <= 8 else np.uint16)


def j2k(cells: Cells, bits: int, **options: object) -> bytes:
    options = {"reversible": True, "level": 0} | options
    return bytes(imagecodecs.jpeg2k_encode(cells, codecformat="j2k", bitspersample=bits, **options))


def tiled_j2k(cells: Cells) -> bytes:
    """Of 16 bits, as Pillow writes it."""
    layers = {"progression": "RPCL", "irreversible": True, "quality_layers": [20, 5]}
    return make_image_file(cells, "JPEG2000", no_jp2=True, tile_size=(64, 48), **layers)


def jpeg(cells: Cells, **options: object) -> bytes:
    return make_image_file(cells, "JPEG", **({"quality": 90} | options))


def dicom(
    cells: Cells, frame: bytes, transfer_syntax: str, *, bits: int = 12, **options: object
) -> bytes:
    dataset = dataset_of(cells, bits_stored=bits, **options)
    return make_encapsulated(dataset, [frame], transfer_syntax=transfer_syntax)


def read(data: bytes, *, times: int = 0) -> Reading:
    """Read in full, or with sides that may be halved so many times."""
    least = ROWS >> times if times else None
    (reading,) = iterate_radiographs_bytes(data, replace(FULL, least_size=least))
    return reading


def levels(reading: Reading, bits: int) -> Cells:
    """Grey levels as they were stored."""
    assert reading.display is not None, reading.detail
    return np.rint(reading.display * ((1 << bits) - 1)).astype(np.int64)


def by_tool(name: str, *arguments: str, data: bytes | None = None) -> bytes:
    if shutil.which(name) is None:
        pytest.skip(f"not installed: {name}")
    done = subprocess.run([name, *arguments], input=data, capture_output=True, check=True)
    return done.stdout


def test_sides_are_halved_as_long_as_both_are_large_enough() -> None:
    for rows, columns, least, times in (
        (3000, 2500, 320, 2),
        (2560, 2560, 320, 3),
        (2560, 2559, 320, 2),
        (9000, 9000, 320, 3),
        (700, 639, 320, 0),
        (100, 100, 320, 0),
        (3000, 2500, None, 0),
    ):
        assert halvings(rows, columns, least_size=least) == times


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"quality": 100}, {"progressive": True}])
def test_jpeg_as_by_libjpegs_own_program(times: int, options: dict[str, object]) -> None:
    frame = jpeg(film(8), **options)
    drawn = by_tool("djpeg", "-scale", f"1/{1 << times}", "-grayscale", data=frame)
    wanted = np.asarray(Image.open(io.BytesIO(drawn)))
    assert wanted.shape == (-(-ROWS >> times), -(-COLUMNS >> times))
    for data in (frame, dicom(film(8), frame, JPEG_BASELINE, bits=8)):
        np.testing.assert_array_equal(levels(read(data, times=times), 8), wanted)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_2000_as_by_openjpegs_own_program(times: int, bits: int, tmp_path: Path) -> None:
    cells = film(bits)
    frames = [j2k(cells, bits), j2k(cells, bits, reversible=False, level=45)]
    frames += [tiled_j2k(cells)] if bits == 16 else []
    for frame in frames:
        (tmp_path / "film.j2k").write_bytes(frame)
        place = ["-i", str(tmp_path / "film.j2k"), "-o", str(tmp_path / "film.pgm")]
        by_tool("opj_decompress", "-r", str(times), *place)
        wanted = np.asarray(Image.open(tmp_path / "film.pgm")).astype(np.int64)
        if 8 < bits < 16:  # Pillow brings a PGM of any depth to 16 bits
            wanted = np.rint(wanted * ((1 << bits) - 1) / 65535).astype(np.int64)
        found = read(dicom(cells, frame, J2K_LOSSLESS, bits=bits), times=times)
        np.testing.assert_array_equal(levels(found, bits), wanted)


@pytest.mark.parametrize("bits", [8, 9, 12, 15, 16])
def test_signed_jpeg_2000_as_its_unsigned_twin(bits: int) -> None:
    cells = film(bits)
    signed = (cells.astype(np.int64) - (1 << (bits - 1))).astype(f"i{cells.itemsize}")
    twins = [
        read(dicom(cells, j2k(of, bits), J2K_LOSSLESS, bits=bits, signed=of is signed), times=2)
        for of in (cells, signed)
    ]
    assert all(Flag.REDUCED_DECODING in twin.flags for twin in twins)
    np.testing.assert_array_equal(levels(twins[0], bits), levels(twins[1], bits))


@pytest.mark.parametrize(
    ("transfer_syntax", "bits", "encode"),
    [
        (JPEG_BASELINE, 8, jpeg),
        (J2K_LOSSLESS, 12, lambda cells: j2k(cells, 12)),
        (J2K, 12, lambda cells: j2k(cells, 12, reversible=False, level=45)),
    ],
)
def test_a_reduced_image_is_near_to_means_of_the_full_one(
    transfer_syntax: str, bits: int, encode: Callable[[Cells], bytes]
) -> None:
    data = dicom(film(bits), encode(film(bits)), transfer_syntax, bits=bits)
    full, fast = read(data).display, read(data, times=2).display
    assert full is not None
    assert fast is not None
    means = full[: ROWS // 4 * 4, : COLUMNS // 4 * 4].reshape(ROWS // 4, 4, COLUMNS // 4, 4)
    apart = np.abs(fast[: ROWS // 4, : COLUMNS // 4] - means.mean(axis=(1, 3)))
    # JPEG 2000 is centred on every fourth pixel, 1.5 off the middle of four.
    assert apart.mean() < 0.02
    assert apart.max() < 0.06


def reducible() -> dict[str, tuple[bytes, bytes]]:
    """Files, and their compressed frame."""
    deep, shallow = film(12, noise=0.05), film(8, noise=0.05)
    deepest = film(16, noise=0.05)
    frames = {
        "j2k": (deep, j2k(deep, 12), J2K_LOSSLESS, 12),
        "lossy j2k": (deep, j2k(deep, 12, reversible=False, level=40), J2K, 12),
        "tiled j2k": (deepest, tiled_j2k(deepest), J2K, 16),
        "jpeg": (shallow, jpeg(shallow), JPEG_BASELINE, 8),
        "finest jpeg": (shallow, jpeg(shallow, quality=100), JPEG_BASELINE, 8),
        "progressive jpeg": (shallow, jpeg(shallow, progressive=True), JPEG_BASELINE, 8),
        "restarting jpeg": (shallow, jpeg(shallow, restart_marker_rows=2), JPEG_BASELINE, 8),
    }
    files = {
        name: (dicom(cells, frame, transfer_syntax, bits=bits), frame)
        for name, (cells, frame, transfer_syntax, bits) in frames.items()
    }
    return files | {"raster": (jpeg(shallow), jpeg(shallow))}


REDUCIBLE = reducible()


def rewritten(data: bytes, frame: bytes, other: bytes) -> bytes:
    """A file with other bytes in the place of its frame, of the same length."""
    return data.replace(frame, other.ljust(len(frame), b"\0"))


def told(reading: Reading) -> tuple[Outcome, str]:
    """What became of a file; of an image that was read, whose polarity has a number, no detail."""
    scored = reading.outcome is Outcome.SCORED
    return reading.outcome, "" if scored else reading.detail


@pytest.mark.parametrize("name", REDUCIBLE)
def test_what_is_cut_short_is_found_out_as_in_full(name: str) -> None:
    """The end marker stays, so that the data alone tell; each of the last 40 lengths, and others.

    What is missing last are the highest frequencies of the last block, which a small image lacks.
    """
    data, frame = REDUCIBLE[name]
    found = set()
    for missing in [*range(41), *range(41, len(frame) - 200, len(frame) // 60)]:
        cut = frame[: len(frame) - 2 - missing] + frame[-2:]
        file = cut if data == frame else rewritten(data, frame, cut)
        full, fast = read(file), read(file, times=3)
        assert told(fast) == told(full), missing
        found.add(full.outcome)
    assert found == {Outcome.SCORED, Outcome.TRUNCATED}


@pytest.mark.parametrize("name", REDUCIBLE)
def test_what_is_damaged_has_the_outcome_that_it_has_in_full(name: str) -> None:
    data, frame = REDUCIBLE[name]
    chance = random.Random(7)
    outcomes = set()
    for number in range(80):
        other = bytearray(frame)
        # Every other time in the header, where more is told.
        place = chance.randrange(len(frame) if number % 2 else min(200, len(frame)))
        other[place] = chance.choice((0, 255, chance.randrange(256)))
        file = bytes(other) if data == frame else rewritten(data, frame, bytes(other))
        full, fast = read(file), read(file, times=2)
        assert told(fast) == told(full), (place, other[place])
        outcomes.add(full.outcome)
    assert len(outcomes) > 1


def in_full_only() -> dict[str, bytes]:
    cells, shallow = film(), film(8)
    colours = np.stack([shallow, shallow, 255 - shallow], -1)
    frame = j2k(cells, 12)
    lossless = {"level": 100, "bitspersample": 12, "lossless": True, "predictor": 1}
    palette = {tag: ("US", [256, 0, 8]) for tag in (0x00281101, 0x00281102, 0x00281103)} | {
        tag: ("OW", bytes(range(256))) for tag in (0x00281201, 0x00281202, 0x00281203)
    }
    at_the_top = {0x00280102: ("US", 15)}
    more = film(16)
    return {
        "padding": dicom(cells, frame, J2K_LOSSLESS, elements={0x00280120: ("US", 0)}),
        "overlay bits": dicom(more, j2k(more, 16), J2K_LOSSLESS, bits=12),
        "high bit": dicom(cells, frame, J2K_LOSSLESS, elements=at_the_top),
        "sign in the header alone": dicom(cells, frame, J2K_LOSSLESS, signed=True),
        "a bit": dicom(cells, j2k((cells >> 11).astype(np.uint8), 1), J2K_LOSSLESS),
        "colour": dicom(colours, j2k(colours, 8), J2K_LOSSLESS, bits=8, photometric="YBR_RCT"),
        "colour JPEG": dicom(colours, jpeg(colours), JPEG_BASELINE, bits=8, photometric="YBR_FULL"),
        "palette": dicom(
            shallow,
            j2k(shallow, 8),
            J2K_LOSSLESS,
            bits=8,
            photometric="PALETTE COLOR",
            elements=palette,
        ),
        "JPEG of 12 bits": dicom(
            cells, bytes(imagecodecs.jpeg8_encode(cells, level=95, bitspersample=12)), EXTENDED
        ),
        "JPEG lossless": dicom(cells, bytes(imagecodecs.jpeg8_encode(cells, **lossless)), LOSSLESS),
        "signed JPEG": dicom(shallow, jpeg(shallow), JPEG_BASELINE, bits=8, signed=True),
        "high throughput": dicom(
            more, bytes(imagecodecs.htj2k_encode(more, reversible=True)), HTJ2K, bits=16
        ),
        "raster colour": jpeg(colours),
        "PNG": make_png(shallow, depth=8, colour_type=0),
    }


@pytest.mark.parametrize("name", in_full_only())
def test_what_a_mean_makes_no_sense_of_is_decoded_in_full(name: str) -> None:
    data = in_full_only()[name]
    full, fast = read(data), read(data, times=3)
    assert full.outcome is Outcome.SCORED, full.detail
    assert replace(full, image=None) == replace(fast, image=None)
    np.testing.assert_array_equal(full.display, fast.display)


@pytest.mark.parametrize("offset", ["1,0", "0,1"])
def test_what_lies_off_the_origin_is_decoded_in_full(offset: str, tmp_path: Path) -> None:
    """Its smaller levels may have a column or a row less than half of the image has."""
    plain, packed = tmp_path / "plain.pgm", tmp_path / "packed.j2k"
    Image.fromarray(film(8)).save(plain)
    by_tool("opj_compress", "-i", str(plain), "-o", str(packed), "-d", offset)
    fast = read(dicom(film(8), packed.read_bytes(), J2K_LOSSLESS, bits=8), times=2)
    np.testing.assert_array_equal(levels(fast, 8), film(8))


@pytest.mark.parametrize("name", REDUCIBLE)
def test_facts_are_those_of_the_file(name: str) -> None:
    full, fast = (read(REDUCIBLE[name][0], times=times) for times in (0, 2))
    assert fast.facts == full.facts
    assert (fast.facts.rows, fast.facts.columns) == (ROWS, COLUMNS)
    assert {*fast.flags} == {*full.flags, Flag.REDUCED_DECODING}
    assert fast.image is not None
    assert fast.image.shape == (-(-ROWS // 4), -(-COLUMNS // 4))


def test_a_turned_jpeg_lies_as_in_full() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    full, fast = (read(jpeg(film(8), exif=exif), times=times) for times in (0, 1))
    assert fast.facts == full.facts
    assert (fast.facts.rows, fast.facts.columns) == (COLUMNS, ROWS)
    upright = read(jpeg(film(8)), times=1)
    assert fast.display is not None
    assert upright.display is not None
    np.testing.assert_array_equal(fast.display, np.rot90(upright.display, -1))


def test_the_image_keeps_its_shape_where_halves_are_rounded_up() -> None:
    for elements in ({}, {0x00280034: ("IS", [3, 2])}):
        for name, data in (
            ("j2k", dicom(film(), j2k(film(), 12), J2K_LOSSLESS, elements=elements)),
            ("raster", jpeg(film(8))),
        ):
            full, fast = (read(data, times=times).image for times in (0, 3))
            assert full is not None
            assert fast is not None
            assert fast.pixel_aspect != full.pixel_aspect, name
            shapes = [of.shape[0] * of.pixel_aspect / of.shape[1] for of in (full, fast)]
            assert shapes[1] == pytest.approx(shapes[0], rel=1e-12)


def test_memory_stays_within_what_a_header_explains(tmp_path: Path) -> None:
    rows, columns = 2500, 2000
    cells = np.random.default_rng(1).integers(0, 4096, (rows, columns)).astype(np.uint16)
    file = tmp_path / "film.dcm"
    file.write_bytes(dicom(cells, j2k(cells, 12), J2K_LOSSLESS))
    taken = [peak_of(file, least) for least in (None, 600)]
    assert 0 < taken[1] < taken[0] <= memory_for(rows * columns)


_PEAK = """
import re, sys
from pathlib import Path
from cxrbatch.reading.radiograph import ReadingOptions, read_radiographs

def memory(name):
    found = re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: proc_pid_clear_refs(5)
before = memory("VmRSS")
(reading,) = read_radiographs(sys.argv[1], ReadingOptions(least_size=eval(sys.argv[2])))
assert reading.image is not None
print(memory("VmHWM") - before)
"""


def peak_of(file: Path, least_size: int | None) -> int:
    """Bytes that reading a file takes, in a process of its own."""
    command = [sys.executable, "-P", "-c", _PEAK, str(file), str(least_size)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)
