"""States are whole or not there, the last two are kept, and a full disk loses nothing."""

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from trainees import CARD, new_model

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.training import states

PRINTS = {"size": 32, "data": "a" * 64}


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        state = {"epoch": epoch, "weights": torch.full((3,), float(epoch))}
        states.write_state(folder, state, epoch=epoch, fingerprint=PRINTS)


def epoch_read(folder: Path) -> int | None:
    state = states.read_state(folder, fingerprint=PRINTS)
    return None if state is None else int(state["epoch"])


def newest(folder: Path) -> Path:
    return max(folder.glob("state-*.pt"))


def put_sealed(path: Path, content: bytes) -> None:
    path.write_bytes(content + hashlib.sha256(content).digest())


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    assert epoch_read(tmp_path) is None
    assert not states.holds_run(tmp_path)
    write(tmp_path, 1, 2, 9, 10)
    assert len(list(tmp_path.iterdir())) == 2
    assert epoch_read(tmp_path) == 10
    content = io.BytesIO(newest(tmp_path).read_bytes()[:-32])
    assert torch.load(content, weights_only=True)["epoch"] == 10


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle"])
def test_a_broken_state_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 1, 2)
    content = bytearray(newest(tmp_path).read_bytes())
    content[len(content) // 2] ^= 1
    broken = {
        "cut": bytes(content[:-100]),
        "flipped": bytes(content),
        "empty": b"",
        "pickle": b"cos\nsystem\n(S'false'\ntR.",
    }
    newest(tmp_path).write_bytes(broken[damage])
    assert epoch_read(tmp_path) == 1


@pytest.mark.parametrize("content", [{"fingerprint": "no JSON"}, {"fingerprint": "[]"}, [1]])
def test_a_state_that_is_whole_but_none_of_ours_is_passed_over(
    tmp_path: Path, content: object
) -> None:
    write(tmp_path, 1)
    made = io.BytesIO()
    torch.save(content, made)
    put_sealed(tmp_path / "state-000002.pt", made.getvalue())
    assert epoch_read(tmp_path) == 1


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    put_sealed(tmp_path / "state-000001.pt", pickle.dumps(Bad(), protocol=2))
    with pytest.raises(UsageError, match=r"damaged.*--overwrite"):
        epoch_read(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_state_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "state-000002.pt").mkdir()
    with pytest.raises(CxrbatchError, match=r"cannot read .*state-000002.*check its permissions"):
        epoch_read(tmp_path)


def test_another_run_is_refused_and_what_differs_is_said(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for other, expected in (
        ({**PRINTS, "size": 64}, "another one: size was 32, now 64;.*--overwrite"),
        ({**PRINTS, "data": "b" * 64}, "another one: other data;"),
        ({**PRINTS, "draws": 5}, "draws was None, now 5"),
    ):
        with pytest.raises(UsageError, match=expected):
            states.read_state(tmp_path, fingerprint=other)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write(tmp_path, 1, 2)
    states.write_best(tmp_path, new_model(1), CARD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        for attempt in (
            lambda: write(tmp_path, 3),
            lambda: states.write_best(tmp_path, new_model(2), CARD),
        ):
            with pytest.raises(CxrbatchError, match=r"No space left.*best\.safetensors.*--resume"):
                attempt()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert epoch_read(tmp_path) == 2


def test_weights_that_no_checkpoint_holds_are_told_as_that(tmp_path: Path) -> None:
    states.write_best(tmp_path, new_model(), CARD)
    before = states.best_checkpoint(tmp_path).read_bytes()
    grown = new_model()
    with torch.no_grad():
        grown.fc.weight[0, 0] = 70_000.0
    with pytest.raises(
        CxrbatchError, match=r"fc\.weight .*65,504.*best\.s.*--learning-rate"
    ) as told:
        states.write_best(tmp_path, grown, CARD)
    assert "space" not in str(told.value)
    assert states.best_checkpoint(tmp_path).read_bytes() == before


def test_the_best_checkpoint_can_be_scored_with_and_says_what_it_is(tmp_path: Path) -> None:
    states.write_best(tmp_path, new_model(), CARD)
    card = load_checkpoint(states.best_checkpoint(tmp_path)).card
    assert (card.classes, card.recipe) == (CARD.classes, CARD.recipe)
    assert "neither calibrated nor tested" in card.limits[-1]


def test_a_folder_is_held_by_one_and_cleaned_of_what_a_kill_left(tmp_path: Path) -> None:
    folder = states.training_folder(tmp_path / "model.safetensors")
    assert folder == tmp_path / "model.training"
    with states.locked_folder(folder):
        with pytest.raises(UsageError, match="another training"), states.locked_folder(folder):
            pass
        write(folder, 1)
        (folder / "state-000002.pt.tmp").touch()
        (folder / ".finished.safetensors.7.tmp").touch()
        (folder / "cache").touch()
    with states.locked_folder(folder):
        assert {p.suffix for p in folder.iterdir()} == {".pt", ""}
        states.clear_states(folder)
        assert [p.name for p in folder.iterdir()] == ["cache"]
        (folder / "cache").unlink()
    assert not folder.exists()
