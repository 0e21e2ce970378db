"""What PngSuite is made of, feature by feature: PNG written from the specification and damaged."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from makers import make_png, png_chunk
from PIL import Image, ImageOps

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes

RNG = np.random.default_rng(11)
WEIGHTS = np.array([0.299, 0.587, 0.114])
SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = [(d, 0) for d in (1, 2, 4, 8, 16)] + [(d, c) for c in (2, 4, 6) for d in (8, 16)]

ANCILLARY = {
    "gAMA": struct.pack(">I", 35000),
    "cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    "sBIT": b"\x05",
    "bKGD": b"\0\x80",
    "pHYs": struct.pack(">IIB", 1, 4, 0),
    "tIME": struct.pack(">HBBBBB", 1970, 1, 1, 0, 0, 0),
    "tEXt": b"Title\0a title",
    "zTXt": b"Title\0\0" + zlib.compress(b"a title" * 20),
    "iTXt": b"Title\0\0\0\0\0a title",
    "sPLT": b"six\0\x08" + bytes(36),
    "eXIf": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0",
    "acTL": struct.pack(">II", 1, 0),
    "prIv": b"nobody knows this one",
}


def read(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    assert reading.format == "png"
    assert (reading.outcome is Outcome.SCORED) == (reading.display is not None)
    return reading


def samples(depth: int, colour_type: int, rows: int, columns: int) -> np.ndarray:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    shape = (rows, columns) if channels == 1 else (rows, columns, channels)
    return RNG.integers(0, 1 << depth, shape).astype(np.uint16)


def expected(values: np.ndarray, depth: int, colour_type: int) -> np.ndarray:
    """Luminance over black."""
    scaled = values / ((1 << depth) - 1)
    if colour_type in (4, 6):
        scaled = scaled[..., :-1] * scaled[..., -1:]
        scaled = scaled[..., 0] if colour_type == 4 else scaled
    return scaled @ WEIGHTS if colour_type in (2, 6) else scaled


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def assemble(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(png_chunk(name, body) for name, body in chunks)


def grey(rows: int = 19, columns: int = 23) -> tuple[np.ndarray, list[tuple[bytes, bytes]]]:
    values = samples(8, 0, rows, columns)
    return values / 255, chunks_of(make_png(values, depth=8, colour_type=0))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "colour_type"), KINDS)
def test_every_size_in_every_kind(depth: int, colour_type: int, interlaced: bool) -> None:
    for size in [*range(1, 10), *range(32, 41)]:
        values = samples(depth, colour_type, size, 41 - size)
        data = make_png(values, depth=depth, colour_type=colour_type, interlaced=interlaced)
        np.testing.assert_allclose(
            read(data).display, expected(values, depth, colour_type), atol=1e-5
        )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes(depth: int, interlaced: bool) -> None:
    palette = RNG.integers(0, 256, (1 << depth, 3)).astype(np.uint8)
    index = samples(depth, 3, 13, 17)
    data = make_png(
        index, depth=depth, colour_type=3, palette=palette.tobytes(), interlaced=interlaced
    )
    np.testing.assert_allclose(read(data).display, (palette / 255 @ WEIGHTS)[index], atol=1e-5)
    with Image.open(io.BytesIO(data)) as image:
        twin = np.asarray(image.convert("RGB")) / 255 @ WEIGHTS
    np.testing.assert_allclose(read(data).display, twin, atol=1e-5)


def test_a_short_transparency_leaves_the_rest_opaque() -> None:
    palette = RNG.integers(1, 256, (16, 3)).astype(np.uint8)
    index = samples(4, 3, 13, 17)
    data = make_png(
        index, depth=4, colour_type=3, palette=palette.tobytes(), transparency=b"\0\x80"
    )
    opacity = np.ones(16)
    opacity[:2] = 0, 128 / 255
    formula = (palette / 255 @ WEIGHTS * opacity)[index]
    np.testing.assert_allclose(read(data).display, formula, atol=1e-5)


@pytest.mark.parametrize(("depth", "colour_type"), [(d, c) for d, c in KINDS if c in (0, 2)])
def test_the_transparent_colour_at_full_depth(depth: int, colour_type: int) -> None:
    values = samples(depth, colour_type, 13, 17)
    key = np.atleast_1d(values[3, 4])
    values[0, 0] = values[3, 4] ^ 1  # a neighbour in the last bit is another colour
    unused = 0 if depth == 16 else 0xFF00 & ~((1 << depth) - 1)
    body = (key.astype(int) | unused).astype(">u2").tobytes()
    formula = expected(values, depth, colour_type)
    formula[(values.reshape(13, 17, -1) == key).all(axis=2)] = 0
    data = make_png(values, depth=depth, colour_type=colour_type, transparency=body)
    np.testing.assert_allclose(read(data).display, formula, atol=1e-5)


@pytest.mark.parametrize("name", ANCILLARY)
@pytest.mark.parametrize("place", [1, -1])
def test_other_chunks_change_nothing(name: str, place: int) -> None:
    formula, chunks = grey()
    chunks.insert(place, (name.encode(), ANCILLARY[name]))
    np.testing.assert_allclose(read(assemble(chunks)).display, formula, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_image_data_in_any_pieces(level: int, step: int) -> None:
    formula, chunks = grey()
    packed = zlib.compress(zlib.decompress(chunks[1][1]), level)
    pieces = [(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step)]
    empty = (b"IDAT", b"")
    data = assemble([chunks[0], empty, *pieces, empty, chunks[-1]]) + b"more behind the end"
    np.testing.assert_allclose(read(data).display, formula, atol=1e-6)


SIGNATURES = {
    "xs1": b"\x09PNG\r\n\x1a\n",
    "xs2": b"\x89QNG\r\n\x1a\n",
    "xs4": b"\x89PNg\r\n\x1a\n",
    "xs7": b"\x89PNG\r\n \n",
    "xcr": b"\x89PNG\r\r\n\x1a\r\n",
    "xlf": b"\x89PNG\n\x1a\n",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_damaged_signature_is_corrupt(name: str) -> None:
    data = assemble(grey()[1])
    assert read(SIGNATURES[name] + data[8:]).outcome is Outcome.CORRUPT


def header(**changed: int) -> bytes:
    fields = {"width": 23, "height": 19, "depth": 8, "colour": 0, "z": 0, "filter": 0, "lace": 0}
    return struct.pack(">IIBBBBB", *(fields | changed).values())


DAMAGE = {
    "xc1, colour type 1": lambda c: [(b"IHDR", header(colour=1)), *c[1:]],
    "xc9, colour type 9": lambda c: [(b"IHDR", header(colour=9)), *c[1:]],
    "xd0, depth 0": lambda c: [(b"IHDR", header(depth=0)), *c[1:]],
    "xd3, depth 3": lambda c: [(b"IHDR", header(depth=3)), *c[1:]],
    "xd9, depth 99": lambda c: [(b"IHDR", header(depth=99)), *c[1:]],
    "xdt, no IDAT": lambda c: [c[0], c[-1]],
    "no columns": lambda c: [(b"IHDR", header(width=0)), *c[1:]],
    "no rows": lambda c: [(b"IHDR", header(height=0)), *c[1:]],
    "compression 1": lambda c: [(b"IHDR", header(z=1)), *c[1:]],
    "filter 64": lambda c: [(b"IHDR", header(filter=64)), *c[1:]],
    "interlace 2": lambda c: [(b"IHDR", header(lace=2)), *c[1:]],
    "long header": lambda c: [(b"IHDR", header() + b"\0"), *c[1:]],
    "two headers": lambda c: [c[0], *c],
    "header second": lambda c: [c[1], c[0], c[-1]],
    "unknown critical chunk": lambda c: [c[0], (b"CRIT", b""), *c[1:]],
    "nameless chunk": lambda c: [c[0], (b"\0\0\0\0", b""), *c[1:]],
    "IDAT in two places": lambda c: [*c[:-1], (b"tEXt", b"a\0b"), (b"IDAT", b""), c[-1]],
    "no palette": lambda c: [(b"IHDR", header(colour=3)), *c[1:]],
    "palette behind IDAT": lambda c: [(b"IHDR", header(colour=3)), c[1], (b"PLTE", b"abc"), c[-1]],
    "two palettes": lambda c: [c[0], (b"PLTE", b"abc"), (b"PLTE", b"abc"), *c[1:]],
    "palette of two bytes": lambda c: [(b"IHDR", header(colour=3)), (b"PLTE", b"ab"), *c[1:]],
    "index beyond the palette": lambda c: [
        (b"IHDR", header(colour=3)),
        (b"PLTE", bytes(3 * 100)),
        *c[1:],
    ],
    "transparency of one byte": lambda c: [c[0], (b"tRNS", b"\0"), *c[1:]],
    "filter 5 in a row": lambda c: [
        c[0],
        (b"IDAT", zlib.compress(b"\x05" + zlib.decompress(c[1][1])[1:])),
        c[-1],
    ],
    "not deflated": lambda c: [c[0], (b"IDAT", b"\x78\x9c" + b"\xff" * 500), c[-1]],
    "adler checksum": lambda c: [c[0], (b"IDAT", c[1][1][:-1] + bytes([c[1][1][-1] ^ 1])), c[-1]],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_structure_is_corrupt(name: str) -> None:
    reading = read(assemble(DAMAGE[name](grey()[1])))
    assert reading.outcome is Outcome.CORRUPT


@pytest.mark.parametrize("name", ["IHDR", "PLTE", "tRNS", "IDAT", "tEXt", "IEND"])
def test_any_wrong_checksum_is_corrupt(name: str) -> None:
    """PngSuite's xhd and xcs, and the same for all other chunks."""
    chunks = chunks_of(
        make_png(samples(4, 3, 5, 5), depth=4, colour_type=3, palette=bytes(48), transparency=b"\1")
    )
    chunks.insert(1, (b"tEXt", b"a\0b"))
    data = bytearray(assemble(chunks))
    assert read(bytes(data)).outcome is Outcome.SCORED
    at = data.index(name.encode())
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 0x80
    assert read(bytes(data)).outcome is Outcome.CORRUPT


