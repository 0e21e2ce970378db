"""Hostile bytes are read in child processes with limits on time and memory.

A decoder that crashes, spins or eats memory ends its child and nothing else. The file that it
happened on is known, is tried once more in a new child, and then is a `Fault`. Those before it
whose results had not been told yet are read again. Where the child was killed from outside, as the
system does when memory is short, no other child reads during the second try.
"""

import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TypeVar

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.workers.forkserver import TOGETHER, UNKNOWN_STATUS, End
from cxrbatch.workers.forkserver_client import Aside, Nursery, NurseryClosed

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
        outcome: `decoder_crashed`, `decoder_timeout`, `out_of_memory` or `reader_killed`.
        detail: One line for a person.
        lasting: Whether it is the file's doing, so that trying again is in vain.
    """

    outcome: Outcome
    detail: str
    lasting: bool = False


class IsolatedProcess:
    """One child process at a time; for one thread at a time.

    Attributes:
        kills: How often a child was killed from outside.
    """

    def __init__(
        self,
        nursery: Nursery,
        limits: Limits,
        *,
        aside: Aside = nullcontext,
    ) -> None:
        """Start nothing yet: the first call does.

        Args:
            nursery: Starts the child.
            limits: What one item may use.
            aside: Entered while an item takes so long that others should not wait for it, and while
                this process waits for others.
        """
        self._nursery = nursery
        self._limits = limits
        self._aside = aside
        self._child: tuple[int, Connection] | None = None
        self._told = 0
        self._loss: _Loss | None = None
        self._stepped_aside = False
        self._oom_kills = 0
        self.kills = 0

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
                yield self._try_again(function, items[done], alone=loss.killed)
            else:
                yield loss.fault
            done += 1

    def _try_again(
        self, function: Callable[[Item], Result], item: Item, *, alone: bool
    ) -> Result | Fault:
        """Call a function once more on the item that a child was lost at, in a new child.

        A child that is killed beside others, at this try, is no proof: the item is tried alone.
        """
        results = list(self._attempt(function, [item], alone=alone))
        if results:
            return results[0]
        assert self._loss is not None
        if self._loss.killed and not alone:
            return self._try_again(function, item, alone=True)
        return self._loss.fault

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            pid, connection = self._child
            self._child = None
            connection.close()
            with suppress(NurseryClosed):
                self._nursery.end(pid)

    def _attempt(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, alone: bool = False
    ) -> Iterator[Result | Fault]:
        """Give results until the child is lost; read beside other children, or alone."""
        gate = self._nursery.gate
        with (gate.alone if alone else gate.beside_others)(self._step_aside):
            if alone:
                self._oom_kills = _oom_kills()
            yield from self._results(function, items)

    def _results(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result | Fault]:
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
        with self._step_aside():
            if answer.poll(1e3 * (seconds - soon)):
                return None
            # Here already: to come back may take long, and it would have gone on to other items.
            return self._nursery.end(pid)

    @contextmanager
    def _step_aside(self) -> Iterator[None]:
        self._stepped_aside = True
        with self._aside():
            yield

    def _new_child(self) -> tuple[int, Connection]:
        self._told = 0
        return self._nursery.start(memory=self._limits.memory)

    def _lose(self, pid: int, overdue: End | None) -> None:
        end = overdue or self._nursery.end(pid)
        took_much = end.taken > end.allowed / 2
        if not overdue and _was_killed(end.status):
            self.kills += 1
            loss = _kill(of_memory=took_much or _oom_kills() > self._oom_kills)
        elif took_much:
            loss = _gluttony(end.allowed)
        elif overdue:
            loss = _timeout(self._limits, worked=end.seconds)
        else:
            loss = _crash()
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
        killed: Whether the child was killed from outside.
        untold: Items before it whose results went with the child.
    """

    fault: Fault
    certain: bool
    killed: bool = False
    untold: int = 0


def _timeout(limits: Limits, *, worked: float) -> _Loss:
    detail = f"no image after {limits.seconds:g} s"
    # A child that waited, for a disk or because the machine was stopped, deserves another try.
    # One that computed for a good part of it, on a busy machine, has had its chance.
    certain = worked > limits.seconds / 4
    return _Loss(Fault(Outcome.DECODER_TIMEOUT, detail, lasting=True), certain)


def _gluttony(allowed: int) -> _Loss:
    # Who eats memory without end may reach the deadline first where memory comes slowly.
    detail = f"reading took more memory than the {allowed >> 20} MiB that its size allows"
    return _Loss(Fault(Outcome.OUT_OF_MEMORY, detail, lasting=True), certain=True)


def _crash() -> _Loss:
    detail = "the decoder ended the process that ran it"
    return _Loss(Fault(Outcome.DECODER_CRASHED, detail, lasting=True), certain=False)


def _kill(*, of_memory: bool) -> _Loss:
    # No proof against the file: all processes together may be too large for the machine, and
    # whoever ends a whole run does it so too.
    if of_memory:
        detail = "the system ended the process that read the file, as memory was short"
        fault = Fault(Outcome.OUT_OF_MEMORY, detail)
    else:
        fault = Fault(Outcome.READER_KILLED, "the process that read the file was killed")
    return _Loss(fault, certain=False, killed=True)


def _was_killed(status: int) -> bool:
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed or status == UNKNOWN_STATUS


def _oom_kills() -> int:
    """Processes that the kernel has ended for want of memory since it started; 0 if unknown.

    It counts those of a control group's limit too, and before it ends them.

    Source: proc_vmstat(5); mm/oom_kill.c of Linux 4.13 and later.
    """
    with suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0
