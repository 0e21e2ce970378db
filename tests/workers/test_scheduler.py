"""Dealing out: all of it, in order, whoever steps aside, and nobody waits for ever."""

import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import count
from types import FrameType

import pytest

from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.workers.scheduler import CHUNK, Chunk, PendingItem, Scheduler, Slice

SECONDS = 60


def files(first: int, count: int, *, size: int = 1) -> list[PendingItem[ArchiveFile]]:
    return [
        PendingItem(first + i, ArchiveFile(str(first + i).encode(), size)) for i in range(count)
    ]


def numbers(taken: Slice[ArchiveFile, int] | None) -> list[int]:
    assert taken is not None
    return [entry.number for entry in taken.entries if isinstance(entry, PendingItem)]


def test_a_chunk_is_taken_whole_until_the_last_ones_are_due() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(2)
    for first in range(0, 8 * CHUNK, CHUNK):
        scheduler.add(Chunk(list(files(first, CHUNK))), last=first == 7 * CHUNK)
    sizes: list[int] = []
    while sum(sizes) < 8 * CHUNK:
        taken = scheduler.take()
        assert taken
        assert numbers(taken)[0] == sum(sizes)
        sizes.append(len(taken.entries))
        scheduler.put(taken, [0] * len(taken.entries))
    assert sizes[:5] == [CHUNK] * 5
    assert max(sizes[5:]) < CHUNK
    assert sizes[-1] == 1


def test_parts_come_out_in_their_order() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(3)
    chunk: Chunk[ArchiveFile, int] = Chunk(list(files(0, 3, size=1 << 30)))
    scheduler.add(chunk, last=False)
    parts = [scheduler.take() for _ in range(3)]
    assert list(map(numbers, parts)) == [[0], [1], [2]]
    for part in reversed(parts):
        assert part
        scheduler.put(part, numbers(part))
    assert chunk.results() == [0, 1, 2]


def test_the_first_failure_of_a_chunk_is_its_own() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(3)
    chunk: Chunk[ArchiveFile, int] = Chunk(list(files(0, 3, size=1 << 30)))
    scheduler.add(chunk, last=False)
    first, second, third = (scheduler.take() for _ in range(3))
    assert first
    assert second
    assert third
    scheduler.fail(second, MemoryError("second"))
    scheduler.fail(first, OSError("first"))
    scheduler.put(third, [2])
    with pytest.raises(MemoryError, match="second"):
        chunk.results()
    scheduler.add(Chunk(list(files(3, 1))), last=True)
    assert numbers(scheduler.take()) == [3]


def test_what_cannot_be_put_is_a_failure_that_costs_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(chunk: Chunk[ArchiveFile, int], start: int, results: list[int]) -> None:
        raise MemoryError("full")

    scheduler: Scheduler[ArchiveFile, int] = Scheduler(1)
    chunk: Chunk[ArchiveFile, int] = Chunk(list(files(0, 1)))
    scheduler.add(chunk, last=False)
    taken = scheduler.take()
    assert taken
    monkeypatch.setattr(Chunk, "put", full)
    scheduler.put(taken, [0])
    with pytest.raises(MemoryError, match="full"):
        chunk.results()
    scheduler.add(Chunk(list(files(1, 1))), last=False)
    assert numbers(scheduler.take()) == [1]


def test_what_cannot_be_taken_is_a_failure_and_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = Chunk.take

    def full(chunk: Chunk[ArchiveFile, int], most: int) -> Slice[ArchiveFile, int]:
        if chunk is first:
            raise MemoryError("full")
        return take(chunk, most)

    monkeypatch.setattr(Chunk, "take", full)
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(1)
    first: Chunk[ArchiveFile, int] = Chunk(list(files(0, 1)))
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(scheduler.take)
        scheduler.add(first, last=False)
        scheduler.add(Chunk(list(files(1, 1))), last=False)
        try:
            assert numbers(taken.result(SECONDS)) == [1]
        finally:
            scheduler.close()
    with pytest.raises(MemoryError, match="full"):
        first.results()


def test_nothing_is_added_to_what_is_over() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(1)
    scheduler.close()
    with pytest.raises(RuntimeError, match="closed"):
        scheduler.add(Chunk(list(files(0, 1))), last=True)


