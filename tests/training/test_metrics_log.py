"""The lines of metrics, one for each epoch also after a resume, and the function that is called."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.errors import TableError
from cxrbatch.training.loop import EpochMetrics
from cxrbatch.training.metrics_log import MetricsLog
from cxrbatch.training.train import train

FEW: dict[str, Any] = {
    "size": 32,
    "epochs": 3,
    "draws": 8,
    "batch_size": 8,
    "workers": 0,
    "device": "cpu",
    "progress": False,
}
FIRST = EpochMetrics(1, 0.5, 0.75, 0.25, 1e-3)
SECOND = EpochMetrics(2, 0.4, 0.8, 0.2, 1e-4)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_of(path: Path) -> list[EpochMetrics]:
    """The metrics in the file, without time and speed."""
    found = lines(path)
    for line in found:
        del line["seconds"], line["images_per_second"]
    return [EpochMetrics(**line) for line in found]


def test_a_line_is_in_the_file_when_the_function_is_called(
    level_archive: Path, tmp_path: Path
) -> None:
    seen: list[EpochMetrics] = []

    def watch(metrics: EpochMetrics) -> None:
        seen.append(metrics)
        assert metrics_of(tmp_path / "m.metrics.jsonl") == seen

    result = train(level_archive, tmp_path / "m.safetensors", on_epoch=watch, **FEW)
    assert [metrics.number for metrics in seen] == [1, 2, 3]
    assert result.card is not None
    assert [asdict(metrics) for metrics in seen] == result.card.training["history"]
    for line in lines(tmp_path / "m.metrics.jsonl"):
        assert line["seconds"] > 0
        # Of the steps alone, and validation takes its time too.
        assert line["images_per_second"] * line["seconds"] > 8
        assert 0 < line["learning_rate"] <= 1e-3


def test_an_error_of_the_function_ends_the_training_and_it_goes_on(
    level_archive: Path, tmp_path: Path
) -> None:
    def failing(metrics: EpochMetrics) -> None:
        if metrics.number == 2:
            raise ZeroDivisionError("no tracker")

    output, log = tmp_path / "m.safetensors", tmp_path / "m.metrics.jsonl"
    with pytest.raises(ZeroDivisionError, match="no tracker"):
        train(level_archive, output, on_epoch=failing, **FEW)
    assert not output.exists()
    before = lines(log)
    assert [line["number"] for line in before] == [1, 2]
    # As if a kill had come while the second line was written.
    log.write_bytes(log.read_bytes()[:-9])
    seen: list[int] = []
    train(level_archive, output, resume=True, on_epoch=lambda m: seen.append(m.number), **FEW)
    assert seen == [1, 2, 3]
    after = lines(log)
    assert after[0] == before[0]
    assert after[1] == {**before[1], "seconds": None, "images_per_second": None}
    assert after[2]["number"] == 3
    assert after[2]["seconds"] > 0
    train(level_archive, tmp_path / "unbroken.safetensors", **{**FEW, "name": "m"})
    assert output.read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()
    assert metrics_of(log) == metrics_of(tmp_path / "unbroken.metrics.jsonl")


def test_a_start_without_history_empties_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.metrics.jsonl"
    path.write_text("of an earlier run")
    log = MetricsLog(path)
    log.start([])
    assert path.read_bytes() == b""
    log.append(FIRST)
    assert metrics_of(path) == [FIRST]


def test_a_resumed_file_that_is_right_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "m.metrics.jsonl"
    log = MetricsLog(path)
    log.start([])
    log.stepped(8)
    log.append(FIRST)
    before = path.stat()
    log = MetricsLog(path)
    log.start([FIRST])
    log.append(FIRST)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    log.append(SECOND)
    assert metrics_of(path) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\n[1]\n7\n{}\n" + b"[" * 10_000,
        b'{"number": [1]}\n{"number": 1, "loss": 9}\n',
        json.dumps({**asdict(SECOND), "number": 1}).encode() + b"\n",
    ],
)
def test_lines_that_are_not_of_the_history_are_left_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.metrics.jsonl"
    path.write_bytes(content)
    MetricsLog(path).start([FIRST, SECOND])
    assert metrics_of(path) == [FIRST, SECOND]


def test_a_figure_that_is_no_number_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.metrics.jsonl")
    log.start([])
    log.append(EpochMetrics(1, 0.5, float("nan"), 0.25))
    (line,) = lines(tmp_path / "m.metrics.jsonl")
    assert (line["macro_auc"], line["learning_rate"]) == (None, None)


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.metrics.jsonl"
    log = MetricsLog(path)
    log.start([])
    os.remove(path)
    path.mkdir()
    with pytest.raises(TableError, match=r"cannot write .*m\.metrics\.jsonl: .*--resume"):
        log.append(FIRST)
