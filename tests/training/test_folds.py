"""Cross-validation by the command: a network for each fold, and one table of all images."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calls import FAST, one_error
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import cxrbatch
from cxrbatch.cli import main
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.checkpoint import file_sha256, read_card
from cxrbatch.training import labelled_images
from cxrbatch.training.console import Console
from cxrbatch.training.train import train

LABELS = ["dark lung", "white lung"]
SHORT = [*FAST[:2], "--epochs", "2", "--draws", "32", *FAST[6:]]
BROKEN = "broken.png"


@dataclass
class Trained:
    """What one call wrote, and what it said."""

    folder: Path
    flips: set[str]
    decodings: int
    said: str

    def path(self, ending: str) -> Path:
        return self.folder / f"m.{ending}"


def write_labels(archive: Path, path: Path, *, flipped: Collection[str] = ()) -> Path:
    """Two films a patient, a split that is to be ignored, some labels wrong, one file broken."""
    lines = ["path,label,patient,split"]
    for film in sorted(archive.rglob("*.png")):
        name, number = film.relative_to(archive).as_posix(), int(film.stem)
        label = LABELS[(film.parent.name == LABELS[1]) != (name in flipped)]
        lines.append(f"{film},{label},{film.parent.name[:1]}{number // 2},train")
    lines.append(f"{BROKEN},{LABELS[0]},b,test")
    (path.parent / BROKEN).write_bytes(b"\x89PNG\r\n\x1a\n")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(level_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("folds")
    flips = {"dark lung/03.png", "dark lung/14.png", "white lung/06.png", "white lung/11.png"}
    labels = write_labels(level_archive, folder / "labels.csv", flipped=flips)
    calls: list[int] = []
    decode = labelled_images.prepare_inputs
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as streams:
        patch.setattr(
            "cxrbatch.training.labelled_images.prepare_inputs",
            lambda files, **given: (calls.append(len(files)), decode(files, **given))[1],
        )
        said: list[str] = []
        streams.setattr("click.echo", lambda text="", err=False: said.append(str(text)))
        output = str(folder / "m.safetensors")
        assert main(["train", str(labels), "-o", output, *SHORT, "--folds", "3"]) == 3
    assert calls == [41]
    return Trained(folder, flips, len(calls), "\n".join(said))


@pytest.fixture(scope="module")
def table(trained: Trained) -> pd.DataFrame:
    return cxrbatch.load_results(trained.path("results.parquet"))


def probabilities(table: pd.DataFrame) -> np.ndarray:
    return table[[f"p_{label}" for label in LABELS]].to_numpy()


def test_every_image_has_one_row_of_the_fold_that_did_not_see_its_group(
    trained: Trained, table: pd.DataFrame
) -> None:
    split = pd.read_csv(trained.path("split.csv"))
    assert len(table) == len(split) == 41
    assert table["path"].is_unique
    assert [*split] == ["path", "label", "patient", "source", "fold", "group"]
    root = table.attrs["provenance"]["archive_root"]
    assert table["path"].tolist() == [p.removeprefix(f"{root}/") for p in split["path"]]
    assert table["fold"].tolist() == split["fold"].tolist()
    assert (split.groupby("group")["fold"].nunique() == 1).all()
    assert split["patient"].nunique() == 21
    assert set(table["split"]) == {"test"}
    assert table["truth"].tolist() == split["label"].tolist()
    (broken,) = np.flatnonzero(table["prediction"].isna())
    assert table["path"][broken].endswith(BROKEN)
    assert table["outcome"][broken] == "truncated"


def test_rows_and_heat_maps_are_those_of_their_folds_checkpoint(
    trained: Trained, table: pd.DataFrame
) -> None:
    made = table.attrs["provenance"]
    parts = [trained.path(f"fold{k}.safetensors") for k in (1, 2, 3)]
    assert made["checkpoints"] == [file_sha256(part) for part in parts]
    assert made["checkpoint_sha256"] not in made["checkpoints"]
    scored = table[table["prediction"].notna()]
    for number, part in enumerate(parts, 1):
        row = scored[scored["fold"] == number].iloc[0]
        film = Path(made["archive_root"]) / row["path"]
        other = parts[number % 3]
        own, foreign = (
            cxrbatch.load_model(path, device="cpu").predict(film) for path in (part, other)
        )
        p = [row[f"p_{label}"] for label in LABELS]
        assert [own.probabilities[label] for label in LABELS] == pytest.approx(p, abs=2e-3)
        assert [foreign.probabilities[label] for label in LABELS] != pytest.approx(p, abs=2e-3)


def test_figures_are_those_of_scikit_learn(trained: Trained, table: pd.DataFrame) -> None:
    figures = json.loads(trained.path("folds.json").read_text())
    scored = table[table["prediction"].notna()]
    truth, p = scored["truth"].astype(str), probabilities(scored)

    def checked(rows: pd.Series) -> tuple[float, list[float]]:
        of_rows = p[rows.to_numpy()]
        areas = [
            roc_auc_score(truth[rows] == label, of_rows[:, i]) for i, label in enumerate(LABELS)
        ]
        accuracy = balanced_accuracy_score(truth[rows], np.array(LABELS)[of_rows.argmax(axis=1)])
        return accuracy, areas

    whole = figures["out_of_fold"]
    accuracy, areas = checked(truth == truth)
    assert (figures["folds"], figures["unreadable"], whole["n"], whole["groups"]) == (3, 1, 40, 20)
    assert whole["balanced_accuracy"]["value"] == pytest.approx(accuracy)
    assert [whole["auc"][label]["value"] for label in LABELS] == pytest.approx(areas)
    assert whole["macro_auc"]["value"] == pytest.approx(np.mean(areas))
    low, high = whole["macro_auc"]["interval"]
    assert low < np.mean(areas) < high

    of_folds = [checked(scored["fold"] == k) for k in (1, 2, 3)]
    for name, values in (
        ("balanced_accuracy", [accuracy for accuracy, _ in of_folds]),
        ("macro_auc", [np.mean(areas) for _, areas in of_folds]),
    ):
        found = figures["spread"][name]
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["sd"] == pytest.approx(np.std(values, ddof=1))
        assert found["min"] == pytest.approx(min(values))
        assert found["max"] == pytest.approx(max(values))
        assert found["folds"] == 3


def test_the_usual_evaluation_counts_every_image(trained: Trained) -> None:
    evaluation = cxrbatch.evaluate(trained.path("results.parquet"), keep_copies=True)
    figures = json.loads(trained.path("folds.json").read_text())["out_of_fold"]
    assert evaluation.images == 40
    assert evaluation.macro_auc.value == figures["macro_auc"]["value"]
    assert evaluation.temperature is None


def test_a_report_names_all_checkpoints(trained: Trained, tmp_path: Path) -> None:
    given = ["report", str(trained.path("results.parquet")), "-o", str(tmp_path / "r.html")]
    assert main(given) == 0
    page = (tmp_path / "r.html").read_text()
    assert all(file_sha256(trained.path(f"fold{k}.safetensors")) in page for k in (1, 2, 3))
    assert "m, 3 folds" in page


def test_each_card_is_that_of_its_fold(trained: Trained) -> None:
    counts = pd.read_csv(trained.path("split.csv"))["fold"].value_counts()
    for number in (1, 2, 3):
        card = read_card(trained.path(f"fold{number}.safetensors"))
        assert card.name == f"m, fold {number} of 3"
        assert card.training["fold"] == {"number": number, "of": 3}
        tested = sum(card.training["images"]["test"].values())
        unreadable = sum(card.training["unreadable"].values())
        assert tested in (counts[number], counts[number] - unreadable)
    by_fold = json.loads(trained.path("folds.json").read_text())["by_fold"]
    assert [fold["checkpoint"] for fold in by_fold] == [f"m.fold{k}.safetensors" for k in (1, 2, 3)]


def test_the_labels_that_were_turned_over_are_doubted_most(trained: Trained) -> None:
    doubts = pd.read_csv(trained.path("doubts.csv"))
    assert len(doubts) == 40
    names = [f"{Path(path).parent.name}/{Path(path).name}" for path in doubts["path"]]
    assert set(names[:6]) >= trained.flips
    found = json.loads(trained.path("folds.json").read_text())["likely_wrong_labels"]
    assert doubts["likely_wrong"].sum() == found >= 3
    with Image.open(trained.path("doubts.png")) as sheet:
        assert sheet.size == ((224 + 4) * 6 + 4, (224 + 4 + 54) * 7 + 4)


def test_what_is_said(trained: Trained) -> None:
    assert "the labels have a split, which is ignored" in trained.said
    assert "fold 3 of 3" in trained.said
    assert "balanced accuracy of 3 folds: mean" in trained.said
    assert tomllib.loads(trained.path("toml").read_text())["folds"] == 3
    assert not trained.path("training").exists()
    assert not trained.path("fold1.training").exists()
    assert not (trained.folder / "m.safetensors").exists()


def words(labels: Path, output: Path, *more: str) -> list[str]:
    return ["train", str(labels), "-o", str(output), *SHORT, "--folds", "3", *more]


def test_a_killed_cross_validation_goes_on_with_its_fold(
    level_archive: Path, trained: Trained, tmp_path: Path
) -> None:
    labels = write_labels(level_archive, tmp_path / "labels.csv", flipped=trained.flips)
    # Both in processes of their own: this one may compute with more threads, and round otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "cxrbatch"]
    whole = tmp_path / "whole"
    whole.mkdir()
    in_one_go = [*program, *words(labels, whole / "m.safetensors")]
    assert (
        subprocess.run(in_one_go, capture_output=True, env=environment, check=False).returncode == 3
    )
    given = words(labels, tmp_path / "m.safetensors")
    process = subprocess.Popen([*program, *given], stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("m.fold2.training/state-*.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = (tmp_path / "m.fold1.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "m.results.parquet").exists()
    done = subprocess.run(
        [*program, *given, "--resume"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "fold 1 of 3" not in done.stderr
    assert (tmp_path / "m.fold1.safetensors").stat().st_mtime_ns == first
    for name in ("fold1.safetensors", "fold2.safetensors", "fold3.safetensors", "doubts.png"):
        assert (tmp_path / f"m.{name}").read_bytes() == (whole / f"m.{name}").read_bytes(), name
    for name in ("folds.json", "split.csv", "doubts.csv"):
        assert (tmp_path / f"m.{name}").read_text() == (whole / f"m.{name}").read_text(), name
    assert not (tmp_path / "m.training").exists()


def test_what_is_there_is_neither_overwritten_nor_mixed_up(
    trained: Trained, level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_labels(level_archive, tmp_path / "labels.csv")
    for name in ("m.fold2.safetensors", "m.results.parquet", "m.folds.json", "m.doubts.csv"):
        (tmp_path / name).write_text("mine")
        assert main(words(labels, tmp_path / "m.safetensors")) == 2
        assert name in one_error(capsys)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_an_interruption_tells_the_fold(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(words=["train", "labels.csv", "--folds", "3"])
    console.fold(2, 3)
    console.interrupted()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "after 0 whole epochs of fold 2; go on with: cxrbatch train labels.csv" in last
    assert last.endswith("--folds 3 --resume")


def test_a_fold_that_was_changed_is_not_gone_on_with(
    level_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "m.safetensors"

    def stopped(*_: object, **__: object) -> None:
        raise CxrbatchError("stopped")

    with monkeypatch.context() as early:
        early.setattr("cxrbatch.training.folds.write_results", stopped)
        given = [str(level_archive), "-o", str(output), *FAST, "--folds", "2"]
        assert main(["train", *given]) == 1
    assert one_error(capsys) == "error: stopped"
    assert main(["train", *given]) == 2
    assert "exists" in one_error(capsys)
    assert main(["train", *given[:-1], "3", "--resume"]) == 2
    assert "folds was 2, now 3" in one_error(capsys)
    assert main(["train", *given[:-2], "--resume"]) == 2
    assert "folds was 2, now None" in one_error(capsys)
    (tmp_path / "m.fold1.safetensors").write_text("other")
    assert main(["train", *given, "--resume"]) == 2
    assert "m.fold1.safetensors was changed or removed" in one_error(capsys)


def test_what_cannot_be_divided_is_refused_before_an_image_is_read(
    level_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cxrbatch.training.labelled_images.prepare_inputs", None)
    labels = write_labels(level_archive, tmp_path / "labels.csv")
    output = tmp_path / "m.safetensors"
    given = ["train", str(labels), "-o", str(output), *FAST, "--folds", "12"]
    for more in ([], ["--check-labels"]):
        assert main([*given, *more]) == 1
        assert "'dark lung' has 11, 'white lung' has 10" in one_error(capsys)
    assert main([*given, "--drop-leaks"]) == 2
    assert "--folds makes its own" in one_error(capsys)
    assert main([*given[:-1], "11", "--check-labels"]) == 1
    assert "11 folds need at least 11 " in one_error(capsys)
    assert main([*given[:-1], "10", "--check-labels"]) == 0
    for count in ("1", "21"):
        assert main([*given[:-1], count]) == 2
        capsys.readouterr()
    with pytest.raises(UsageError, match="folds is 21; give a whole number from 2 to 20"):
        train(labels, output, folds=21, progress=False)
    assert not [*tmp_path.glob("m.*")]
