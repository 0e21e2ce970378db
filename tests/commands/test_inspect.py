"""`cxrbatch inspect` shows what `score` would see."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.lungs.finder import find_lungs
from cxrbatch.results.table import open_table
from cxrbatch.sample.phantom import PhantomRequest, draw_frontal
from cxrbatch.sample.projection import Detector


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    pixels = np.random.default_rng(3).integers(0, 65536, (90, 120), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "film", "PNG")
    return tmp_path / "film"


def inspected(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["inspect", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_display_is_the_image_at_full_size(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (facts,) = inspected([str(film), "--display", str(tmp_path / "d.png")], capsys)
    assert facts["outcome"] == "scored"
    assert facts["format"] == "png"
    with Image.open(film) as source, Image.open(tmp_path / "d.png") as display:
        assert display.mode == "L"
        expected = np.rint(np.asarray(source).astype(np.float64) * 255 / 65535)
        assert np.abs(np.asarray(display) - expected).max() <= 1


def test_prediction_equals_the_row_of_score(
    film: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ["--checkpoint", str(tiny_checkpoint)]
    (facts,) = inspected([str(film), *checkpoint], capsys)
    assert main(["score", str(film), "-o", str(tmp_path / "r"), *checkpoint]) == 0
    table = open_table(tmp_path / "r")
    columns = [f"{kind}_{name}" for kind in ("p", "logit") for name in table.classes]
    (row,) = table.read(["prediction", *columns]).to_pylist()
    assert facts["prediction"] == row["prediction"]
    for name in table.classes:
        assert facts["probabilities"][name] == row[f"p_{name}"]
        assert facts["logits"][name] == row[f"logit_{name}"]


def test_overlay_is_coloured(
    film: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "o.png"
    inspected([str(film), "--overlay", str(overlay), "--checkpoint", str(tiny_checkpoint)], capsys)
    with Image.open(overlay) as image:
        assert image.mode == "RGB"
        assert image.size == (120, 90)
        red, _, blue = (np.asarray(band, dtype=np.int64) for band in image.split())
        assert (red - blue).max() > 50


def test_lungs_are_drawn_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = PhantomRequest("Normal", 0, "M", Detector(160, 150))
    film, picture = tmp_path / "film.png", tmp_path / "lungs.png"
    grey = np.rint(draw_frontal(request) * 255).astype(np.uint8)
    Image.fromarray(grey).save(film)
    (facts,) = inspected([str(film), "--lungs", str(picture)], capsys)
    lungs = find_lungs(film)
    assert facts["lungs_area"] == pytest.approx(lungs.area, abs=1e-4)
    assert facts["lungs_plausible"] is lungs.plausible
    assert facts["lungs_doubts"] == [*lungs.doubts]
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image), np.asarray(lungs.overlay()))
    before = picture.read_bytes()
    assert main(["inspect", str(film), "--lungs", str(picture)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert picture.read_bytes() == before
    assert main(["inspect", str(film), "--lungs", str(picture), "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert "lungs_area" in printed
    assert "research use only" in printed


def test_lungs_of_no_image_are_no_failure_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note").write_text("a note")
    assert main(["inspect", str(tmp_path / "note"), "--lungs", str(tmp_path / "l.png")]) == 0
    printed = capsys.readouterr()
    assert "no image to write" in printed.err
    assert "lungs_" not in printed.out
    assert not (tmp_path / "l.png").exists()


def test_a_foreign_file_is_an_answer_and_a_broken_one_exit_code_3(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note").write_text("a note")
    assert main(["inspect", str(tmp_path / "note")]) == 0
    assert "not_an_image" in capsys.readouterr().out
    (tmp_path / "cut").write_bytes(film.read_bytes()[:2000])
    assert main(["inspect", str(tmp_path / "cut"), "--display", str(tmp_path / "d.png")]) == 3
    assert not (tmp_path / "d.png").exists()


def test_a_member_of_a_container_is_named_as_in_the_table(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("/a/film", film.read_bytes())
    (plain,) = inspected([str(film)], capsys)
    assert inspected([f"{tmp_path}/all.zip!//a/film"], capsys) == [plain]
    assert main(["inspect", f"{tmp_path}/all.zip!/a/film"]) == 2
    assert "no such member" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{missing}"], "is not a file"),
        (["{film}", "--overlay", "{missing}"], "needs --checkpoint"),
        (["{film}", "--display", "{film}"], "--overwrite"),
        (["{film}", "--display", "{missing}", "--lungs", "{missing}"], "two pictures"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"film": film, "missing": film.parent / "missing"}
    assert main(["inspect", *(argument.format(**places) for argument in arguments)]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 1


def test_the_file_that_is_read_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(film)
    before = film.read_bytes()
    for command in (["inspect", "--display", str(film)], ["score", "-o", str(film)]):
        assert main([*command, str(film), "--overwrite"]) == 2
        assert "choose another name" in capsys.readouterr().err
    assert film.read_bytes() == before
