"""A training that was stopped by a signal or a full disk says how it goes on, and does."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxrbatch.cli import main
from cxrbatch.model.checkpoint import load_checkpoint

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PROGRAM = [sys.executable, "-m", "cxrbatch"]


def words(archive: Path, output: Path, *more: str) -> list[str]:
    given = ["train", str(archive), "-o", str(output), "--size", "32", "--epochs", "4"]
    return [*given, "--batch-size", "8", "--workers", "0", "--device", "cpu", *more]


def wait_for_a_state(process: "subprocess.Popen[str]", folder: Path) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob("state-*.pt")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no state: {process.communicate()[1][-2000:]}")
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_goes_on_to_the_same_bytes(
    level_archive: Path, tmp_path: Path, unbroken: bytes, number: int
) -> None:
    output = tmp_path / "model.safetensors"
    again = [*words(level_archive, output), "--resume"]
    process = subprocess.Popen(
        [*PROGRAM, *words(level_archive, output)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for_a_state(process, tmp_path / "model.training")
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert "Traceback" not in told
        assert told.splitlines()[-1].endswith(f"go on with: cxrbatch {shlex.join(again)}")
    assert not output.exists()
    load_checkpoint(tmp_path / "model.training" / "best.safetensors")
    done = subprocess.run([*PROGRAM, *again], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == unbroken
    lines = (tmp_path / "model.metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3, 4]
    assert not (tmp_path / "model.training").exists()


@pytest.fixture(scope="module")
def unbroken(level_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training in one go, in a process of its own."""
    output = tmp_path_factory.mktemp("unbroken") / "model.safetensors"
    subprocess.run(
        [*PROGRAM, *words(level_archive, output)], check=True, capture_output=True, env=ENVIRONMENT
    )
    return output.read_bytes()


def test_sigterm_ends_a_training_in_order(level_archive: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, *words(level_archive, tmp_path / "model.safetensors", "--epochs", "90")],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for_a_state(process, tmp_path / "model.training")
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "whole epochs; go on with: cxrbatch train" in told
    assert "Traceback" not in told


def test_what_a_stopped_training_left_is_neither_lost_nor_mixed_up(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, folder = tmp_path / "model.safetensors", tmp_path / "model.training"
    short = ["--epochs", "1", "--draws", "8"]
    assert main(words(level_archive, output, *short, "--resume")) == 0
    assert "nothing to go on with" in capsys.readouterr().err
    output.unlink()
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(b"of a training that was stopped")
    assert main(words(level_archive, output, *short)) == 2
    told = capsys.readouterr().err
    assert "--resume" in told
    assert "--overwrite" in told
    assert (folder / "best.safetensors").exists()
    assert main(words(level_archive, output, *short, "--overwrite")) == 0
    assert not folder.exists()
