"""`cxrbatch models` shows cards and lets foreign weights in only as plain tensors."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

from cxrbatch.cli import main
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import load_checkpoint, read_card
from cxrbatch.model.recording import CARD_KEY
from cxrbatch.model.summary import card_lines


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


def with_training(source: Path, target: Path, training: object, **changed: object) -> Path:
    """Write a checkpoint with another card."""
    card = json.loads(read_card(source).to_json()) | {"training": training} | changed
    save_file(load_file(source), target, metadata={CARD_KEY: json.dumps(card)})
    return target


def estimate(value: float) -> dict[str, object]:
    return {"value": value, "interval": [value - 0.05, value + 0.05]}


def full_training(classes: Sequence[str]) -> dict[str, object]:
    """A summary as `cxrbatch train` writes it, with figures of two hospitals."""
    figures = {
        "n": 400,
        "groups": 390,
        "balanced_accuracy": estimate(0.843),
        "macro_auc": estimate(0.9),
        "expected_calibration_error": 0.02,
        "recall": {name: estimate(0.8) for name in classes},
        "auc": {name: estimate(0.91) for name in classes},
    }
    plain = {"n": 400, "balanced_accuracy": 0.4, "macro_auc": 0.7, "recall": {}}
    elsewhere = {
        "n": 463,
        "groups": 311,
        "abnormal_auc": estimate(0.53),
        "balanced_accuracy": estimate(0.52),
        "predicted": {"Normal": {name: estimate(0.25) for name in classes}},
    }
    return {
        "validation": figures,
        "test": figures,
        "images": {side: dict.fromkeys(classes, 1234) for side in ("train", "val", "test")},
        "controls": {
            "on": "test",
            **dict.fromkeys(
                ("lungs black", "lungs mean", "lungs noise", "lungs blurred", "lungs only"), plain
            ),
            "border only": plain,
            "within sources": {"CRD": plain, "Kermany": {"n": 3, "undefined": "one class only"}},
            "twins": {"n": 317, "same class": 0.97},
        },
        "external": {"NIH": elsewhere, "Hospital B": elsewhere},
        "history": [{"loss": 0.5}] * 50,
        "initial_weights": "ab" * 32,
        "teachers": ["cd" * 32] * 3,
        "split": {"sha256": "ef" * 32, "given": True},
    }


def test_a_full_card_is_one_screen(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = read_card(tiny_checkpoint).classes
    rates = {"threshold": 0.25, "sensitivity": 0.95, "specificity": 0.875}
    points = {name: dict.fromkeys(("youden", "sensitive", "specific"), rates) for name in classes}
    sentence = "it was never tried on images of another hospital. "
    limits = [f"Limit {name}: {sentence * 4}" for name in "abc"]
    path = with_training(
        tiny_checkpoint,
        tmp_path / "m",
        full_training(classes),
        operating_points=points,
        limits=limits,
    )
    assert main(["models", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for words in (
        "test          n 400, groups 390, balanced accuracy 0.843 (0.793 to 0.893)",
        "1,234 / 1,234 / 1,234",
        "0.800 (0.750 to 0.850)",
        "0.250 (0.950, 0.875)",
        "macro AUC: lungs black 0.700, lungs mean 0.700, lungs noise 0.700",
        "CRD: n 400",
        "twins: n 317, same class 0.970",
        "NIH: n 463, AUC of abnormal 0.530",
        "Normal as Normal 0.250, COVID-19 0.250",
        "initial       abab",
        "teachers      3: cdcd",
        "Limit c",
    ):
        assert words in text


def test_the_bundled_card_is_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


_EVIL: list[object] = [
    None,
    True,
    -1,
    10**400,
    "\x1b[2J\n\u202e",
    [1],
    ["\x1b[2J"],
    {"\x1b[2J": "\r\n", "value": "\x07", "interval": [None, {}]},
    {"n": {"n": {"n": 1}}, "auc": 3, "recall": {"Normal": {"value": 10**400}}},
    {str(n): {"n": n} for n in range(99)},
    {"a" * 5000: "b" * 5000},
]


@pytest.mark.parametrize("evil", _EVIL, ids=range(len(_EVIL)))
@pytest.mark.parametrize(
    "place", ["validation", "test", "images", "controls", "external", "split", "teachers", "each"]
)
def test_a_hostile_card_is_shown_harmlessly(
    place: str,
    evil: object,
    tiny_card: Card,
) -> None:
    names = ("images", "test", "controls", "external") if place == "each" else (place,)
    training = {name: {"x": evil, "train": evil} if place == "each" else evil for name in names}
    lines = card_lines(replace(tiny_card, training=training), "0" * 64)
    assert len(lines) <= 40
    assert all(line.isprintable() and len(line) <= 100 for line in lines)


def test_many_classes_and_limits_are_counted(tiny_card: Card) -> None:
    classes = tuple(f"class {n}" for n in range(200))
    images = {"train": dict.fromkeys(classes, 5)}
    card = replace(
        tiny_card,
        classes=classes,
        training={"images": images},
        limits=tuple("limit " * 150 for _ in range(50)),
    )
    lines = card_lines(card, "0" * 64)
    assert len(lines) <= 40
    assert sum("192 more" in line for line in lines) == 1
    assert sum("42 more" in line for line in lines) == 1
