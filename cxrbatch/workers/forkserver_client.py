"""The main process's handle of the forkserver: starts it and requests worker processes of it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from threading import Condition, Lock
from typing import TypeAlias

from cxrbatch.errors import CxrbatchError
from cxrbatch.workers.forkserver import GROUP_SIGNALS, PR_SET_PDEATHSIG, REPLY, REQUEST, End

WithoutSlot: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a context in which a thread has no worker slot (right to work), and waits for one after."""


class ReadingGate:
    """A lock for threads that read files: many may read side by side, or one of them alone.

    A thread that waits here releases its worker slot, the right to work: the readings that it waits
    for may need one.
    """

    def __init__(self) -> None:
        self._reading = self._alone = 0
        self._lock = Lock()
        self._changed = Condition(self._lock)

    @contextmanager
    def beside_others(self, without_slot: WithoutSlot) -> Iterator[None]:
        """In this context the thread reads beside others; first wait for one that reads alone.

        A thread that waits to read alone is waited for too.

        Args:
            without_slot: Makes the context in which this thread waits without its worker slot.
        """
        with self._lock:
            may_read = not self._alone
            self._reading += may_read
        if not may_read:
            with without_slot(), self._lock:
                self._changed.wait_for(lambda: not self._alone)
                self._reading += 1
        try:
            yield
        finally:
            self._leave(alone=0)

    @contextmanager
    def alone(self, without_slot: WithoutSlot) -> Iterator[None]:
        """In this context no other thread reads; first wait until those that read have finished.

        Threads that come later wait until this context ends.

        Args:
            without_slot: Makes the context in which this thread waits without its worker slot.
        """
        with without_slot(), self._lock:
            self._alone += 1
            self._changed.wait_for(lambda: not self._reading)
            self._reading += 1
        try:
            yield
        finally:
            self._leave(alone=1)

    def _leave(self, *, alone: int) -> None:
        with self._lock:
            self._reading -= 1
            self._alone -= alone
            self._changed.notify_all()


_LAST_WAIT = 1.0

# PR_SET_PDEATHSIG comes first, so that it ends with its parent even during its second of imports.
_START = (
    f"import ctypes, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    "sys.path[:] = {path!r}; from cxrbatch.workers import forkserver; forkserver.serve({preload!r})"
)


class ForkserverClosed(Exception):
    """Raised where a worker process is started or ended after `Forkserver.close`, as a run ends."""


class Forkserver:
    """Starts and ends worker processes, through a small process that forks them.

    May be used by several threads. If the small process was killed, the next call starts it again.

    Attributes:
        gate: Lets one worker process read alone.
    """

    def __init__(self, *, preload: Sequence[str] = ()) -> None:
        """Start the small process that forks the worker processes.

        Args:
            preload: Names of modules that it imports once, so that no worker process has to.

        Raises:
            CxrbatchError: It cannot be started.
        """
        self.gate = ReadingGate()
        self._preload = tuple(preload)
        self._lock = threading.Lock()
        self._closed = False
        self._begin()

    def start(self, *, memory: int) -> tuple[int, Connection]:
        """Fork a worker process, which then calls functions on items that it receives.

        Args:
            memory: Bytes that one item may use at most.

        Returns:
            Its process id and a connection to it.

        Raises:
            CxrbatchError: The system starts no more processes, or not the forkserver again.
            ForkserverClosed: `close` was called.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = self._ask(memory, theirs).status
            if pid < 0:
                raise _cannot_start(os.strerror(-pid))
            return pid, Connection(ours.detach())

    def end(self, pid: int) -> End:
        """Kill a worker process, if it still runs, and return how it ended and what it used.

        Args:
            pid: The process id that `start` returned.

        Returns:
            The end of the process; its status is `UNKNOWN_STATUS` if an earlier forkserver started
            the process, or if it does not end within a second.

        Raises:
            ForkserverClosed: `close` was called, which ended all worker processes.
            CxrbatchError: The forkserver was killed and cannot be started again.
        """
        return self._ask(-pid)

    def close(self) -> None:
        """End the forkserver and kill all worker processes.

        Calls that wait in another thread, and later ones, raise ForkserverClosed.
        """
        # A thread may hold the lock while it waits for an answer; the shutdown ends its waiting.
        self._closed = True
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        with self._lock:
            try:
                self._process.wait(_LAST_WAIT)
            except subprocess.TimeoutExpired:
                self._process.kill()  # and with it the children that it waits for
                self._process.wait()
            self._control.close()

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P and this path: the modules are those of the main process, never those of the current
        # folder. One thread each: a fork copies no other thread.
        command = [sys.executable, "-P", "-c", _START.format(path=sys.path, preload=self._preload)]
        lone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # It ignores signals to the process group once it runs. Until then they are blocked: a
        # process inherits the mask of the thread that starts it.
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

    def _ask(self, number: int, passed: socket.socket | None = None) -> End:
        with self._lock:
            answer = b"" if self._closed else self._exchange(number, passed)
            if not answer and not self._closed:
                # It was killed, as the system does where memory is short; its children ended too.
                self._process.wait()
                self._control.close()
                self._begin()
                answer = self._exchange(number, passed)
        if answer:
            return End(*REPLY.unpack(answer))
        if self._closed:
            raise ForkserverClosed
        raise _cannot_start("it ended at once")

    def _exchange(self, number: int, passed: socket.socket | None) -> bytes:
        try:
            descriptors = [] if passed is None else [passed.fileno()]
            socket.send_fds(self._control, [REQUEST.pack(number)], descriptors)
            return self._control.recv(REPLY.size)
        except OSError:
            return b""


def _cannot_start(reason: str) -> CxrbatchError:
    return CxrbatchError(f"cannot start a reading process: {reason}; try fewer --workers")
