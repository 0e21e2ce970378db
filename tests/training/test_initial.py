"""Weights to start from, ours and ImageNet's, with and without a head that fits."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from trainees import CARD, new_model

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import file_sha256
from cxrbatch.model.network import RadiographResNet, build_model, save_checkpoint
from cxrbatch.training.initial import read_initial, start_from

CLASSES = CARD.classes


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As downloaded: a thousand classes, three channels; random here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = torchvision.models.resnet18().state_dict()
    folder = tmp_path_factory.mktemp("imagenet")
    torch.save(state, folder / "resnet18.pth")
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["resnet18.pth", "model.safetensors"])
def test_imagenet_weights_come_in_without_their_head(imagenet: Path, name: str) -> None:
    initial = read_initial(imagenet / name, architecture="resnet18")
    given = torch.load(imagenet / "resnet18.pth", weights_only=True)
    model, fresh = new_model(), new_model()
    start_from(initial, model, classes=CLASSES)
    assert initial.head_rows(CLASSES) is None
    assert torch.equal(model.fc.weight, fresh.fc.weight)
    assert torch.equal(model.conv1.weight, given["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(model.layer4[1].bn2.bias, given["layer4.1.bn2.bias"])
    assert initial.sha256 == file_sha256(imagenet / name)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of the classes dark, bright and COVID-19."""
    path = tmp_path / "m.safetensors"
    card = replace(CARD, classes=("dark", "bright", "COVID-19"))
    save_checkpoint(path, model=three_classes(5), card=card)
    return path


def three_classes(seed: int) -> RadiographResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(replace(CARD, classes=("x", "y", "z")))


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (("dark", "bright", "COVID-19"), [0, 1, 2]),
        (("COVID-19", "dark", "bright"), [2, 0, 1]),
        (("Bright", "covid 19", "dark"), [1, 2, 0]),
    ],
)
def test_the_head_of_the_same_classes_is_kept_in_any_order(
    checkpoint: Path, classes: tuple[str, ...], rows: list[int]
) -> None:
    """Each class has the logit that the checkpoint gives it, to the last bit."""
    initial, model = read_initial(checkpoint, architecture="resnet18"), three_classes(0)
    start_from(initial, model, classes=classes)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = initial.model.eval()(images), model.eval()(images)
    assert not torch.equal(expected[:, 0], expected[:, 1])
    assert torch.equal(found, expected[:, rows])


@pytest.mark.parametrize(
    "classes", [("dark", "bright", "grey"), ("dark", "dark", "bright"), ("dark", "bright")]
)
def test_a_head_of_other_classes_is_not_used(checkpoint: Path, classes: tuple[str, ...]) -> None:
    initial = read_initial(checkpoint, architecture="resnet18")
    model = three_classes(0) if len(classes) == 3 else new_model()
    before = model.fc.weight.detach().clone()
    start_from(initial, model, classes=classes)
    assert initial.head_rows(classes) is None
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.layer1[0].conv1.weight, initial.model.layer1[0].conv1.weight)


def test_a_state_dict_of_as_many_classes_keeps_its_head(tmp_path: Path) -> None:
    torch.save(new_model(5).state_dict(), tmp_path / "m.pt")
    initial = read_initial(tmp_path / "m.pt", architecture="resnet18")
    assert initial.head_rows(CLASSES) == (0, 1)


def test_another_architecture_is_refused_with_the_remedy(tmp_path: Path, imagenet: Path) -> None:
    card: Card = replace(CARD, architecture="resnet18")
    save_checkpoint(tmp_path / "m.safetensors", model=new_model(), card=card)
    with pytest.raises(CheckpointError, match="give --arch resnet18"):
        read_initial(tmp_path / "m.safetensors", architecture="resnet34")
    with pytest.raises(CheckpointError, match="do not fit resnet34"):
        read_initial(imagenet / "resnet18.pth", architecture="resnet34")


@pytest.mark.parametrize(
    "content", [b"", b"not weights", b"\x08\0\0\0\0\0\0\0{\xff\xff", b"PK\x03\x04" + b"\0" * 60]
)
def test_a_file_of_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_initial(tmp_path / "m.pt", architecture="resnet18")
    with pytest.raises(CheckpointError):
        read_initial(tmp_path / "none", architecture="resnet18")
    with pytest.raises(CheckpointError):
        read_initial(tmp_path, architecture="resnet18")


@pytest.mark.parametrize(
    ("name", "value"), [("layer1.0.bn1.running_var", -1.0), ("layer1.0.bn1.weight", 1e30)]
)
def test_weights_that_give_no_scores_are_refused(
    tmp_path: Path, imagenet: Path, name: str, value: float
) -> None:
    state = torch.load(imagenet / "resnet18.pth", weights_only=True)
    state[name][3] = value
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"negative|no finite scores"):
        read_initial(tmp_path / "broken.pth", architecture="resnet18")


def test_a_head_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    # One number, however many outputs it is said to be for.
    torch.save({"fc.weight": torch.zeros(1, 1).expand(2**40, 1)}, tmp_path / "huge.pt")
    with pytest.raises(CheckpointError, match="give --init another file"):
        read_initial(tmp_path / "huge.pt", architecture="resnet18")


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "init.pth")
    with pytest.raises(CheckpointError, match=r"init\.pth: not a regular file; check its name"):
        read_initial(tmp_path / "init.pth", architecture="resnet18")
