"""Calls functions on hostile bytes in a child process with limits on time and memory.

A decoder that crashes, spins or eats memory ends its process and nothing else. The item that the
process was lost at is known, is tried again in a new process unless it surely was the cause, and
then is a `WorkerFault`. Items before it whose results had not been sent yet are read again. Where
the process was killed from outside, as the system does when memory is short, the item is tried
while no other worker reads.
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
from cxrbatch.workers.forkserver_client import Forkserver, ForkserverClosed, WithoutSlot

Item = TypeVar("Item")
Result = TypeVar("Result")

_SOON = 1.0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Time and memory that one item may use.

    Attributes:
        seconds: From the start of reading the item to its result.
        memory: Upper bound in bytes, beyond what a worker process needs by itself. An image gets as
            much of it as the size in its header explains.
    """

    seconds: float = 60.0
    memory: int = 4 << 30


@dataclass(frozen=True, slots=True)
class WorkerFault:
    """Why an item has no result: its worker process was lost, or its function raised an exception.

    Attributes:
        outcome: `decoder_crashed`, `decoder_timeout`, `out_of_memory` or `reader_killed`; or, where
            the function raised or its result cannot be pickled, what `reading_error` gives.
        detail: One line for a person.
        lasting: Whether the item is taken to have caused the loss of the process, so that reading
            it again is expected to end in the same way.
    """

    outcome: Outcome
    detail: str
    lasting: bool = False


class WorkerProcess:
    """Calls functions in a worker process, which is started when needed and replaced when lost.

    To be used by one thread at a time.

    Attributes:
        kills: Number of its processes so far that were killed from outside, or ended unknown.
    """

    def __init__(
        self,
        forkserver: Forkserver,
        limits: WorkerLimits,
        *,
        without_slot: WithoutSlot = nullcontext,
    ) -> None:
        """Store the arguments; `map` starts the process.

        Args:
            forkserver: Starts the process.
            limits: Time and memory that one item may use.
            without_slot: Makes a context that is entered when no result came for a second, and to
                wait to read alone or for one that does; meanwhile another thread may work.
        """
        self._forkserver = forkserver
        self._limits = limits
        self._without_slot = without_slot
        self._child: tuple[int, Connection] | None = None
        self._received = 0
        self._loss: _Loss | None = None
        self._released_slot = False
        self._oom_kills = 0
        self.kills = 0

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retried: Callable[[int], object] = lambda index: None,
    ) -> Iterator[Result | WorkerFault]:
        """Call a function on each item in a worker process, and survive items that end the process.

        An item whose process was lost is tried again in a new process, unless it surely was the
        cause: it took too much memory, or computed for over a quarter of the time until the limit.
        After a kill from outside it is tried alone, while no other worker reads.

        Args:
            function: Defined in a module, so that it can be pickled; its results are pickled too.
            items: The arguments, one for each call.
            retried: Called with the index of each item that a process was lost at, when it is tried
                again; its result is ignored.

        Yields:
            For each item, in order, its result, or a WorkerFault: why it has none.

        Raises:
            CxrbatchError: No process can be started.
            ForkserverClosed: The forkserver was closed.
        """
        self._released_slot = False
        yield from self._map(function, items, retried, first=0)
        if self._released_slot:
            # A spare process has started meanwhile; with this one there would be one too many.
            self.close()

    def _map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        retried: Callable[[int], object],
        *,
        first: int,
    ) -> Iterator[Result | WorkerFault]:
        done = 0
        while done < len(items):
            for result in self._attempt(function, items[done:]):
                yield result
                done += 1
            if done == len(items):
                return
            assert self._loss is not None
            loss = self._loss
            before = items[done : done + loss.unsent]
            yield from self._map(function, before, retried, first=first + done)
            done += len(before)
            if not loss.certain:
                if before:
                    self.close()  # the item is tried in a process that no other item has changed
                retried(first + done)
                yield self._try_again(function, items[done], alone=loss.killed)
            else:
                yield loss.fault
            done += 1

    def _try_again(
        self, function: Callable[[Item], Result], item: Item, *, alone: bool
    ) -> Result | WorkerFault:
        """Call a function once more on the item that a process was lost at, in a new process.

        A kill beside other workers proves nothing against the item: it is then tried alone.
        """
        results = list(self._attempt(function, [item], alone=alone))
        if results:
            return results[0]
        assert self._loss is not None
        if self._loss.killed and not alone:
            return self._try_again(function, item, alone=True)
        return self._loss.fault

    def close(self) -> None:
        """Kill the worker process, if there is one; the next `map` starts another."""
        if self._child is not None:
            pid, connection = self._child
            self._child = None
            connection.close()
            with suppress(ForkserverClosed):
                self._forkserver.end(pid)

    def _attempt(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, alone: bool = False
    ) -> Iterator[Result | WorkerFault]:
        """Yield results until the process is lost; read beside other workers, or alone."""
        gate = self._forkserver.gate
        with (gate.alone if alone else gate.beside_others)(self._release_slot):
            if alone:
                self._oom_kills = _oom_kills()
            yield from self._results(function, items)

    def _results(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result | WorkerFault]:
        pid, connection = self._child = self._child or self._new_child()
        left, end = len(items), None
        try:
            connection.send((function, list(items)))
            while left:
                end = end or self._end_if_overdue(pid, connection)
                # What was sent before the end counts. A process that waits for a dead disk has
                # not ended yet, and would be waited for.
                if end and not connection.poll():
                    break
                answers = connection.recv()
                self._received += len(answers)
                left -= len(answers)
                for answer in answers:
                    result, refusal = pickle.loads(answer)
                    yield result if refusal is None else WorkerFault(*refusal)
        except (EOFError, OSError):
            pass
        except BaseException:
            self.close()  # else its remaining results would be taken for those of other items
            raise
        if left or end:
            self._child = None
            connection.close()
        if left:
            self._record_loss(pid, end)

    def _end_if_overdue(self, pid: int, connection: Connection) -> End | None:
        """Wait for an answer; end the process if none comes in time."""
        # Connection.poll makes a new selector for each call, which takes as long as the receiving.
        answer = select.poll()
        answer.register(connection, select.POLLIN)
        # An item may have begun so much later than the answer before it was sent.
        seconds = self._limits.seconds + TOGETHER
        soon = min(_SOON, seconds)
        if answer.poll(1e3 * soon):
            return None
        with self._release_slot():
            if answer.poll(1e3 * (seconds - soon)):
                return None
            # Before the wait for a slot, during which the process would go on to other items.
            return self._forkserver.end(pid)

    @contextmanager
    def _release_slot(self) -> Iterator[None]:
        self._released_slot = True
        with self._without_slot():
            yield

    def _new_child(self) -> tuple[int, Connection]:
        self._received = 0
        return self._forkserver.start(memory=self._limits.memory)

    def _record_loss(self, pid: int, overdue: End | None) -> None:
        end = overdue or self._forkserver.end(pid)
        took_much = end.taken > end.allowed / 2
        if not overdue and _was_killed(end.status):
            self.kills += 1
            loss = _kill(of_memory=took_much or _oom_kills() > self._oom_kills)
        elif took_much:
            loss = _excessive_memory(end.allowed)
        elif overdue:
            loss = _timeout(self._limits, worked=end.seconds)
        else:
            loss = _crash()
        # What it used for items whose results have arrived says nothing of the next item.
        certain = loss.certain and end.begun > self._received
        unsent = max(0, end.begun - self._received - 1)
        self._loss = replace(loss, certain=certain, unsent=unsent)


