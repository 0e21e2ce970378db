"""What a run takes per image is what it takes without its beginning and its end."""

import time

import pytest

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.speed.measuring import RunClock


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def found(self, files: int) -> None:
        """Note it."""
        self.calls.append(("found", files))

    def start(self, files: int, *, done: int) -> None:
        """Note it."""
        self.calls.append(("start", files, done))

    def advance(self, files: int) -> None:
        """Note it."""
        self.calls.append(("advance", files))

    def shard_done(self, files: int) -> None:
        """Note it."""
        self.calls.append(("shard_done", files))

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Note it."""
        self.calls.append(("failed", number, path, outcome))

    def retried(self, number: int, path: str) -> None:
        """Note it."""
        self.calls.append(("retried", number, path))

    def fewer_workers(self) -> None:
        """Note it."""
        self.calls.append(("fewer_workers",))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time_is = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: time_is[0])
    return time_is


def run(clock: RunClock, now: list[float]) -> None:
    """Ten files, one a second after a start of 7 s; 5 s of draining, 2 s for the table."""
    clock.start(10, done=0)
    now[0] += 7
    for _ in range(10):
        now[0] += 1
        clock.advance(1)
    now[0] += 5
    clock.shard_done(10)
    now[0] += 2


def test_start_and_draining_do_not_count(now: list[float]) -> None:
    clock = RunClock(Told(), after=4)
    run(clock, now)
    assert clock.before == 4
    assert clock.seconds == pytest.approx(6 + 2)


def test_all_counts_where_there_are_few_files(now: list[float]) -> None:
    clock = RunClock(Told(), after=0)
    run(clock, now)
    assert clock.before == 0
    assert clock.seconds == pytest.approx(7 + 10 + 5 + 2)


def test_progress_is_passed_on() -> None:
    told = Told()
    clock = RunClock(told, after=1)
    clock.found(3)
    clock.start(3, done=1)
    clock.advance(2)
    clock.shard_done(2)
    clock.failed(0, "a", Outcome.CORRUPT)
    clock.retried(1, "b")
    assert told.calls == [
        ("found", 3),
        ("start", 3, 1),
        ("advance", 2),
        ("shard_done", 2),
        ("failed", 0, "a", Outcome.CORRUPT),
        ("retried", 1, "b"),
    ]