def test_what_nobody_took_fails_at_the_end() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(2)
    whole, in_part, due = (
        Chunk[ArchiveFile, int](list(files(0, 2, size=1 << 22))) for _ in range(3)
    )
    in_part.waiting.extend(files(2, 1, size=1 << 30))
    for chunk in (whole, in_part, due):
        scheduler.add(chunk, last=False)
    taken = [scheduler.take(), scheduler.take()]
    scheduler.close()
    for part in taken:
        assert part
        scheduler.put(part, numbers(part))
    assert whole.results() == [0, 1]
    for chunk in (in_part, due):
        with pytest.raises(RuntimeError, match="closed"):
            chunk.results()


class Ping(Exception):
    """What a signal's handler raises."""


def is_interrupted(moment: int, work: Callable[[], object]) -> bool:
    """Raise where a signal may: where a function begins, or C code has been called; once."""
    moments = iter(range(moment))

    def ping(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and next(moments, None) is None:
            raise Ping

    try:
        sys.setprofile(ping)
        work()
    except Ping:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_an_exception_of_a_signal_leaves_nothing_locked() -> None:
    def work() -> None:
        scheduler.add(chunk, last=False)
        chunk.fail(OSError())
        with suppress(OSError):
            chunk.results()
        scheduler.close()

    def end() -> None:
        scheduler.close()
        chunk.fail(OSError())

    for moment in count():
        scheduler: Scheduler[ArchiveFile, int] = Scheduler(1)
        chunk: Chunk[ArchiveFile, int] = Chunk(list(files(0, 1)))
        interrupted = is_interrupted(moment, work)
        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(10)
        assert not ending.is_alive(), moment
        if not interrupted:
            break
    assert moment > 20


def test_a_place_is_left_to_others_meanwhile() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(1)
    scheduler.add(Chunk(list(files(0, CHUNK))), last=False)
    scheduler.add(Chunk(list(files(CHUNK, CHUNK))), last=False)
    first = scheduler.take()
    assert first
    with ThreadPoolExecutor(1) as other:
        second = other.submit(scheduler.take)
        try:
            with scheduler.without_slot():
                found = second.result(SECONDS)
                assert found
                assert numbers(found) == list(range(CHUNK, 2 * CHUNK))
                scheduler.put(found, [0] * CHUNK)
        finally:
            scheduler.close()


def test_all_who_wait_are_given_a_part_of_the_last_chunk() -> None:
    for _ in range(50):
        scheduler: Scheduler[ArchiveFile, int] = Scheduler(2)
        with ThreadPoolExecutor(2) as threads:
            waiting = [threads.submit(scheduler.take) for _ in range(2)]
            scheduler.add(Chunk(list(files(0, CHUNK))), last=True)
            try:
                parts = [numbers(one.result(SECONDS)) for one in waiting]
            finally:
                scheduler.close()
        assert sorted(parts) == [[0, 1, 2, 3], [4, 5, 6]]


def test_nobody_waits_for_what_does_not_come() -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(2)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(scheduler.take) for _ in range(4)]
        scheduler.close()
        assert [one.result(SECONDS) for one in waiting] == [None] * 4


@pytest.mark.parametrize("places", [1, 2, 5])
def test_nothing_is_forgotten_where_many_step_aside(places: int) -> None:
    scheduler: Scheduler[ArchiveFile, int] = Scheduler(places)
    rng = random.Random(places)
    sizes = [rng.choice([1, 1 << 22, 1 << 30]) for _ in range(60_000)]

    def work(seed: int) -> None:
        moods = random.Random(seed)
        while taken := scheduler.take():
            if moods.random() < 0.2:
                with scheduler.without_slot():
                    pass
            scheduler.put(taken, numbers(taken))

    chunks: list[Chunk[ArchiveFile, int]] = []
    with ThreadPoolExecutor(places + 4) as threads:
        try:
            working: list[Future[None]] = [threads.submit(work, n) for n in range(places + 4)]
            for number, size in enumerate(sizes):
                if number % CHUNK == 0:
                    chunks.append(Chunk(list(files(number, CHUNK, size=size))))
                    scheduler.add(chunks[-1], last=number + CHUNK >= len(sizes))
            found = [number for chunk in chunks for number in chunk.results()]
        finally:
            scheduler.close()
        assert not wait(working, SECONDS).not_done
    assert found == list(range(len(chunks) * CHUNK))