@dataclass(frozen=True, slots=True)
class _Loss:
    """Why a process was lost.

    Attributes:
        fault: Of the item that it was reading.
        certain: Whether reading that item again could not end otherwise.
        killed: Whether the process was killed from outside.
        unsent: Items before that one whose results were lost with the process.
    """

    fault: WorkerFault
    certain: bool
    killed: bool = False
    unsent: int = 0


def _timeout(limits: WorkerLimits, *, worked: float) -> _Loss:
    detail = f"no image after {limits.seconds:g} s"
    # A process that waited, for a disk or because the machine was stopped, deserves another try.
    # One that computed for a good part of the time, on a busy machine, has had its chance.
    certain = worked > limits.seconds / 4
    return _Loss(WorkerFault(Outcome.DECODER_TIMEOUT, detail, lasting=True), certain)


def _excessive_memory(allowed: int) -> _Loss:
    # Also where the deadline came first, as memory may come slowly.
    detail = f"reading took more memory than the {allowed >> 20} MiB that its size allows"
    return _Loss(WorkerFault(Outcome.OUT_OF_MEMORY, detail, lasting=True), certain=True)


def _crash() -> _Loss:
    detail = "the decoder ended the process that ran it"
    return _Loss(WorkerFault(Outcome.DECODER_CRASHED, detail, lasting=True), certain=False)


def _kill(*, of_memory: bool) -> _Loss:
    # Not lasting: all processes together may be too large for the machine, and whoever ends a
    # whole run kills its processes too.
    if of_memory:
        detail = "the system ended the process that read the file, as memory was short"
        fault = WorkerFault(Outcome.OUT_OF_MEMORY, detail)
    else:
        fault = WorkerFault(Outcome.READER_KILLED, "the process that read the file was killed")
    return _Loss(fault, certain=False, killed=True)


def _was_killed(status: int) -> bool:
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return killed or status == UNKNOWN_STATUS


def _oom_kills() -> int:
    """Read how many processes the kernel has ended for want of memory since boot; 0 if unknown.

    The number includes those ended by a control group's limit, and grows before they end.

    Source: proc_vmstat(5); mm/oom_kill.c of Linux 4.13 and later.
    """
    with suppress(OSError), open("/proc/vmstat", "rb") as file:
        for line in file:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0
