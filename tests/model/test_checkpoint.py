"""Checkpoints come back as they were; whatever is none, or does not fit, is refused in one line."""

import hashlib
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file, save
from torch import Tensor

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import file_sha256, load_checkpoint, read_card
from cxrbatch.model.input_gate import FeatureStatistics
from cxrbatch.model.network import RadiographResNet, build_model, model_of, save_checkpoint

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors(tiny_checkpoint: Path) -> Tensors:
    return load_file(tiny_checkpoint)


# Round trips


def test_weights_come_back_rounded_to_float16(tmp_path: Path, tiny_card: Card) -> None:
    torch.manual_seed(4)
    model = build_model(tiny_card)
    with torch.no_grad():
        model.bn1.running_var.fill_(1e6)  # beyond float16
    save_checkpoint(tmp_path / "m.safetensors", model=model, card=tiny_card)
    found = load_checkpoint(tmp_path / "m.safetensors")
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            back = found.tensors[name]
            assert back.dtype == torch.float32
            exact = value if "running_" in name else value.half().float()
            assert torch.equal(back, exact), name


def test_second_round_trip_changes_no_byte(tmp_path: Path, tiny_checkpoint: Path) -> None:
    once = load_checkpoint(tiny_checkpoint)
    model = model_of(once.tensors, once.card.architecture)
    assert not model.training
    save_checkpoint(tmp_path / "again", model=model, card=once.card)
    assert (tmp_path / "again").read_bytes() == tiny_checkpoint.read_bytes()


def test_card_and_hash_come_back(tiny_checkpoint: Path, tiny_card: Card) -> None:
    found = load_checkpoint(tiny_checkpoint)
    digest = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert found.card == read_card(tiny_checkpoint) == tiny_card
    assert found.sha256 == file_sha256(tiny_checkpoint) == digest


def test_a_card_is_read_without_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cxrbatch.model.checkpoint import read_card; "
        "read_card(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_checkpoint], check=False)
    assert done.returncode == 0


