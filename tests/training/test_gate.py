"""The input gate of a trained checkpoint: what it learns, flags and withholds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calls import FAST
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.errors import LabelError
from cxrbatch.model.checkpoint import load_checkpoint, read_card
from cxrbatch.model.predictor import load_model
from cxrbatch.training.foreign import MADE_KINDS, locate_foreign, make_foreign

PngMaker = Callable[[Path, np.ndarray], Path]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, write_png: PngMaker) -> Path:
    """Chequered pictures and rings, twelve of each, beside a list that is no folder."""
    root = tmp_path_factory.mktemp("foreign")
    rows, columns = np.indices((32, 32))
    for number in range(12):
        chequers = ((rows // (2 + number % 3) + columns // 4) % 2 * 255).astype(np.uint8)
        write_png(root / "chequers" / f"{number}.png", chequers)
        radius = np.hypot(rows - 16, columns - 10 - number % 5)
        write_png(root / "rings" / f"{number}.png", (np.sin(radius) * 120 + 128).astype(np.uint8))
    (root / "sources.csv").write_text("no image")
    (root / "rings" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.fixture(scope="module")
def trained(level_archive: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose gate knows chequered pictures and rings."""
    path = tmp_path_factory.mktemp("gate") / "m.safetensors"
    words = ["train", str(level_archive), *FAST, "--foreign", str(foreign), "-o", str(path)]
    assert main(words) == 0
    return path


def test_the_card_says_what_the_gate_knows_and_flags(trained: Path, foreign: Path) -> None:
    card = read_card(trained)
    assert card.gate["kinds"] == [*MADE_KINDS, "chequers", "rings"]
    flagged = card.gate["flagged"]
    assert set(flagged) == {"validation", "test", *card.gate["kinds"]}
    assert [flagged[kind]["n"] for kind in ("chequers", "rings")] == [12, 12]
    for share in flagged.values():
        low, high = share["interval"]
        assert 0 <= low <= share["value"] <= high <= 1
    assert flagged["chequers"]["value"] > 0.8
    config = (trained.parent / "m.toml").read_text()
    assert f'foreign = "{foreign}"' in config


def test_foreign_images_are_flagged_in_tables_and_withheld_on_demand(
    trained: Path, level_archive: Path, foreign: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["score", str(foreign), "--checkpoint", str(trained), "--workers", "0"]
    assert main([*words, "-o", str(tmp_path / "all.parquet")]) == 3
    assert "unlike those the model has seen" in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "all.parquet")
    scored = table[table.outcome == "scored"]
    is_flagged = scored.image_flags.map(lambda flags: "out_of_distribution" in flags)
    assert is_flagged.mean() > 0.8
    assert (scored.ood_score[is_flagged] > 99).all()
    assert (scored.ood_score[~is_flagged] <= 99).all()
    assert set(scored.ood_kind[is_flagged].dropna()) <= {*MADE_KINDS, "chequers", "rings"}
    assert scored.ood_kind[~is_flagged].isna().all()
    assert main([*words, "--gate", "-o", str(tmp_path / "gated.parquet")]) == 3
    gated = pd.read_parquet(tmp_path / "gated.parquet").loc[scored.index]
    assert ((gated.outcome == "withheld_by_gate") == is_flagged).all()
    withheld = gated[is_flagged]
    scores = ["prediction", "p_dark lung", "logit_dark lung", "heatmaps", "heatmap_scale"]
    assert withheld[scores].isna().all(axis=None)
    assert withheld.detail.str.startswith(("to the gate it looks like", "it is of no kind")).all()
    kept = gated[~is_flagged]
    pd.testing.assert_frame_equal(kept, scored[~is_flagged])
    assert (gated.ood_score == scored.ood_score).all()


def test_a_score_does_not_depend_on_what_else_is_in_the_batch(
    trained: Path, level_archive: Path, foreign: Path
) -> None:
    films = sorted(level_archive.rglob("*.png"))[:9]
    others = sorted((foreign / "rings").glob("[0-9]*.png"))
    model = load_model(trained, batch_size=8)
    together = model.predict_batch(
        [path for pair in zip(films, others[:9], strict=True) for path in pair]
    )
    alone = [model.predict(film) for film in films]
    assert [one.gate for one in together[::2]] == [one.gate for one in alone]
    assert all(one.gate.ood_score is not None for one in alone)
    flagged = [one for one in together if one.gate.is_foreign]
    assert all("out_of_distribution" in one.flags for one in flagged)


def test_a_checkpoint_without_a_gate_says_so(
    tiny_checkpoint: Path, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", str(level_archive), "--checkpoint", str(tiny_checkpoint), "--workers", "0"]
    words += ["-o", str(tmp_path / "t.parquet")]
    assert main(words) == 0
    assert "no feature statistics" in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert table.ood_score.isna().all()
    assert main([*words, "--overwrite", "--gate"]) == 2
    assert "--gate needs a checkpoint with feature statistics" in capsys.readouterr().err


def test_a_training_is_the_same_with_and_without_foreign_images(
    trained: Path, level_archive: Path, tmp_path: Path
) -> None:
    words = ["train", str(level_archive), *FAST, "-o", str(tmp_path / "n.safetensors")]
    assert main(words) == 0
    one, other = (load_checkpoint(p) for p in (trained, tmp_path / "n.safetensors"))
    assert all(np.array_equal(value, other.tensors[name]) for name, value in one.tensors.items())
    assert other.card.gate["kinds"] == list(MADE_KINDS)
    assert other.features is not None


def test_made_images_are_turned_films_blank_pictures_and_text() -> None:
    films = np.random.default_rng(0).integers(0, 256, (6, 24, 24), dtype=np.uint8)
    made = make_foreign(films, seed=3)
    assert made.kinds == MADE_KINDS
    assert made.images.shape == (36, 24, 24)
    by_kind = {name: made.of(place) for place, name in enumerate(made.kinds)}
    upright = Image.fromarray(films[1])
    for name, change in (
        ("rotated by 180 degrees", Image.Transpose.ROTATE_180),
        ("upside down", Image.Transpose.FLIP_TOP_BOTTOM),
    ):
        assert np.array_equal(by_kind[name][1], np.array(upright.transpose(change)))
    assert np.array_equal(by_kind["inverted"], ~films)
    turned = np.array(Image.fromarray(films[0]).transpose(Image.Transpose.ROTATE_90))
    assert np.array_equal(by_kind["rotated by 90 degrees"][0], turned)
    assert np.array_equal(make_foreign(films, seed=3).images, made.images)


@pytest.mark.parametrize("case", ["file", "empty", "beside", "known"])
def test_folders_that_cannot_be_used_are_refused(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    if case == "file":
        folder.write_text("x")
    else:
        (folder / "hands").mkdir(parents=True)
    if case == "beside":
        (folder / "a.png").write_text("x")
    if case == "known":
        (folder / "blank").mkdir()
        (folder / "blank" / "a.png").write_text("x")
    with pytest.raises(LabelError, match=r"folder for each kind|rename it"):
        locate_foreign(folder)


def test_a_kind_without_an_image_is_refused_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "foreign" / "hands").mkdir(parents=True)
    (tmp_path / "foreign" / "hands" / "a.png").write_text("no picture")
    words = ["train", str(level_archive), *FAST, "--foreign", str(tmp_path / "foreign")]
    assert main([*words, "-o", str(tmp_path / "m.safetensors")]) == 1
    assert "no file of the kind 'hands'" in capsys.readouterr().err
