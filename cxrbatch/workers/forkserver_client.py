"""The main process's side of the nursery: it starts it, and asks it for child processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from threading import Condition, Lock
from typing import TypeAlias

from cxrbatch.errors import CxrbatchError
from cxrbatch.workers.forkserver import GROUP_SIGNALS, PR_SET_PDEATHSIG, REPLY, REQUEST, End

Aside: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a context in which a thread gives up its worker slot; at its end it has one again."""


class ReadingGate:
    """Counts the threads whose process reads, and lets one wait until no other does.

    Who waits here has no worker slot: another may need it for the reading that is waited for.
    """

    def __init__(self) -> None:
        """Let any number of threads read."""
        self._reading = self._alone = 0
        self._lock = Lock()
        self._changed = Condition(self._lock)

    @contextmanager
    def beside_others(self, aside: Aside) -> Iterator[None]:
        """Read in this context; wait before it while another reads alone, or is about to."""
        with self._lock:
            may_read = not self._alone
            self._reading += may_read
        if not may_read:
            with aside(), self._lock:
                self._changed.wait_for(lambda: not self._alone)
                self._reading += 1
        try:
            yield
        finally:
            self._leave(alone=0)

    @contextmanager
    def alone(self, aside: Aside) -> Iterator[None]:
        """Read in this context alone; wait before it until no other thread reads."""
        with aside(), self._lock:
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

# It ends with the thread that starts it even while it imports, which takes it a second.
_START = (
    f"import ctypes, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    "sys.path[:] = {path!r}; from cxrbatch.workers import forkserver; forkserver.serve()"
)


class NurseryClosed(Exception):
    """No more processes are started, as the run is ending."""


class Nursery:
    """Starts and ends child processes; may be used by several threads.

    Attributes:
        gate: Lets a child read alone.
    """

    def __init__(self) -> None:
        """Start the process that forks the children.

        Raises:
            CxrbatchError: It cannot be started.
        """
        self.gate = ReadingGate()
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
            pid = self._ask(memory, theirs).status
            if pid < 0:
                raise _cannot_start(os.strerror(-pid))
            return pid, Connection(ours.detach())

    def end(self, pid: int) -> End:
        """End a child.

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

    def _ask(self, number: int, passed: socket.socket | None = None) -> End:
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
            return End(*REPLY.unpack(answer))
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


def _cannot_start(reason: str) -> CxrbatchError:
    return CxrbatchError(f"cannot start a reading process: {reason}; try fewer --workers")
