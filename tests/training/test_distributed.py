"""Two processes train as one does, and none waits for another that is gone."""

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainees import OPTIONS, losses_of_steps, new_model, run, side

from cxrbatch.errors import UsageError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.training.distributed import ALONE, ProcessGroup
from cxrbatch.training.sampling import Draw, DrawSampler

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

SCRIPT = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from trainees import CPU, OPTIONS, losses_of_steps, new_model, run, side
from cxrbatch.training.distributed import SharedBatchNorm, process_group

given = torch.load({folder!r} + "/given.pt", weights_only=True)
found = {{}}
with process_group(CPU) as group:
    norm = SharedBatchNorm(3)
    norm.load_state_dict(given["state"])
    size = group.part_size(len(given["images"]))
    part = slice(group.rank * size, (group.rank + 1) * size)
    images = given["images"][part].requires_grad_()
    normalised = norm(images)
    (normalised * given["pull"][part]).sum().backward()
    weight = group.mean(norm.weight.grad) * group.size
    found["norm"] = [normalised.detach(), images.grad, weight, norm.running_mean, norm.running_var]

    model = new_model(group.rank).double()  # the first one's weights count
    found["losses"] = torch.tensor(losses_of_steps(model, group), dtype=torch.float64)
    found["state"] = model.state_dict()

    model = new_model(group.rank)
    slow = replace(OPTIONS, learning_rate=1e-6)
    history, _ = run(model, side(24, 24), side(8, 8, seed=1), slow, group=group)
    found["history"] = [asdict(epoch) for epoch in history]
    found["head"] = model.fc.weight.detach()

    model = new_model(group.rank)
    run(model, side(24, 24), side(8, 8, seed=1), replace(slow, freeze_trunk=True), group=group)
    found["held"] = model.state_dict()
torch.save(found, {folder!r} + f"/{{group.rank}}.pt")
"""

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def norm() -> tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    """Batch norm, images and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight, 0.5, 2.0, generator=generator)
    images = torch.randn(6, 3, 5, 4, generator=generator) * 3 + 1
    return norm, images, torch.randn(6, 3, 5, 4, generator=generator)


@pytest.fixture(scope="module")
def found(
    norm: tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    given = {"state": norm[0].state_dict(), "images": norm[1], "pull": norm[2]}
    torch.save(given, folder / "given.pt")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder)))
    done = subprocess.run([*TWO, str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:3000]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_processes_have_the_losses_and_weights_of_one_in_every_step(found: Found) -> None:
    """In double precision: in single, rounding alone grows by tens from step to step, as it does
    between runs of one process with one thread and with two."""
    model = new_model().double()
    expected = torch.tensor(losses_of_steps(model, ALONE), dtype=torch.float64)
    torch.testing.assert_close(found[0]["losses"], expected, rtol=0, atol=1e-8)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[0]["state"][name], value, rtol=0, atol=1e-6)
        assert torch.equal(found[0]["state"][name], found[1]["state"][name])


def test_two_processes_have_the_history_of_one(found: Found) -> None:
    """In steps so small that rounding, which differs between processors, does not grow: on one
    where the losses differ by 3e-6 at this learning rate, they differed by 1.3e-4 at ten times it.
    """
    model = new_model()
    slow = replace(OPTIONS, learning_rate=1e-6)
    expected, _ = run(model, side(24, 24), side(8, 8, seed=1), slow)
    for epoch, alone in zip(found[0]["history"], expected, strict=True):
        assert epoch == pytest.approx(asdict(alone), abs=1e-4)
    torch.testing.assert_close(found[0]["head"], model.fc.weight.detach(), rtol=0, atol=1e-4)
    assert found[0]["history"] == found[1]["history"]


def test_two_processes_hold_the_trunk_that_one_holds(found: Found) -> None:
    model, before = new_model(), new_model().state_dict()
    held = replace(OPTIONS, learning_rate=1e-6, freeze_trunk=True)
    run(model, side(24, 24), side(8, 8, seed=1), held)
    for each in found:
        for name, value in each["held"].items():
            assert torch.equal(value, before[name]) is not name.startswith("fc.")
        torch.testing.assert_close(each["held"]["fc.weight"], model.fc.weight.detach())


def test_shared_batch_norm_is_that_of_the_whole_batch(
    found: Found, norm: tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]
) -> None:
    alone, images, pull = norm
    images = images.requires_grad_()
    whole = alone(images)
    (whole * pull).sum().backward()
    parts = [each["norm"] for each in found]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), whole.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), images.grad)
    for part in parts:
        torch.testing.assert_close(part[2], alone.weight.grad)
        torch.testing.assert_close(part[3], alone.running_mean)
        torch.testing.assert_close(part[4], alone.running_var)


def command(labels: Path, output: Path, *more: str) -> list[str]:
    words = ["train", str(labels), "-o", str(output), "--size", "32", "--epochs", "2"]
    return [*words, "--batch-size", "8", "--workers", "0", "--device", "cpu", *more]


def test_the_command_in_two_processes_writes_and_prints_once(
    tmp_path: Path, level_archive: Path
) -> None:
    output = tmp_path / "model.safetensors"
    words = [*TWO, "-m", "cxrbatch", *command(level_archive, output)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("checkpoint:") == 1
    assert done.stderr.count("epoch 2: loss") == 1
    assert len(load_checkpoint(output).card.training["history"]) == 2
    beside = ["augmented.png", "curves.svg", "metrics.jsonl", "results.parquet", "safetensors"]
    beside += ["split.csv", "toml"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"model.{kind}" for kind in beside]
    assert len((tmp_path / "model.metrics.jsonl").read_text().splitlines()) == 2


def test_a_process_that_dies_takes_the_other_with_it(tmp_path: Path, level_archive: Path) -> None:
    """Without torchrun, which would end it: the other must see for itself."""
    output = tmp_path / "model.safetensors"
    words = [sys.executable, "-m", "cxrbatch"]
    words += command(level_archive, output, "--epochs", "500", "--precision", "fp32")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "WORLD_SIZE": "2"}
    runs = [
        subprocess.Popen(
            words,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("model.training/state-*.pt")):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in runs)
            time.sleep(0.05)
        runs[1].kill()
        _, told = runs[0].communicate(timeout=120)
    finally:
        for process in runs:
            process.kill()
            process.communicate()
    assert runs[0].returncode == 1, told
    assert told.splitlines()[-1].startswith("error: another process of this training ended")
    assert "Traceback" not in told


@pytest.mark.parametrize(("size", "batch"), [(2, 7), (2, 2), (3, 8)])
def test_a_batch_that_cannot_be_shared_equally_is_refused(size: int, batch: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of {size}"):
        ProcessGroup(0, size).part_size(batch)


def test_the_parts_of_three_processes_are_the_batches_of_one() -> None:
    def batches(group: ProcessGroup) -> list[list[Draw]]:
        generator = torch.Generator().manual_seed(3)
        truth = np.repeat([0, 1], [5, 40])
        sampler = DrawSampler(truth, steps=4, batch_size=9, generator=generator, group=group)
        assert len(sampler) == 4
        return [*sampler, *sampler]  # two epochs

    parts = [batches(ProcessGroup(rank, 3)) for rank in range(3)]
    alone = batches(ALONE)
    assert [[*a, *b, *c] for a, b, c in zip(*parts, strict=True)] == alone
    assert len(alone) == 8
    assert alone[:4] != alone[4:]
