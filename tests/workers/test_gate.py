"""One thread reads alone, the others beside each other, and none waits for ever."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

import pytest

from cxrbatch.workers.forkserver_client import ReadingGate

SECONDS = 60


class Reading:
    """What threads do that have a slot of two, as those of a pool."""

    def __init__(self) -> None:
        self.gate = ReadingGate()
        self.slots = BoundedSemaphore(2)
        self.lock = Lock()
        self.now: list[bool] = []
        self.wrong = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give the slot up."""
        self.slots.release()
        try:
            yield
        finally:
            self.slots.acquire()

    @contextmanager
    def noted(self, *, alone: bool) -> Iterator[None]:
        """Count where one that is to be alone is not."""
        with self.lock:
            self.now.append(alone)
            self.wrong += len(self.now) > 1 and any(self.now)
        yield
        with self.lock:
            self.now.remove(alone)

    def work(self, seed: int) -> int:
        """Read beside others or alone, by chance; at times give the slot up meanwhile."""
        chance = random.Random(seed)
        for _ in range(40):
            alone = chance.random() < 0.3
            enter = self.gate.alone if alone else self.gate.beside_others
            with self.slots, enter(self.aside), self.noted(alone=alone):
                if chance.random() < 0.3:
                    with self.aside():
                        pass
        return seed


def test_who_is_alone_is_alone_and_all_come_to_an_end() -> None:
    reading = Reading()
    with ThreadPoolExecutor(6) as threads:
        done = [threads.submit(reading.work, seed) for seed in range(6)]
        assert [future.result(SECONDS) for future in done] == list(range(6))
    assert reading.wrong == 0


@pytest.mark.parametrize("name", ["alone", "beside_others"])
def test_an_error_leaves_the_gate_open(name: str) -> None:
    reading = Reading()
    enter = getattr(reading.gate, name)
    with pytest.raises(ValueError, match="damaged"), reading.slots, enter(reading.aside):
        raise ValueError("damaged")
    with reading.slots, reading.gate.alone(reading.aside):
        pass
    with reading.slots, reading.gate.beside_others(reading.aside):
        pass
