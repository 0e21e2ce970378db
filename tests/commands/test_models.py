"""`cxrbatch models` shows cards and lets foreign weights in only as plain tensors."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from cxrbatch.cli import main
from cxrbatch.model.checkpoint import load_checkpoint


@pytest.fixture
def state_dict(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def test_show_prints_the_card(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", str(tiny_checkpoint), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["classes"] == ["Normal", "COVID-19", "Viral Pneumonia"]
    assert len(card["sha256"]) == 64
    assert main(["models", "show", str(tiny_checkpoint)]) == 0
    assert "Viral Pneumonia" in capsys.readouterr().out


def test_the_variables_of_a_subcommand_are_known(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXRBATCH_MODELS_SHOW_JSON", "1")
    assert main(["models", "show", str(tiny_checkpoint)]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["name"], shown.err) == ("tiny", "")
    monkeypatch.setenv("CXRBATCH_MODELS_SHOW_JSN", "1")
    main(["models", "show", str(tiny_checkpoint)])
    assert "did you mean CXRBATCH_MODELS_SHOW_JSON?" in capsys.readouterr().err


def test_import_makes_a_checkpoint(state_dict: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    arguments = ["models", "import", str(state_dict), "-o", str(output)]
    assert main([*arguments, "--arch", "resnet18", "--classes", "Normal, Pneumonia"]) == 0
    checkpoint = load_checkpoint(output)
    assert checkpoint.card.classes == ("Normal", "Pneumonia")
    assert checkpoint.card.recipe.size == 224


@pytest.mark.parametrize(
    ("arch", "classes", "words"),
    [
        ("resnet34", "Normal,Pneumonia", "do not fit"),
        ("resnet18", "A,B,C", "do not fit"),
        ("resnet18", "A,a", "named twice"),
        ("resnet18", "A", "2 to"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    arch: str,
    classes: str,
    words: str,
    state_dict: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.safetensors"
    arguments = ["models", "import", str(state_dict), "-o", str(output), "--arch", arch]
    assert main([*arguments, "--classes", classes]) in (1, 2)
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not output.exists()


class _RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").mkdir, (str(self.mark),))


def test_a_pickle_that_runs_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, source = tmp_path / "ran", tmp_path / "evil.pt"
    for write in (lambda: torch.save(_RunsCode(mark), source), lambda: _pickle(mark, source)):
        write()
        arguments = ["models", "import", str(source), "-o", str(tmp_path / "out")]
        assert main([*arguments, "--arch", "resnet18", "--classes", "A,B"]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not mark.exists()


def _pickle(mark: Path, source: Path) -> None:
    source.write_bytes(pickle.dumps(_RunsCode(mark)))
