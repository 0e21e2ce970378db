"""State dicts come in without running code, and only where they fit."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from refusals import refused
from torch import Tensor

from cxrbatch.model.card import Card
from cxrbatch.model.network import RadiographResNet, import_state_dict


@pytest.fixture(scope="module")
def rgb() -> torch.nn.Module:
    torch.manual_seed(6)
    return torchvision.models.resnet18(num_classes=3).eval()


def imported(tmp_path: Path, state: object, card: Card) -> RadiographResNet:
    torch.save(state, tmp_path / "net.pt")
    return import_state_dict(tmp_path / "net.pt", card=card)


def test_an_rgb_stem_is_folded_exactly(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card
) -> None:
    model = imported(tmp_path, rgb.state_dict(), tiny_card)
    assert not model.training
    grey = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = rgb(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model(grey), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model", "module"])
def test_the_wrappings_of_training_scripts_are_taken_off(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card, wrapped: str
) -> None:
    state = rgb.state_dict()
    if wrapped == "module":
        given: object = {f"module.{name}": value for name, value in state.items()}
    else:
        given = state if wrapped == "plain" else {wrapped: state, "epoch": 7}
    model = imported(tmp_path, given, tiny_card)
    for name in ("fc.weight", "layer4.1.bn2.running_var", "layer1.0.conv1.weight"):
        assert torch.equal(model.state_dict()[name], state[name])


def test_a_single_channel_stem_and_half_precision_are_taken(
    tmp_path: Path, model: RadiographResNet, tiny_card: Card
) -> None:
    state = {name: value.half() for name, value in model.state_dict().items()}
    found = imported(tmp_path, state, tiny_card)
    assert found.conv1.weight.dtype == torch.float32
    assert torch.equal(found.conv1.weight, model.conv1.weight)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card, legacy: bool
) -> None:
    trace = tmp_path / "exploded"
    state = {**rgb.state_dict(), "fc.bias": Bomb(trace)}
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=not legacy)
    message = refused(lambda: import_state_dict(tmp_path / "b.pt", card=tiny_card))
    assert "is not a plain state dict" in message
    assert "weights_only=False" not in message
    assert not trace.exists()
    torch.load(tmp_path / "b.pt", weights_only=False)  # it is live ammunition
    assert trace.is_dir()


def test_a_bare_pickle_is_refused_and_torch_says_nothing_of_it(
    tmp_path: Path, tiny_card: Card, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded"), protocol=4))
    message = refused(lambda: import_state_dict(tmp_path / "b.pt", card=tiny_card))
    assert "is not a plain state dict" in message
    assert not recwarn.list
    assert not (tmp_path / "exploded").exists()


def test_a_whole_pickled_network_is_refused(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card
) -> None:
    refused(lambda: imported(tmp_path, rgb, tiny_card))


@pytest.mark.parametrize("state", [[1, 2], 5, {}, {"a": 1}, {1: 2}, {"model": {"a": [1]}}], ids=str)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, tiny_card: Card, state: object) -> None:
    refused(lambda: imported(tmp_path, state, tiny_card))


@pytest.mark.parametrize("data", [b"", b"text\n" * 100, b"PK\x03\x04" + bytes(100), b"\x80\x02."])
def test_foreign_files_are_no_state_dicts(tmp_path: Path, tiny_card: Card, data: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(data)
    refused(lambda: import_state_dict(tmp_path / "net.pt", card=tiny_card))


def test_a_cut_state_dict_is_refused(tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card) -> None:
    torch.save(rgb.state_dict(), tmp_path / "net.pt")
    data = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(data[: len(data) // 2])
    refused(lambda: import_state_dict(tmp_path / "net.pt", card=tiny_card))


def test_a_missing_state_dict_is_refused(tmp_path: Path, tiny_card: Card) -> None:
    assert "No such file" in refused(lambda: import_state_dict(tmp_path / "none", card=tiny_card))
    refused(lambda: import_state_dict(tmp_path, card=tiny_card))


UNUSUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "integer": lambda t: t.long(),
    "nan": lambda t: t * float("nan"),
    "complex": lambda t: t.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch announces changes of sparse tensors
@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("name", ["fc.weight", "conv1.weight"])
def test_tensors_of_an_unusual_kind_are_refused(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card, name: str, kind: str
) -> None:
    state = rgb.state_dict()
    state[name] = UNUSUAL[kind](state[name])
    refused(lambda: imported(tmp_path, state, tiny_card))


def test_a_state_dict_of_other_classes_is_refused(
    tmp_path: Path, rgb: torch.nn.Module, tiny_card: Card
) -> None:
    card = replace(tiny_card, classes=("a", "b"))
    message = refused(lambda: imported(tmp_path, rgb.state_dict(), card))
    assert "do not fit resnet18 with 2 classes" in message


def test_a_file_that_inflates_to_gigabytes_is_refused_uninflated(
    tmp_path: Path, tiny_card: Card
) -> None:
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
        for number in range(9):
            bomb.writestr(f"plain/data/{1000 + number}", bytes(1 << 20))
    data = bytearray((tmp_path / "bomb.pt").read_bytes())
    at = data.index(struct.pack("<L", 1 << 20), data.index(b"PK\x01\x02"))
    while at > 0:  # each of these entries claims 512 MB
        data[at : at + 4] = struct.pack("<L", 1 << 29)
        at = data.find(struct.pack("<L", 1 << 20), at)
    (tmp_path / "bomb.pt").write_bytes(data)
    message = refused(lambda: import_state_dict(tmp_path / "bomb.pt", card=tiny_card))
    assert "bytes, and weights have at most" in message


def test_a_file_of_terabytes_is_refused_unread(tmp_path: Path, tiny_card: Card) -> None:
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(1 << 42)
    message = refused(lambda: import_state_dict(tmp_path / "huge.pt", card=tiny_card))
    assert "holds 4,398,046,511,104 bytes" in message


def test_a_stem_that_a_few_bytes_stand_for_is_refused(tmp_path: Path, tiny_card: Card) -> None:
    torch.save({"conv1.weight": torch.zeros(1).expand(1 << 36, 3, 7, 7)}, tmp_path / "huge.pt")
    refused(lambda: import_state_dict(tmp_path / "huge.pt", card=tiny_card))