@pytest.mark.parametrize("lost", [1, 24, 100])
def test_missing_rows_or_bytes_are_a_truncation(lost: int) -> None:
    """24 bytes are just the last row, which Pillow does not miss."""
    _, chunks = grey()
    raw = zlib.decompress(chunks[1][1])
    short = [chunks[0], (b"IDAT", zlib.compress(raw[:-lost])), chunks[-1]]
    assert read(assemble(short)).outcome is Outcome.TRUNCATED
    cut = [chunks[0], (b"IDAT", chunks[1][1][:-lost]), chunks[-1]]
    assert read(assemble(cut)).outcome is Outcome.TRUNCATED
    assert read(assemble(chunks)[:-lost]).outcome is Outcome.TRUNCATED


def test_libpng_is_the_judge_of_image_data() -> None:
    """What inflates beforehand never makes an image that libpng would not, nor loses one."""
    values = samples(8, 0, 37, 41) // 8
    chunks = chunks_of(make_png(values, depth=8, colour_type=0))
    raw, packed = zlib.decompress(chunks[1][1]), chunks[1][1]
    streams = [packed + b"more", zlib.compress(raw + b"more"), zlib.compress(raw + bytes(42))]
    for _ in range(2000):
        damaged = bytearray(packed)
        damaged[RNG.integers(len(packed))] ^= 1 << RNG.integers(8)
        streams.append(bytes(damaged))
    outcomes = set()
    for stream in streams:
        data = assemble([chunks[0], (b"IDAT", stream), chunks[-1]])
        reading = read(data)
        outcomes.add(reading.outcome)
        try:
            pixels = imagecodecs.png_decode(data)
        except imagecodecs.PngError:
            assert reading.outcome in (Outcome.CORRUPT, Outcome.TRUNCATED)
        else:
            np.testing.assert_allclose(reading.display, pixels / 255, atol=1e-6)
    assert outcomes == {Outcome.SCORED, Outcome.CORRUPT, Outcome.TRUNCATED}


