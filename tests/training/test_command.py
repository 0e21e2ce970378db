"""`cxrbatch train` from end to end: on a small archive of PNGs, and refusing bad input."""

import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from calls import FAST, PngMaker, labels_csv, one_error, ordinary
from sklearn.metrics import roc_auc_score

from cxrbatch.cli import main
from cxrbatch.model.checkpoint import bundled_checkpoint, file_sha256, load_checkpoint, read_card
from cxrbatch.results.frames import load_results
from cxrbatch.results.table import open_table

NUMBERS = ["path", "prediction", "logit_dark lung", "p_white lung", "heatmaps", "image_hash"]


def test_class_folders_become_a_checkpoint(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    options = [
        *FAST,
        "--epochs",
        "2",
        "--draws",
        "160",
        "--name",
        "lungs",
        "--classes",
        "white lung,dark lung",
    ]
    assert main(["train", str(level_archive), "-o", str(output), *options]) == 0
    printed = capsys.readouterr()
    assert "validation (n = 4, 4 patients or pictures): balanced accuracy" in printed.out
    assert "test (n = 4, " in printed.out
    assert f"checkpoint: '{output}'" in printed.out
    assert "not a medical device" in printed.out
    assert "control, border only" in printed.out
    assert "epoch 2: loss" in printed.err
    assert "warning: no patient column" in printed.err
    checkpoint = load_checkpoint(output)
    assert checkpoint.card.name == "lungs"
    assert checkpoint.card.classes == ("white lung", "dark lung")
    assert checkpoint.card.recipe.size == 32
    training = checkpoint.card.training
    assert training["images"]["train"] == {"white lung": 16, "dark lung": 16}
    assert training["validation"]["macro_auc"]["value"] == 1.0
    assert len(training["history"]) == 2
    assert str(level_archive) not in checkpoint.card.to_json()
    assert set(checkpoint.card.operating_points["dark lung"]) == {"youden", "sensitive", "specific"}
    assert checkpoint.features is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.augmented.png",
        "model.curves.svg",
        "model.metrics.jsonl",
        "model.results.parquet",
        output.name,
        "model.split.csv",
        "model.toml",
    ]


def test_the_results_table_has_what_score_would_say(level_archive: Path, tmp_path: Path) -> None:
    output, scored = tmp_path / "m.safetensors", tmp_path / "scored.parquet"
    assert main(["train", str(level_archive), "-o", str(output), *FAST]) == 0
    command = ["score", str(level_archive), "-o", str(scored), "--checkpoint", str(output)]
    assert main([*command, "--workers", "0"]) == 0
    table = open_table(tmp_path / "m.results.parquet")
    rows = {row["path"]: row for row in table.read([*NUMBERS, "truth", "split"]).to_pylist()}
    assert len(rows) == table.rows == 8
    assert Counter(row["split"] for row in rows.values()) == {"val": 4, "test": 4}
    whole = {row["path"]: row for row in open_table(scored).read(NUMBERS).to_pylist()}
    for path, row in rows.items():
        assert row["truth"] == path.partition("/")[0]
        assert whole[path] == {name: row[name] for name in NUMBERS}


