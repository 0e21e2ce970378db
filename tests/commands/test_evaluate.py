"""`cxrbatch evaluate`: one step from labelled images to figures, and figures into a card."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import cxrbatch
from cxrbatch.cli import main
from cxrbatch.model.checkpoint import load_checkpoint, read_card

MERGED = ["--map", "Pneumonia=COVID-19, Viral Pneumonia"]
IMAGES = 24

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty-four noisy images in one folder, every second one labelled Normal in labels.csv."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "archive"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,label"]
    for number in range(IMAGES):
        grey = rng.integers(0, 100 + 6 * number, (48, 48), dtype=np.uint8)
        Image.fromarray(grey).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'Pneumonia' if number % 2 else 'Normal'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "m.safetensors"))


@pytest.fixture
def run(archive: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Evaluate the checkpoint on the archive; return exit code, stdout and stderr."""

    def call(*words: str, labels: str | None = "labels.csv") -> tuple[int, str, str]:
        output = archive.with_name("r.parquet")
        command = ["evaluate", str(checkpoint), str(archive), "-o", str(output), "--workers", "0"]
        command += ["--labels", str(archive.with_name(labels))] if labels else []
        code = main([*command, *words])
        return code, *capsys.readouterr()

    return call


def test_figures_are_printed_and_equal_those_from_python(run: Run, archive: Path) -> None:
    figures = archive.with_name("f.json")
    code, printed, _ = run(*MERGED, "--json", str(figures))
    assert code == 0
    assert "Normal, Pneumonia (COVID-19 + Viral Pneumonia)" in printed
    assert "Normal as COVID-19" in printed
    written = json.loads(figures.read_text())
    found = cxrbatch.evaluate(
        archive.with_name("r.parquet"),
        archive.with_name("labels.csv"),
        class_map={"Pneumonia": ["COVID-19", "Viral Pneumonia"]},
    )
    assert found.triage is not None
    assert written["evaluation"]["triage"]["auc"]["value"] == found.triage.auc.value
    assert written["map"] == {"Pneumonia": ["COVID-19", "Viral Pneumonia"]}
    results = cxrbatch.load_results(archive.with_name("r.parquet"))
    ill = [int(path.removesuffix(".png")) % 2 for path in results["path"]]
    assert found.triage.auc.value == pytest.approx(roc_auc_score(ill, -results["p_Normal"]))
    assert f"AUC          {found.triage.auc.value:.3f}" in printed


def test_the_table_is_that_of_score(run: Run, archive: Path, checkpoint: Path) -> None:
    run(*MERGED)
    output = archive.with_name("s.parquet")
    command = ["score", str(archive), "-o", str(output), "--checkpoint", str(checkpoint)]
    assert main([*command, "--workers", "0"]) == 0
    assert output.read_bytes() == archive.with_name("r.parquet").read_bytes()


def test_a_complete_table_is_not_scored_again(run: Run, archive: Path) -> None:
    run(*MERGED)
    before = archive.with_name("r.parquet").stat()
    code, printed, _ = run(*MERGED)
    assert code == 0
    assert "nothing to do: the table is complete" in printed
    assert archive.with_name("r.parquet").stat().st_mtime_ns == before.st_mtime_ns


def test_a_table_of_another_checkpoint_is_kept(
    run: Run, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*MERGED)
    before = archive.with_name("r.parquet").read_bytes()
    command = ["evaluate", "default", str(archive), "-o", str(archive.with_name("r.parquet"))]
    assert main([*command, "--labels", str(archive.with_name("labels.csv")), *MERGED]) == 2
    assert "the checkpoint" in capsys.readouterr().err
    assert archive.with_name("r.parquet").read_bytes() == before


def test_class_folders_are_a_truth(run: Run, archive: Path) -> None:
    for number in range(IMAGES):
        folder = archive / ("pneumonia" if number % 2 else "normal")
        folder.mkdir(exist_ok=True)
        (archive / f"{number}.png").rename(folder / f"{number}.png")
    code, printed, _ = run(*MERGED, labels=None)
    assert code == 0
    assert "the class folders of the archive" in printed
    assert "Pneumonia as COVID-19" in printed


