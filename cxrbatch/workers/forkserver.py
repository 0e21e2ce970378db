"""The process that forks worker processes: small, of one thread, and never touched by a file.

`forkserver_client` starts it with a socket as its standard input. A fork of it costs milliseconds
and a few megabytes; a fork of the main process would copy a model, its threads and its device. It
ends when the main process does, and its children end with it.

The forkserver of Python's multiprocessing does not replace it: the peak memory and CPU time of a
child that crashed are known only to the process that waits for it (wait4), and that one reports
the exit status alone. Here they decide between a crash, a timeout and too much memory.
"""

import ctypes
import gc
import importlib
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from cxrbatch.process import open_standard_streams
from cxrbatch.reading import readings
from cxrbatch.reading.outcomes import reading_error

REQUEST = struct.Struct("<q")
"""Positive, with a socket: fork a child that may use so many bytes. Negative: end that child."""

REPLY = struct.Struct("<qqqqd")
"""After a fork: `End` whose status is the process id, or negative an error number. After an end:
the fields of `End`."""

UNKNOWN_STATUS = -1

TOGETHER = 0.05
"""Seconds for which a child gathers results before it sends them: a message wakes the main process,
which for small images costs a tenth of the time that reading them takes."""


class End(NamedTuple):
    """How a worker process ended, and what the item used that it read last.

    Attributes:
        status: Exit status as of waitpid, or `UNKNOWN_STATUS` (-1).
        begun: Number of items that it began.
        taken: Bytes by which the peak memory has risen since `allowed` was set.
        allowed: Bytes that the last item was allowed.
        seconds: CPU seconds since the last item began.
    """

    status: int
    begun: int = 0
    taken: int = 0
    allowed: int = 0
    seconds: float = 0.0


GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C and the signals of a batch system reach the whole process group. The main process decides
what follows; a child that ended by such a signal would look like a crash of its file."""

# Reading runs ahead of the forward pass and yields to it: with more processes and threads than
# cores, a thread that waits for a core keeps all threads of a layer waiting.
_NICENESS = 10
_LAST_WAIT = 1.0
PR_SET_PDEATHSIG = 1  # prctl(2)
_KIBIBYTE = 1024
_FORGET_PEAK = b"5"  # as of proc_pid_clear_refs(5)
_LINE = 128

_PRELOADED = ("cxrbatch.reading.dicom.reader", "scipy.sparse")

# Items begun; bytes that the last one is allowed; peak of resident bytes before it; CPU seconds
# before it.
_ENTRIES = struct.Struct("<qqqd")


def serve(preload: Sequence[str]) -> None:
    """Run the forkserver: fork and end worker processes on request, until the main process ends.

    Requests (`REQUEST`) and replies (`REPLY`) pass through the socket that is this process's
    standard input. When the main process closes it, all worker processes are killed and this
    process exits: this function never returns.

    Args:
        preload: Modules that are imported before the first fork, beside those that read images.
    """
    open_standard_streams()
    control = socket.socket(fileno=0)
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    # What children need is loaded before they are forked; the main process loads its own modules
    # meanwhile.
    for name in (*_PRELOADED, *preload):
        importlib.import_module(name)
    gc.freeze()
    children: dict[int, _Ledger] = {}
    # The main process may close the socket while it waits for an answer.
    with suppress(BrokenPipeError, ConnectionResetError):
        _obey(control, children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid, ledger in children.items():
        _end(pid, ledger)
    # The interpreter's own end takes a tenth of a second and does nothing here.
    os._exit(0)


def _obey(control: socket.socket, children: "dict[int, _Ledger]") -> None:
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if not request:
            return
        (number,) = REQUEST.unpack(request)
        if number > 0:
            ledger = _Ledger(number)
            pid = _fork(descriptors[0], ledger)
            os.close(descriptors[0])
            if pid > 0:
                children[pid] = ledger
            control.send(REPLY.pack(*End(pid)))
        elif -number in children:
            control.send(REPLY.pack(*_end(-number, children.pop(-number))))
        else:  # a child of an earlier forkserver
            control.send(REPLY.pack(*End(UNKNOWN_STATUS)))


class _Ledger:
    """Shared memory in which a child records what it began; readable after the child's end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shared = mmap.mmap(-1, _ENTRIES.size)
        self._sizes = self._peak = -1
        self._begun = 0
        self._seconds = 0.0

    def open(self) -> None:
        """In the child: open the kernel's files that each item needs; allow the most memory."""
        self._sizes = os.open("/proc/self/statm", os.O_RDONLY)
        with suppress(OSError):
            self._peak = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self.allow_most()

    def begin(self) -> None:
        """In the child: record that an item begins; allow the most memory."""
        self._begun += 1
        self._seconds = time.process_time()
        self.allow_most()

    def allow_most(self) -> None:
        """In the child: allow as much memory as any item may use."""
        self.allow(self._most)

    def allow(self, memory: int) -> None:
        """In the child: allow so many more bytes than are mapped now, and reset the peak."""
        memory = min(memory, self._most)
        mapped = int(os.pread(self._sizes, _LINE, 0).split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = mapped + memory if hard == resource.RLIM_INFINITY else min(mapped + memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        with suppress(OSError):
            os.pwrite(self._peak, _FORGET_PEAK, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE
        self._shared[:] = _ENTRIES.pack(self._begun, memory, peak, self._seconds)

    def begun(self) -> int:
        """In the parent: read the number of items that the child began."""
        begun: int = _ENTRIES.unpack(self._shared[:])[0]
        return begun

    def end(self, status: int, usage: resource.struct_rusage) -> End:
        """In the parent: make the `End` of a child from its status and resource usage."""
        begun, allowed, peak, seconds = _ENTRIES.unpack(self._shared[:])
        taken = max(0, usage.ru_maxrss * _KIBIBYTE - peak)
        return End(status, begun, taken, allowed, usage.ru_utime + usage.ru_stime - seconds)


def _fork(descriptor: int, ledger: _Ledger) -> int:
    """Return the process id of a new child, or the negative error number of the system."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        return -(error.errno or 1)
    if pid == 0:
        try:
            _confine(parent, descriptor, ledger)
            _answer(Connection(descriptor), ledger)
        finally:
            os._exit(1)
    return pid


def _end(pid: int, ledger: _Ledger) -> End:
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)  # it changes nothing where the child has ended already
    # A child that waits for a dead disk does not end; the other requests must not wait for it.
    select.select([handle], [], [], _LAST_WAIT)
    os.close(handle)
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    if not ended:
        return End(UNKNOWN_STATUS, begun=ledger.begun())
    return ledger.end(status, usage)


def _confine(parent: int, descriptor: int, ledger: _Ledger) -> None:
    """End with the parent, print nothing, dump no core, be the first to go when memory ends."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # Messages of decoders may quote a header, and a core dump holds all of it.
    silence = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(silence, standard)
    os.close(silence)
    os.set_inheritable(descriptor, False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    ledger.open()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    readings.limit_memory_with(ledger.allow)


def _answer(connection: Connection, ledger: _Ledger) -> None:
    """Call functions on items; send the results of quick ones together."""
    while True:
        try:
            function, items = connection.recv()
        except EOFError:
            os._exit(0)
        answers: list[bytes] = []
        sent = time.monotonic()
        for left in reversed(range(len(items))):
            ledger.begin()
            answers.append(_answer_to(function, items[-1 - left]))
            if not left or time.monotonic() - sent > TOGETHER:
                ledger.allow_most()  # the last item's claim does not cover the message
                try:
                    connection.send(answers)
                except OSError:
                    os._exit(0)  # nobody waits for the results any more
                answers, sent = [], time.monotonic()


def _answer_to(function: Callable[[Any], object], item: object) -> bytes:
    """Pickle (result, None), or (None, (outcome, detail)) where reading or pickling fails."""
    try:
        return pickle.dumps((function(item), None))
    except BaseException as error:
        refusal = reading_error(error)
        return pickle.dumps((None, (refusal.outcome, refusal.detail)))
