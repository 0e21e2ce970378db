"""What films are like beside their pixels, and that parts on disk are whole or absent."""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cxrbatch.auditing.audit import Audit
from cxrbatch.auditing.films import FilmReader, WantedFilm, chunks, sharpness_of
from cxrbatch.auditing.labelled_scoring import names_in
from cxrbatch.auditing.parts import cells_of, packed, read_part, write_part
from cxrbatch.auditing.passes import taken
from cxrbatch.model.preprocessing import Recipe, image_hash
from cxrbatch.reading.display import GreyImage
from cxrbatch.reading.radiograph import ReadingOptions, read_radiographs
from cxrbatch.results.label_files import LabelOptions, load
from cxrbatch.scoring.file_reader import Origin


def grey(values: np.ndarray) -> GreyImage:
    return GreyImage(values.astype(np.float32))


def test_sharpness_is_of_the_rim_alone() -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((400, 300))
    assert sharpness_of(grey(noise)) == pytest.approx(1.0, abs=0.05)
    smooth = np.cumsum(np.cumsum(noise, axis=0), axis=1)
    assert sharpness_of(grey(smooth / smooth.max())) < 0.01
    middle = noise.copy()
    middle[50:350, 40:260] = 0.0
    assert sharpness_of(grey(middle)) == pytest.approx(sharpness_of(grey(noise)))
    assert math.isnan(sharpness_of(grey(np.zeros((400, 300)))))
    assert math.isnan(sharpness_of(grey(np.zeros((1, 1)))))


def test_the_quality_of_a_jpeg_is_measured(tmp_path: Path) -> None:
    film = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 60), np.uint8))
    reader = FilmReader(Origin(str(tmp_path).encode(), Recipe(32), ReadingOptions()))
    found = {}
    for quality in (50, 95):
        film.save(tmp_path / f"{quality}.jpg", quality=quality)
        (reading,) = read_radiographs(tmp_path / f"{quality}.jpg")
        assert reading.image is not None
        hashed = image_hash(Recipe(32).prepare(reading.image))
        found[quality] = reader.read(WantedFilm(f"{quality}.jpg", 0, hashed, 1))
    assert found[50].jpeg_quantisation > 2 * found[95].jpeg_quantisation > 0
    assert (found[50].image_rows, found[50].image_columns) == (80, 60)
    film.save(tmp_path / "p.png")
    (reading,) = read_radiographs(tmp_path / "p.png")
    hashed = image_hash(Recipe(32).prepare(reading.image))
    assert math.isnan(reader.read(WantedFilm("p.png", 0, hashed, 1)).jpeg_quantisation)
    other = reader.read(WantedFilm("50.jpg", 0, hashed, 1))
    assert (other.prepared, other.absence) == (None, "changed since it was scored")


def test_parts_come_back_and_belong_to_one_run(tmp_path: Path) -> None:
    cells = np.random.default_rng(0).random((5, 3, 2)).astype(np.float32)
    write_part(tmp_path / "a", {"c": packed(cells), "n": pa.array(range(5))}, run="one")
    part = read_part(tmp_path / "a", run="one")
    assert part is not None
    assert np.array_equal(cells_of(part["c"], np.float32, (3, 2)), cells)
    assert part["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert read_part(tmp_path / "a", run="two") is None
    assert read_part(tmp_path / "b", run="one") is None
    whole = (tmp_path / "a").read_bytes()
    for cut in (0, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:cut])
        assert read_part(tmp_path / "a", run="one") is None


def test_rows_are_taken_across_chunks() -> None:
    spans = chunks(2500)
    assert [len(span) for span in spans] == [1024, 1024, 452]
    parts = [np.array(span)[:, None].astype(np.uint16) for span in spans]
    rows = np.array([0, 2499, 1023, 1024])
    assert taken(parts, rows)[:, 0].tolist() == rows.tolist()
    assert taken(parts, rows[:0]).shape == (0, 1)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("path,label\na/b.png,x\nc\\\\d.png,y\n", {}, {"b.png", "d.png"}),
        ("path,label,split\na.png,x,train\nb.png,y,test\n", {}, {"b.png"}),
        ("path,label\nfilms.zip!/a/b.png,x\nc.png,\n", {}, {"b.png"}),
        ("StudyInstanceUID,label\n1.2.3,x\n", {}, None),
        ("path,StudyInstanceUID,label\na.png,1.2.3,x\n", {}, None),
        ("path,StudyInstanceUID,label\na.png,1.2.3,x\n", {"by": "path"}, {"a.png"}),
        ("path,label\na.png,x\n", {"by": "sop", "path_column": "path"}, None),
    ],
)
def test_names_of_files_come_from_the_labels(
    tmp_path: Path, text: str, options: dict[str, str], expected: set[str] | None
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    given = LabelOptions(**options)
    assert names_in(load(file, given), given) == expected
    assert names_in(None, given) is None


def test_films_in_a_zip_are_audited(
    audited_films: Callable[..., Audit], labels: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in sorted(labels.parent.glob("*.dcm")):
            archive.write(file, f"films/{file.name}")
    (tmp_path / "films.zip").write_bytes(content.getvalue())
    of_folder = audited_films()
    of_zip = audited_films(data=tmp_path / "films.zip", table=tmp_path / "zip.parquet")
    assert of_zip.lost == {}
    assert of_zip.treatments == of_folder.treatments
