"""One radiograph in every encoding, and a film and its negative: their scores are equal."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from makers import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    RLE,
    Elements,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_lut,
    make_png,
    rle_frame,
)

from cxrbatch.cli import main
from cxrbatch.results.table import open_table

Scores = dict[str, list[float]]
JPEG = "1.2.840.10008.1.2.4."


def radiograph(bits: int) -> np.ndarray:
    """Two dark lungs in a bright chest with grain, shape (210, 190), over all values of `bits`."""
    rows, columns = np.mgrid[-1:1:210j, -1:1:190j]
    lungs = sum(np.exp(-8 * (columns - side) ** 2 - 3 * rows**2) for side in (-0.45, 0.5))
    grain = np.random.default_rng(17).normal(0, 0.02, rows.shape)
    grey = 0.9 - 0.25 * rows**2 - 0.7 * lungs + grain
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    return np.rint(grey * ((1 << bits) - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def window(center: float, width: float, function: str = "LINEAR") -> Elements:
    return {
        0x00281050: ("DS", center),
        0x00281051: ("DS", width),
        0x00281056: ("CS", function),
    }


def lut(entries: np.ndarray) -> Elements:
    return {0x00283010: ("SQ", [make_lut(entries.tolist(), first=0, bits=12)])}


CURVE = np.rint(4095 * np.linspace(0, 1, 4096) ** 2).astype(int)
# Bits, and what the film and its negative say: values are turned over, so are center and table.
PAIRS: dict[str, tuple[int, Elements, Elements]] = {
    "nothing": (12, {}, {}),
    "nothing, 8 bits": (8, {}, {}),
    "nothing, 16 bits": (16, {}, {}),
    "window": (12, window(1900, 2501), window(4096 - 1900, 2501)),
    "exact window": (
        12,
        window(1900, 2501, "LINEAR_EXACT"),
        window(4095 - 1900, 2501, "LINEAR_EXACT"),
    ),
    "sigmoid": (12, window(1900, 2500, "SIGMOID"), window(4095 - 1900, 2500, "SIGMOID")),
    "lut": (12, lut(CURVE), lut(4095 - CURVE[::-1])),
}


def encodings() -> dict[str, bytes]:
    """The same 16-bit image, shown over its full range, in every lossless encoding."""
    cells = radiograph(16)
    full = window(32768, 65536)
    files = {
        name: make_dicom(cells, bits_stored=16, transfer_syntax=uid, elements=full)
        for name, uid in {
            "explicit": EXPLICIT,
            "implicit": IMPLICIT,
            "big endian": BIG_ENDIAN,
            "deflated": DEFLATED,
        }.items()
    }
    lossless = imagecodecs.jpeg8_encode(cells, bitspersample=16, lossless=True, predictor=1)
    frames = {
        "RLE": (RLE, rle_frame(cells)),
        "JPEG lossless": (JPEG + "70", lossless),
        "JPEG-LS": (JPEG + "80", imagecodecs.jpegls_encode(cells)),
        "JPEG 2000": (
            JPEG + "90",
            imagecodecs.jpeg2k_encode(cells, codecformat="J2K", reversible=True),
        ),
    }
    for name, (uid, frame) in frames.items():
        dataset = dataset_of(cells, bits_stored=16, elements=full)
        files[name] = make_encapsulated(dataset, [frame], transfer_syntax=uid)
    files["PNG"] = make_png(cells, depth=16, colour_type=0)
    files["PNG, interlaced"] = make_png(cells, depth=16, colour_type=0, interlaced=True)
    files["PNG, RGB"] = make_png(np.stack([cells] * 3, -1), depth=16, colour_type=2)
    return files


def films() -> dict[str, bytes]:
    files = {}
    for name, (bits, positive, negative) in PAIRS.items():
        cells = radiograph(bits)
        files[f"{name}, film"] = make_dicom(
            cells, bits_stored=bits, photometric="MONOCHROME1", elements=positive
        )
        files[f"{name}, twin"] = make_dicom(
            (1 << bits) - 1 - cells, bits_stored=bits, elements=negative
        )
    return files


@pytest.fixture(scope="module")
def scores(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Logits and the hash of the model's input, by name of the file."""
    folder = tmp_path_factory.mktemp("twins")
    (folder / "archive").mkdir()
    for name, data in (encodings() | films()).items():
        (folder / "archive" / name).write_bytes(data)
    output = folder / "r.parquet"
    options = ["--checkpoint", str(tiny_checkpoint), "--workers", "0", "--precision", "fp32"]
    assert main(["score", str(folder / "archive"), "-o", str(output), *options]) == 0
    table = open_table(output)
    columns = table.read(["path", *(f"logit_{name}" for name in table.classes)]).to_pydict()
    paths = columns.pop("path")
    return {path: [values[at] for values in columns.values()] for at, path in enumerate(paths)}


@pytest.mark.parametrize("name", encodings())
def test_an_encoding_does_not_change_the_score(name: str, scores: Scores) -> None:
    np.testing.assert_allclose(scores[name], scores["explicit"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_a_film_and_its_inverted_twin_score_alike(name: str, scores: Scores) -> None:
    film, twin = scores[f"{name}, film"], scores[f"{name}, twin"]
    np.testing.assert_allclose(film, twin, rtol=0, atol=1e-6)


def test_another_image_scores_differently(scores: Scores) -> None:
    different = np.abs(np.subtract(scores["window, film"], scores["lut, film"])).max()
    assert different > 1e-4
