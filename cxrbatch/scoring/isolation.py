"""Hostile bytes are read in child processes with limits on time and memory.

A decoder that crashes, spins or eats memory ends its child and nothing else. The file that it
happened on is known, is tried once more in a new child, and then is a `Fault`. Those before it
whose results had not been told yet are read again.
"""

import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TypeVar

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.nursery import TOGETHER, UNKNOWN_STATUS, End
from cxrbatch.scoring.nursery_client import Nursery, NurseryClosed

Item = TypeVar("Item")
Result = TypeVar("Result")

_SOON = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may use.

    Attributes:
        seconds: From the start of reading it to its result.
        memory: Bytes beyond what a reading process needs by itself, at most: an image gets what
            its header explains.
    """

    seconds: float = 60.0
    memory: int = 4 << 30


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that ended the process that read it, or would have.

    Attributes:
        outcome: `decoder_crashed`, `decoder_timeout` or `out_of_memory`.
        detail: One line for a person.
        lasting: Whether it is the file's doing, so that trying again is in vain.
    """

    outcome: Outcome
    detail: str
    lasting: bool = False


class IsolatedProcess:
    """One child process at a time; for one thread at a time."""

    def __init__(
        self,
        nursery: Nursery,
        limits: Limits,
        *,
        aside: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Start nothing yet: the first call does.

        Args:
            nursery: Starts the child.
            limits: What one item may use.
            aside: Entered while an item takes so long that others should not wait for it.
        """
        self._nursery = nursery
        self._limits = limits
        self._aside = aside
        self._child: tuple[int, Connection] | None = None
        self._told = 0
        self._loss: _Loss | None = None
        self._stepped_aside = False

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retried: Callable[[int], object] = lambda index: None,
    ) -> Iterator[Result | Fault]:
        """Call a function on each item in a child process.

        Args:
            function: Of a module, so that its name can travel; its results are pickled.
            items: What to call it on, in this order.
            retried: Told of each item, by its index, that is tried a second time.

        Yields:
            The results, or the faults of items that have none.

        Raises:
            CxrbatchError: No process can be started.
            NurseryClosed: The nursery was closed.
        """
        self._stepped_aside = False
        yield from self._map(function, items, retried, first=0)
        if self._stepped_aside:
            # Another has started meanwhile; together they would be one too many.
            self.close()

    def _map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        retried: Callable[[int], object],
        *,
        first: int,
    ) -> Iterator[Result | Fault]:
        done = 0
        while done < len(items):
            for result in self._attempt(function, items[done:]):
                yield result
                done += 1
            if done == len(items):
                return
            assert self._loss is not None
            loss = self._loss
            before = items[done : done + loss.untold]
            yield from self._map(function, before, retried, first=first + done)
            done += len(before)
            if not loss.certain:
                if before:
                    self.close()  # what these have done to their process is none of its doing
                retried(first + done)
                again = list(self._attempt(function, items[done : done + 1]))
                if again:
                    yield again[0]
                    done += 1
                    continue
                loss = self._loss
            yield loss.fault
            done += 1

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            pid, connection = self._child
            self._child = None
            connection.close()
            with suppress(NurseryClosed):
                self._nursery.end(pid)

    def _attempt(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result | Fault]:
        """Give results until the child is lost."""
        pid, connection = self._child = self._child or self._new_child()
        left, end = len(items), None
        try:
            connection.send((function, list(items)))
            while left:
                end = end or self._overdue(pid, connection)
                # What was sent until it was ended counts. One that waits for a dead disk is not
                # ended yet, and would be waited for.
                if end and not connection.poll():
                    break
                answers = connection.recv()
                self._told += len(answers)
                left -= len(answers)
                for answer in answers:
                    result, refusal = pickle.loads(answer)
                    yield result if refusal is None else Fault(*refusal)
        except (EOFError, OSError):
            pass
        except BaseException:
            self.close()  # or its remaining results would be taken for those of other items
            raise
        if left or end:
            self._child = None
            connection.close()
        if left:
            self._lose(pid, end)

    def _overdue(self, pid: int, connection: Connection) -> End | None:
        """Wait for an answer, or end the child if none comes in time."""
        # What Connection.poll makes anew for each answer takes as long as to receive it.
        answer = select.poll()
        answer.register(connection, select.POLLIN)
        # An item may have begun so much later than the answer before it was sent.
        seconds = self._limits.seconds + TOGETHER
        soon = min(_SOON, seconds)
        if answer.poll(1e3 * soon):
            return None
        self._stepped_aside = True
        with self._aside():
            if answer.poll(1e3 * (seconds - soon)):
                return None
            # Here already: to come back may take long, and it would have gone on to other items.
            return self._nursery.end(pid)

    def _new_child(self) -> tuple[int, Connection]:
        self._told = 0
        return self._nursery.start(memory=self._limits.memory)

    def _lose(self, pid: int, overdue: End | None) -> None:
        end = overdue or self._nursery.end(pid)
        if end.taken > end.allowed / 2:
            loss = _gluttony(end.allowed, status=end.status, timed_out=bool(overdue))
        elif overdue:
            loss = _timeout(self._limits, worked=end.seconds)
        else:
            loss = _death(end.status)
        # What it used for items that it has told of is not held against the next one.
        certain = loss.certain and end.begun > self._told
        untold = max(0, end.begun - self._told - 1)
        self._loss = replace(loss, certain=certain, untold=untold)


@dataclass(frozen=True, slots=True)
class _Loss:
    """Why a child was lost.

    Attributes:
        fault: Of the item that it was at.
        certain: Whether trying that again could not end otherwise.
        untold: Items before it whose results went with the child.
    """

    fault: Fault
    certain: bool
    untold: int = 0


def _timeout(limits: Limits, *, worked: float) -> _Loss:
    detail = f"no image after {limits.seconds:g} s"
    # A child that waited, for a disk or because the machine was stopped, deserves another try.
    # One that computed for a good part of it, on a busy machine, has had its chance.
    certain = worked > limits.seconds / 4
    return _Loss(Fault(Outcome.DECODER_TIMEOUT, detail, lasting=True), certain)


def _gluttony(allowed: int, *, status: int, timed_out: bool) -> _Loss:
    # Who eats memory without end may reach the deadline first where memory comes slowly.
    detail = f"reading took more memory than the {allowed >> 20} MiB that its size allows"
    # The system kills where all of its memory is short, and that may be another's doing.
    proven = timed_out or not _was_killed(status)
    return _Loss(Fault(Outcome.OUT_OF_MEMORY, detail, lasting=proven), certain=proven)


def _death(status: int) -> _Loss:
    # Killed from outside is no proof against the file: whoever ends a whole run does it so too.
    lasting = not _was_killed(status)
    detail = "the decoder ended the process that ran it"
    return _Loss(Fault(Outcome.DECODER_CRASHED, detail, lasting=lasting), certain=False)


def _was_killed(status: int) -> bool:
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed or status == UNKNOWN_STATUS