def test_an_unreadable_image_gives_exit_code_3_with_figures(run: Run, archive: Path) -> None:
    (archive / "cut.png").write_bytes((archive / "0.png").read_bytes()[:200])
    code, printed, _ = run(*MERGED)
    assert code == 3
    assert "balanced" in printed


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--map", "Pneumonia=Flu,TB,COVID-19"], 1, "'Flu', 'TB', which are no classes"),
        (["--map", "x=COVID-19"], 1, "labels name no class of the model, 1 different texts"),
        (["--map", "P=COVID-19,Normal", "--map", "Q=Normal,Viral Pneumonia"], 2, "'Normal' to two"),
        ([*MERGED, "--json", "{labels}"], 2, "exists"),
        ([*MERGED, "--overwrite", "--json", "{labels}"], 2, "is to be read"),
        ([*MERGED, "--overwrite", "-o", "{checkpoint}"], 2, "is to be read"),
        ([*MERGED, "--json", "{output}"], 2, "both name"),
        ([*MERGED, "--record", "a\nb"], 2, "is no name"),
        ([*MERGED, "--check-labels"], 2, "a table that exists"),
        ([*MERGED, "--update", "--overwrite"], 2, "give one of them"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_scored(
    words: Sequence[str], code: int, message: str, run: Run, archive: Path, checkpoint: Path
) -> None:
    places = {
        "{labels}": archive.with_name("labels.csv"),
        "{output}": archive.with_name("r.parquet"),
        "{checkpoint}": checkpoint,
    }
    found, _, error = run(*(str(places.get(word, word)) for word in words))
    assert found == code
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not archive.with_name("r.parquet").exists()
    load_checkpoint(checkpoint)


def test_labels_can_be_checked_against_the_table(run: Run) -> None:
    run(*MERGED)
    code, printed, _ = run(*MERGED, "--check-labels")
    assert code == 0
    assert "'Normal' 12, 'Pneumonia' 12" in printed


def test_figures_are_recorded_and_the_table_stays_that_of_the_checkpoint(
    run: Run, checkpoint: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_checkpoint(checkpoint)
    code, printed, _ = run(*MERGED, "--record", "Hospital B")
    assert code == 0
    assert "recorded" in printed
    card = read_card(checkpoint)
    figures = card.training["external"]["Hospital B"]
    assert (figures["n"], figures["classes"]) == (24, {"Normal": 12, "Pneumonia": 12})
    assert figures["map"] == {"Pneumonia": ["COVID-19", "Viral Pneumonia"]}
    shares = [share["value"] for share in figures["predicted"]["Normal"].values()]
    assert sum(shares) == pytest.approx(1.0)
    after = load_checkpoint(checkpoint)
    assert after.sha256 == before.sha256
    table = archive.with_name("r.parquet").read_bytes()
    code, printed, _ = run(*MERGED)
    assert code == 0
    assert "nothing to do" in printed
    code, _, error = run(*MERGED, "--record", "Hospital B")
    assert code == 2
    assert "figures of 'Hospital B' already" in error
    assert run(*MERGED, "--record", "Hospital B", "--overwrite")[0] == 0
    # The card in the table has no recorded figures, so that its bytes are the same.
    assert archive.with_name("r.parquet").read_bytes() == table
    assert main(["models", "show", str(checkpoint)]) == 0
    assert "external      Hospital B: n 24, AUC of abnormal" in capsys.readouterr().out


def test_the_bundled_model_is_not_changed(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "default", str(archive), "-o", str(archive.with_name("r.parquet"))]
    command += ["--labels", str(archive.with_name("labels.csv")), "--record", "B"]
    pneumonia = "Pneumonia=COVID-19,Viral Pneumonia,Lung Opacity"
    assert main([*command, "--map", pneumonia]) == 2
    assert "give the path of a copy" in capsys.readouterr().err