def test_a_file_name_that_is_not_utf8_is_refused_for_that_reason(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """The safetensors library opens no other names."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    odd.write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match="not valid UTF-8"):
        load_checkpoint(odd)


# Files that are no checkpoints


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "none", tmp_path / "fifo", tmp_path / "loop"):
        for read in (load_checkpoint, read_card):
            message = refused(lambda path=path, read=read: read(path))
            assert "is not a file" in message or "cannot read checkpoint" in message


def test_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    refused(lambda: load_checkpoint(tmp_path / ("a" * 300)))


def test_hash_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(lambda: file_sha256(tmp_path / "none"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not a checkpoint, but a text of some length\n" * 50,
        bytes(1000),
        b"\xff" * 1000,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 20) + b'{"__metadata__": 5  }',
        b"\x89PNG\r\n\x1a\n" + bytes(500),
    ],
    ids=["empty", "byte", "text", "zeros", "ones", "no tensor", "long", "bad header", "png"],
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    refused(lambda: load_checkpoint(path))
    refused(lambda: read_card(path))


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, tiny_checkpoint: Path, kept: float) -> None:
    data = tiny_checkpoint.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * kept)])
    message = refused(lambda: load_checkpoint(tmp_path / "cut"))
    assert "is not a cxrbatch checkpoint" in message


def test_safetensors_without_a_card_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    for metadata in (None, {"format": "pt"}):
        (tmp_path / "bare").write_bytes(save(tensors, metadata=metadata))
        assert "no cxrbatch card" in refused(lambda: load_checkpoint(tmp_path / "bare"))


def test_a_broken_card_is_refused(tmp_path: Path, tensors: Tensors, tiny_card: Card) -> None:
    text = tiny_card.to_json().replace('"temperature": 1.0', '"temperature": NaN')
    (tmp_path / "nan").write_bytes(save(tensors, metadata={"cxrbatch": text}))
    assert "card is invalid" in refused(lambda: load_checkpoint(tmp_path / "nan"))


def test_an_unknown_architecture_is_refused(
    tmp_path: Path, tensors: Tensors, tiny_card: Card
) -> None:
    card = replace(tiny_card, architecture="vit\n" * 1000)
    (tmp_path / "vit").write_bytes(save(tensors, metadata={"cxrbatch": card.to_json()}))
    message = refused(lambda: load_checkpoint(tmp_path / "vit"))
    assert "resnet18, resnet34, resnet50" in message


# Weights that do not fit

MISFITS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "missing": ("'fc.bias' is missing", lambda t: {k: v for k, v in t.items() if k != "fc.bias"}),
    "extra": ("'zz.weight' is unknown", lambda t: {**t, "zz.weight": torch.zeros(1)}),
    "extra with an odd name": ("is unknown", lambda t: {**t, "a\x1b\n" * 99: torch.zeros(1)}),
    "one class more": ("has shape (4,), not (3,)", lambda t: {**t, "fc.bias": torch.zeros(4)}),
    "rgb stem": ("has shape", lambda t: {**t, "conv1.weight": torch.zeros(64, 3, 7, 7)}),
    "scalar": ("has shape ()", lambda t: {**t, "fc.bias": torch.tensor(0.0)}),
    "integers": (
        "plain dense",
        lambda t: {**t, "fc.bias": torch.zeros(3, dtype=torch.int64)},
    ),
    "truths": ("plain dense", lambda t: {**t, "fc.bias": torch.zeros(3, dtype=torch.bool)}),
    "nan": ("not finite", lambda t: {**t, "fc.bias": torch.tensor([0.0, float("nan"), 0.0])}),
    "infinite": ("not finite", lambda t: {**t, "bn1.running_var": torch.full((64,), torch.inf)}),
    "nothing": ("is missing", lambda t: {"num_batches": torch.zeros(1)}),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: Tensors, tiny_card: Card, misfit: str
) -> None:
    expected, change = MISFITS[misfit]
    data = save(change(dict(tensors)), metadata={"cxrbatch": tiny_card.to_json()})
    (tmp_path / "misfit").write_bytes(data)
    assert expected in refused(lambda: load_checkpoint(tmp_path / "misfit"))


def test_a_card_of_another_depth_is_refused(
    tmp_path: Path, tensors: Tensors, tiny_card: Card
) -> None:
    card = replace(tiny_card, architecture="resnet34")
    (tmp_path / "34").write_bytes(save(tensors, metadata={"cxrbatch": card.to_json()}))
    message = refused(lambda: load_checkpoint(tmp_path / "34"))
    assert "do not fit resnet34 with 3 classes" in message


# Writing


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Give up root's rights for a while, as root may write into any folder."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("earlier", [b"an earlier checkpoint", None])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, model: RadiographResNet, tiny_card: Card, earlier: bytes | None
) -> None:
    path = tmp_path / "m.safetensors"
    if earlier is not None:
        path.write_bytes(earlier)
    with full_disk(100_000):
        message = refused(lambda: save_checkpoint(path, model=model, card=tiny_card))
    assert "cannot write checkpoint" in message
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == (
        {} if earlier is None else {path.name: earlier}
    )


def test_a_read_only_folder_leaves_what_was_there(
    tmp_path: Path, model: RadiographResNet, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"an earlier checkpoint")
    tmp_path.chmod(0o555)
    # A relative path: the folders above belong to the one who runs the tests.
    monkeypatch.chdir(tmp_path)
    with ordinary_user():
        message = refused(
            lambda: save_checkpoint(Path("m.safetensors"), model=model, card=tiny_card)
        )
    tmp_path.chmod(0o755)
    assert "Permission denied" in message
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"an earlier checkpoint"]


def test_places_that_cannot_be_written_leave_nothing(
    tmp_path: Path, model: RadiographResNet, tiny_card: Card
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "m", tmp_path / "folder"):
        refused(lambda path=path: save_checkpoint(path, model=model, card=tiny_card))
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_float16_cannot_hold_are_not_written(
    tmp_path: Path, tiny_card: Card, value: float
) -> None:
    model = build_model(tiny_card)
    with torch.no_grad():
        model.fc.bias[1] = value
    message = refused(lambda: save_checkpoint(tmp_path / "m", model=model, card=tiny_card))
    assert "fc.bias" in message
    assert not list(tmp_path.iterdir())


def test_an_earlier_checkpoint_is_replaced(
    tmp_path: Path, model: RadiographResNet, tiny_card: Card
) -> None:
    (tmp_path / "m").write_bytes(b"an earlier checkpoint")
    save_checkpoint(tmp_path / "m", model=model, card=tiny_card)
    assert read_card(tmp_path / "m") == tiny_card
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


# Files that claim more than there is memory for


def test_a_file_of_terabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    for read in (load_checkpoint, read_card):
        assert "holds 4,398,046,511,104 bytes" in refused(lambda read=read: read(tmp_path / "huge"))


def test_a_header_of_hundreds_of_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.write(struct.pack("<Q", 90 << 20) + b"{")
        file.truncate(100 << 20)
    assert "its header claims 94,371,840 bytes" in refused(lambda: read_card(tmp_path / "huge"))


@pytest.mark.parametrize("shape", [(), (2**20,), (2, 2)])
def test_feature_statistics_of_any_shape_are_refused(
    tmp_path: Path, tensors: Tensors, tiny_card: Card, shape: tuple[int, ...]
) -> None:
    names = (field.name for field in fields(FeatureStatistics))
    odd = {f"features.{name}": torch.ones(shape) for name in names}
    card = replace(tiny_card, gate={"kinds": ["hand"], "threshold": 99.0, "flagged": {}})
    data = save({**tensors, **odd}, metadata={"cxrbatch": card.to_json()})
    (tmp_path / "odd").write_bytes(data)
    assert "feature statistics" in refused(lambda: load_checkpoint(tmp_path / "odd"))
