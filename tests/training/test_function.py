"""`train` as a function: the options of the command as arguments, and errors in their words."""

import inspect
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from calls import FAST, labels_csv, ordinary

from cxrbatch.cli import main
from cxrbatch.errors import CheckpointError, CxrbatchError, LabelError, UsageError
from cxrbatch.training.command import command
from cxrbatch.training.train import train
from cxrbatch.training.trainer import TrainingOptions

FEW = {
    "size": 32,
    "epochs": 1,
    "draws": 8,
    "batch_size": 8,
    "workers": 0,
    "device": "cpu",
    "progress": False,
}


def test_it_writes_what_the_command_writes_and_is_silent(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    result = train(str(level_archive), tmp_path / "a" / "m.safetensors", **FEW)
    assert capsys.readouterr() == ("", "")
    command = ["train", str(level_archive), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main(command) == 0
    assert result.checkpoint.read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert result.split.read_bytes() == (tmp_path / "m.split.csv").read_bytes()
    assert result.results.is_file()
    assert result.card is not None
    assert result.card.training["test"]["n"] == 4
    assert (result.unreadable, result.all_read) == ((), True)


def test_messages_and_figures_are_shown_unless_told_otherwise(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train([level_archive], str(tmp_path / "m.safetensors"), **{**FEW, "progress": True})
    printed = capsys.readouterr()
    assert "epoch 1: loss" in printed.err
    assert "balanced accuracy" in printed.out


def test_its_arguments_are_the_commands_options_with_the_same_defaults() -> None:
    arguments = dict(inspect.signature(train).parameters)
    del arguments["progress"], arguments["on_epoch"]
    options = {p.name: p for p in command.params if p.expose_value}
    assert options.keys() == arguments.keys()
    for name, option in options.items():
        default = arguments[name].default
        if default not in (inspect.Parameter.empty, None, (), False):
            assert option.default == default, name


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ({"epochs": 0}, UsageError, "epochs is 0; give a whole number from 1"),
        ({"size": 31}, UsageError, "size is 31; give a whole number from 32 to 2048"),
        ({"seed": 1 << 64}, UsageError, "seed is 18446744073709551616; give a whole number from 0"),
        ({"arch": "vit"}, UsageError, "arch is vit; choose resnet18, "),
        ({"geometry": None}, UsageError, "geometry is None; choose squeeze, pad"),
        ({"classes": "A,B"}, UsageError, "classes is the text 'A,B'; give a list of names"),
        ({"on_epoch": "print"}, UsageError, "on_epoch is 'print'; give a function"),
        ({"teacher": 7}, UsageError, "teacher is 7; give a path, or several"),
        ({"learning_rate": float("nan")}, UsageError, "learning_rate is nan"),
        ({"teacher_weight": 1.5}, UsageError, "teacher_weight is 1.5"),
        ({"device": "tpu"}, UsageError, "tpu"),
        ({"precision": "fp16"}, UsageError, "precision fp16 needs a GPU"),
        ({"limit": "two\nlines"}, UsageError, "the limit cannot be printed"),
        ({"classes": ["none"]}, LabelError, "take the name out of classes"),
        ({"init": "none.pt"}, CheckpointError, "none.pt"),
    ],
)
def test_errors_name_arguments(
    level_archive: Path,
    tmp_path: Path,
    given: dict[str, object],
    kind: type[CxrbatchError],
    expected: str,
) -> None:
    with pytest.raises(kind, match=expected) as caught:
        train(level_archive, tmp_path / "m.safetensors", **{**FEW, **given})
    assert "--" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("value", [1.5, "x", None, float("nan"), True, -1, [3]])
@pytest.mark.parametrize(
    "name", ["size", "epochs", "patience", "draws", "batch_size", "seed", "workers"]
)
def test_what_is_no_count_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    if value is None and name in ("patience", "draws", "workers"):
        return  # the default
    with pytest.raises(UsageError, match=rf"^{name} is .*; give a whole number from \d"):
        train(tmp_path, tmp_path / "m.safetensors", **{**FEW, name: value})


@pytest.mark.parametrize("value", ["0.1", None, float("nan"), True, -1, 1.5, 1j])
@pytest.mark.parametrize("name", ["learning_rate", "teacher_weight"])
def test_what_is_no_number_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"^{name} is .*; give a number from "):
        train(tmp_path, tmp_path / "m.safetensors", **{**FEW, name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    given = TrainingOptions(size=np.int32(64), epochs=np.int64(3), learning_rate=np.float32(0.5))
    options = given.checked()
    assert (options.size, options.epochs, options.learning_rate) == (64, 3, 0.5)
    assert json.loads(json.dumps(asdict(options))) == asdict(options)


def test_an_existing_output_is_refused_in_arguments(level_archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    output.touch()
    with pytest.raises(UsageError, match=r"choose another name or give overwrite=True$"):
        train(level_archive, output, **FEW)
    labels = labels_csv(level_archive, tmp_path, split=ordinary)
    with pytest.raises(UsageError, match=r"would be replaced; choose another output$"):
        train(labels, labels, **{**FEW, "overwrite": True})