def test_the_split_of_a_csv_is_kept(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_csv(level_archive, tmp_path, split=ordinary)
    output = tmp_path / "model.safetensors"
    assert main(["train", str(labels), "-o", str(output), *FAST, "--geometry", "pad"]) == 0
    assert "no patient column" not in capsys.readouterr().err
    card = load_checkpoint(output).card
    assert card.name == "model"
    assert card.recipe.geometry == "pad"
    assert card.training["split"]["given"] is True
    assert card.training["images"]["test"] == {"dark lung": 4, "white lung": 4}


def test_a_seed_gives_the_same_bytes_and_a_checkpoint_to_start_from(
    level_archive: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / name / "m.safetensors" for name in ("a", "b", "c")]
    for output, more in zip(outputs, ([], [], ["--init", str(outputs[0])]), strict=True):
        output.parent.mkdir()
        command = ["train", str(level_archive), "-o", str(output), *FAST, "--seed", "5"]
        assert main([*command, *more]) == 0
    first, again, later = outputs
    assert first.read_bytes() == again.read_bytes() != later.read_bytes()
    assert read_card(later).training["initial_weights"] == file_sha256(first)


def test_one_macro_auc_of_validation_in_log_card_curves_and_table(
    tmp_path: Path, write_png: PngMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three classes, where a temperature and offsets change the areas."""
    rng = np.random.default_rng(3)
    for label, level in (("a", 90), ("b", 115), ("c", 140)):
        for i in range(30):
            grey = level + rng.normal(0, 20) + rng.integers(-30, 31, (32, 32))
            write_png(tmp_path / "films" / label / f"{i:02}.png", grey.clip(0, 255).astype("u1"))
    output = tmp_path / "m.safetensors"
    command = ["train", str(tmp_path / "films"), "-o", str(output), *FAST, "--draws", "24"]
    assert main([*command, "--epochs", "3", "--precision", "fp32"]) == 0
    printed = capsys.readouterr()
    training = read_card(output).training
    kept = training["history"][training["chosen_epoch"] - 1]
    area = training["validation"]["macro_auc"]["value"]
    assert kept["macro_auc"] == area == max(epoch["macro_auc"] for epoch in training["history"])
    line = f"validation macro AUC {area:.4f}\n"
    assert f"kept epoch {kept['number']} of 3: {line}" in printed.out
    (logged,) = [x for x in printed.err.splitlines() if x.startswith(f"epoch {kept['number']}:")]
    assert logged.endswith(line.strip())
    title = f"Validation macro AUC, best {area:.4f} in epoch {kept['number']}"
    assert title in (tmp_path / "m.curves.svg").read_text()
    rows = load_results(tmp_path / "m.results.parquet").query("split == 'val'")
    scores = rows[["p_a", "p_b", "p_c"]].to_numpy()
    assert roc_auc_score(rows["truth"], scores, multi_class="ovr") == pytest.approx(area, abs=1e-9)


def test_the_bundled_model_is_a_start_by_name(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(level_archive), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main([*command, "--init", "default"]) == 0
    assert "--init has a head for other classes" in capsys.readouterr().err
    start = read_card(tmp_path / "m.safetensors").training["initial_weights"]
    assert start == file_sha256(bundled_checkpoint())


# Bad input


@pytest.mark.parametrize(
    "ending", ["split.csv", "results.parquet", "curves.svg", "augmented.png", "metrics.jsonl"]
)
def test_what_lies_beside_the_output_is_not_replaced_unasked(
    ending: str, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / f"model.{ending}"
    mine.write_text("mine")
    command = ["train", str(level_archive), "-o", str(tmp_path / "model.safetensors"), *FAST]
    assert main(command) == 2
    assert f"{mine} exists" in one_error(capsys)
    assert mine.read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0


def test_an_output_that_is_there_is_refused_and_left(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    output.write_bytes(b"an earlier model")
    assert main(["train", str(level_archive), "-o", str(output), *FAST]) == 2
    assert "--overwrite" in one_error(capsys)
    assert output.read_bytes() == b"an earlier model"
    assert main(["train", str(level_archive), "-o", str(output), *FAST, "--overwrite"]) == 0
    assert load_checkpoint(output).card.name == "model"


@pytest.mark.parametrize("removed", [0, 1], ids=["nothing", "the best checkpoint"])
def test_stopped_between_its_output_and_its_end_it_goes_on_to_the_same(
    removed: int, level_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.safetensors"
    command = ["train", str(level_archive), "-o", str(output), *FAST]
    unlink, left = Path.unlink, iter(range(removed))

    def stopping(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "model.training" and output.exists() and next(left, None) is None:
            raise OSError(errno.EIO, "stopped")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stopping)
    assert main(command) == 1
    monkeypatch.undo()
    before = file_sha256(output)
    monkeypatch.setattr("cxrbatch.training.trainer.Trainer.step", None)  # nothing is trained again
    assert main([*command, "--resume"]) == 0
    assert file_sha256(output) == before
    assert not (tmp_path / "model.training").exists()


def test_several_sources_and_a_cache_that_is_kept(level_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "dark.csv").write_text(
        "path,label\n" + "".join(f"dark lung/{i:02}.png,dark lung\n" for i in range(20))
    )
    names = [f"white lung/{i:02}.png" for i in range(20)]
    pq.write_table(
        pa.table({"path": names, "label": ["white lung"] * 20}), tmp_path / "white.parquet"
    )
    sources = [str(tmp_path / "dark.csv"), str(tmp_path / "white.parquet")]
    kept = [*FAST, "--root", str(level_archive), "--cache", str(tmp_path / "cache")]
    assert main(["train", *sources, "-o", str(tmp_path / "m.safetensors"), *kept]) == 0
    (records,) = (tmp_path / "cache").glob("*.inputs")
    assert records.stat().st_size > 40 * 32 * 32
    images = read_card(tmp_path / "m.safetensors").training["images"]
    assert sum(images["train"].values()) == 32
