"""`cxrbatch bench`: a sample of an archive measured and scored, the archive left as it is."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cxrbatch.commands.bench import command
from cxrbatch.speed import machine, measuring


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A few images where a minute's work would be measured; temporary files in a known place."""
    monkeypatch.setattr(measuring, "_ROUND_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "_RUN_SECONDS", 0.01)
    monkeypatch.setattr(machine, "_GEMM_EDGE", {"cpu": 128})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu", "--workers", "1"])


@pytest.fixture
def archive(tmp_path: Path, write_png: Callable[[Path, np.ndarray], Path]) -> Path:
    rng = np.random.default_rng(1)
    for number in range(5):
        grey = rng.integers(0, 256, (80 + number, 90), dtype=np.uint8)
        write_png(tmp_path / "archive" / f"{number}.png", grey)
    (tmp_path / "archive" / "notes.txt").write_text("no image")
    return tmp_path / "archive"


def test_limit_rate_and_ratio_belong_together(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in archive.iterdir())
    found = bench(archive, "--checkpoint", tiny_checkpoint, "--batch-size", "8", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    demands = told["demands_per_image"]
    assert demands["encodings"] == {"PNG": 5}
    shared = demands["codec_seconds"] + demands["forward_seconds"]
    assert told["limit_images_per_second"] <= 1 / shared * 1.000001
    assert told["ratio"] == pytest.approx(
        told["rate_images_per_second"] / told["limit_images_per_second"]
    )
    assert told["images"] > 0
    assert told["bottleneck"] in ("codec", "forward pass", "disk")
    assert sorted(path.name for path in archive.iterdir()) == before
    assert not list((tmp_path / "temporary").iterdir())


def test_operations_are_those_of_the_network(archive: Path, tiny_checkpoint: Path) -> None:
    """ResNet-18 needs 1.8 billion multiplications at 224 px, here at 64 px and for one channel.

    Source: He et al., CVPR 2016, table 1.
    """
    found = bench(archive, "--checkpoint", tiny_checkpoint, "--json")
    operations = json.loads(found.stdout)["demands_per_image"]["forward_flops"]
    assert operations == pytest.approx(2 * 1.8e9 * (64 / 224) ** 2, rel=0.1)


def test_the_text_names_limit_ratio_and_bottleneck(archive: Path, tiny_checkpoint: Path) -> None:
    found = bench(archive, "--checkpoint", tiny_checkpoint)
    for word in ("limit", "end to end", "ratio", "bottleneck", "codec", "forward", "matrices"):
        assert f"\n{word}" in "\n" + found.stdout


def test_an_archive_without_images_is_one_line(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "notes.txt").write_text("no image")
    found = bench(tmp_path / "archive", "--checkpoint", tiny_checkpoint)
    assert found.exit_code != 0
    assert "none of 1 files" in str(found.exception)


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: cxrbatch[openvino]",
)
def test_another_backend_is_measured(archive: Path, tiny_checkpoint: Path) -> None:
    words = ("--checkpoint", tiny_checkpoint, "--backend", "openvino", "--precision", "fp32")
    told = json.loads(bench(archive, *words, "--json").stdout)
    assert told["device"].endswith(", by OpenVINO")
    assert told["images"] > 0


def test_an_interruption_leaves_nothing(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    words = ["bench", str(archive), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "cxrbatch", *words],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        end = time.monotonic() + 60
        while not list(temporary.glob("cxrbatch-bench-*")) and time.monotonic() < end:
            time.sleep(0.05)
        began = list(temporary.glob("cxrbatch-bench-*"))
        running.terminate()
        _, errors = running.communicate(timeout=60)
    assert began
    assert running.returncode == 143
    assert errors.splitlines()[-1].endswith("interrupted")
    assert not list(temporary.iterdir())
