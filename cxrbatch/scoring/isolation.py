"""Hostile bytes are read in child processes with limits on time and memory.

A decoder that crashes, spins or eats memory ends its child and nothing else. The file that it
happened on is known, is tried once more in a new child, and then is a `Fault`.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from cxrbatch.errors import CxrbatchError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.nursery import GROUP_SIGNALS, PR_SET_PDEATHSIG, REPLY, REQUEST, UNKNOWN_STATUS

Item = TypeVar("Item")
Result = TypeVar("Result")

_LAST_WAIT = 1.0
_SOON = 1.0

# It ends with the thread that starts it even while it imports, which takes it a second.
_START = (
    f"import ctypes, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    "sys.path[:] = {path!r}; from cxrbatch.scoring import nursery; nursery.serve()"
)


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
    lasting: bool


class NurseryClosed(Exception):
    """No more processes are started, as the run is ending."""


class Nursery:
    """Starts and ends child processes; may be used by several threads."""

    def __init__(self) -> None:
        """Start the process that forks the children.

        Raises:
            CxrbatchError: It cannot be started.
        """
        self._lock = threading.Lock()
        self._closed = False
        self._begin()

    def start(self, *, memory: int) -> tuple[int, Connection]:
        """Fork a child; give its process id and the way to it.

        Raises:
            CxrbatchError: The system starts no more processes.
            NurseryClosed: The nursery was closed.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid, *_ = self._ask(memory, theirs)
            if pid < 0:
                raise _cannot_start(os.strerror(-pid))
            return pid, Connection(ours.detach())

    def end(self, pid: int) -> tuple[int, int, int, float]:
        """End a child; give its exit status, bytes it took of those allowed, these, CPU seconds.

        Raises:
            NurseryClosed: The nursery was closed, and all children with it.
        """
        return self._ask(-pid)

    def close(self) -> None:
        """End all children."""
        # A thread may hold the lock while it waits for an answer; this ends its waiting.
        self._closed = True
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        with self._lock:
            try:
                self._process.wait(_LAST_WAIT)
            except subprocess.TimeoutExpired:
                self._process.kill()  # and with it what it waits for
                self._process.wait()
            self._control.close()

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P and this path: a child finds what its parent found, and nothing of the folder that
        # the program is called in. One thread each: a fork copies no other.
        command = [sys.executable, "-P", "-c", _START.format(path=sys.path)]
        lone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # It ignores the signals to the group as soon as it can; until then, while it imports, it
        # has them blocked, as a process is born with the mask of the thread that starts it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **lone},
            )
        except OSError as error:
            raise _cannot_start(error.strerror or "") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()

    def _ask(self, number: int, passed: socket.socket | None = None) -> tuple[int, int, int, float]:
        with self._lock:
            answer = b"" if self._closed else self._exchange(number, passed)
            if not answer and not self._closed:
                # Someone ended it, as the system does where memory is short; its children have
                # gone with it.
                self._process.wait()
                self._control.close()
                self._begin()
                answer = self._exchange(number, passed)
        if answer:
            status, taken, allowed, seconds = REPLY.unpack(answer)
            return status, taken, allowed, seconds
        if self._closed:
            raise NurseryClosed
        raise _cannot_start("it ended at once")

    def _exchange(self, number: int, passed: socket.socket | None) -> bytes:
        try:
            descriptors = [] if passed is None else [passed.fileno()]
            socket.send_fds(self._control, [REQUEST.pack(number)], descriptors)
            return self._control.recv(REPLY.size)
        except OSError:
            return b""


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
        self._seconds_before = 0.0
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
        yield from self._map(function, items, retried)
        if self._stepped_aside:
            # Another has started meanwhile; together they would be one too many.
            self.close()

    def _map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        retried: Callable[[int], object],
    ) -> Iterator[Result | Fault]:
        done = 0
        while done < len(items):
            for result in self._attempt(function, items[done:]):
                yield result
                done += 1
            if done == len(items):
                return
            if self._loss is not None and not self._loss.certain:
                retried(done)
                again = list(self._attempt(function, items[done : done + 1]))
                if again:
                    yield again[0]
                    done += 1
                    continue
            assert self._loss is not None
            yield self._loss.fault
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
        _, connection = self._child = self._child or self._new_child()
        try:
            connection.send((function, list(items)))
            for _ in items:
                if not self._answered(connection):
                    self._lose(timed_out=True)
                    return
                result, refusal, self._seconds_before = connection.recv()
                yield result if refusal is None else Fault(refusal[0], refusal[1], lasting=False)
        except (EOFError, OSError):
            self._lose(timed_out=False)
        except GeneratorExit:
            self.close()  # or its remaining results would be taken for those of other items
            raise

    def _answered(self, connection: Connection) -> bool:
        # What Connection.poll makes anew for each answer takes as long as to receive it.
        answer = select.poll()
        answer.register(connection, select.POLLIN)
        soon = min(_SOON, self._limits.seconds)
        if answer.poll(1e3 * soon):
            return True
        self._stepped_aside = True
        with self._aside():
            return bool(answer.poll(1e3 * (self._limits.seconds - soon)))

    def _new_child(self) -> tuple[int, Connection]:
        self._seconds_before = 0.0
        return self._nursery.start(memory=self._limits.memory)

    def _lose(self, *, timed_out: bool) -> None:
        assert self._child is not None
        pid, connection = self._child
        self._child = None
        connection.close()
        status, taken, allowed, seconds = self._nursery.end(pid)
        if taken > allowed / 2:
            self._loss = _gluttony(allowed, status=status, timed_out=timed_out)
        elif timed_out:
            self._loss = _timeout(self._limits, worked=seconds - self._seconds_before)
        else:
            self._loss = _death(status)


@dataclass(frozen=True, slots=True)
class _Loss:
    """Why a child was lost, and whether trying again could end otherwise."""

    fault: Fault
    certain: bool


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


def _cannot_start(reason: str) -> CxrbatchError:
    return CxrbatchError(f"cannot start a reading process: {reason}; try fewer --workers")
