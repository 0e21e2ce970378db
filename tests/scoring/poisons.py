"""What a decoder can do to the process that runs it; child processes import this."""

import ctypes
import fcntl
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.reading.readings import check_samples
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.workers.forkserver import TOGETHER

SIZE = 32


class Panic(BaseException):
    """As a decoder written in Rust raises it."""


def swallow(what: str) -> object:
    """Do to this process what the word says; give it doubled where nothing happens."""
    if what == "segfault":
        ctypes.string_at(0)
    if what == "abort":
        os.abort()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(0)
    if what == "spin":
        while True:
            pass
    if what == "sleep":
        time.sleep(600)
    if what == "memory":
        held = []
        while True:
            held.append(bytearray(1 << 24))
    if what == "native memory":
        _eat_natively()
    if what == "claim a little and eat":
        check_samples(1000, limit=1000)
        _eat_natively()
    if what == "fill much":
        bytearray(b"1") * (200 << 20)
    if what == "lambda":
        return lambda: what  # which cannot be pickled
    if what == "taint":
        os.environ["TAINTED"] = "yes"
    if what == "crash if tainted" and "TAINTED" in os.environ:
        os.abort()
    if what == "pause":  # longer than results wait for others, on a machine of any speed
        time.sleep(1.5 * TOGETHER)
    if what == "panic":
        raise Panic("NAME^OF A PATIENT")
    verb, _, path = what.partition(" ")
    if verb == "kill_once" and _is_first(path):
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "abort_kill":  # at the first try the one, at the second the other
        os.abort() if _is_first(path) else os.kill(os.getpid(), signal.SIGKILL)
    if verb == "crowd":
        _end_beside_another(path.partition(" ")[0])
    if verb == "await":
        while not Path(bytes.fromhex(path).decode()).exists():
            time.sleep(0.01)
    if verb == "make":
        Path(bytes.fromhex(path).decode()).touch()
    if verb == "note":
        time.sleep(0.005)  # as reading a file takes: whoever wants a place has to wait for it
        where, _, word = path.partition(" ")
        with Path(bytes.fromhex(where).decode()).open("a") as file:
            file.write(f"{word}\n")
    if what == "print":
        os.write(1, b"NAME^OF A PATIENT")
        os.write(2, b"NAME^OF A PATIENT")
    return what * 2


def _is_first(path: str) -> bool:
    """Whether nobody has asked for this path, in hexadecimal digits, before."""
    try:
        os.close(os.open(bytes.fromhex(path), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _end_beside_another(path: str) -> None:
    """End as the system would end a process where two at a time take too much memory."""
    with open(bytes.fromhex(path), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)  # long enough for others to come


def loaded_by_reading(path: str) -> set[str]:
    """Packages that a process loads when it reads a file."""
    before = set(sys.modules)
    list(read_radiographs(path))
    return {name.partition(".")[0] for name in set(sys.modules) - before}


def _eat_natively() -> None:
    """Fill memory as a C decoder would that checks no pointer."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    while True:
        library.memset(library.malloc(ctypes.c_size_t(1 << 24)), 1, 1 << 24)


@dataclass(frozen=True, slots=True)
class PoisonedReader(FileReader):
    """Reads the names of files in place of the files; input levels are their sizes."""

    def read(self, file: ArchiveFile) -> LoadedFile:
        """Swallow the first word of the name."""
        swallow(file.path.decode().partition("-")[0])
        rows = super(PoisonedReader, self).failed(file, Outcome.NOT_AN_IMAGE, "").rows
        return LoadedFile(rows, [True], np.full((1, SIZE, SIZE), file.size % 256, np.uint8))