def test_libpngs_words_stay_unheard(capfd: pytest.CaptureFixture[str]) -> None:
    data = make_png(samples(8, 0, 9, 9), depth=8, colour_type=0, interlaced=True)
    assert read(data).outcome is Outcome.SCORED
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "I;16"])
@pytest.mark.parametrize("turn", range(9))
def test_it_is_turned_as_its_exif_says(turn: int, kind: str) -> None:
    values = RNG.integers(0, 256, (19, 23), dtype=np.uint8)
    image = (
        Image.fromarray(values).convert(kind)
        if kind != "I;16"
        else Image.fromarray(values.astype(np.uint16) * 257)
    )
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    chunks = chunks_of(file.getvalue())
    assert b"eXIf" in dict(chunks)
    upright = np.asarray(
        ImageOps.exif_transpose(Image.open(file)).convert("L" if kind != "I;16" else None)
    )
    wanted = upright / (65535 if kind == "I;16" else 255)
    chunks_behind = [c for c in chunks if c[0] != b"eXIf"]
    chunks_behind.insert(-1, (b"eXIf", dict(chunks)[b"eXIf"]))
    for data in (file.getvalue(), assemble(chunks_behind)):
        reading = read(data)
        np.testing.assert_allclose(reading.display, wanted, atol=1e-6)
        assert (reading.facts.rows, reading.facts.columns) == wanted.shape
