"""Files to loaded batches through a DataLoader, in order, whatever the files do to its workers."""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from torch.utils.data import DataLoader, Dataset

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.rows import FileReader, LoadedFiles

STALLED_AFTER = 180.0
"""Seconds without a batch after which the workers count as hung."""

FILE_DEADLINE = 60.0
"""Seconds for one file that is read again by itself."""

_CHUNK = 16
_LOOKS_EVERY = 1.0


def load_files(
    files: Iterable[ArchiveFile], reader: FileReader, *, workers: int
) -> Iterator[LoadedFiles]:
    """Read files in order, some at a time.

    A worker that dies or hangs costs one repetition of the chunks that were under way, file by
    file in child processes; the file that did it gets a row that says so.

    Args:
        files: What to read; taken lazily, so a million files need no memory.
        reader: Makes the rows.
        workers: Processes; 0 reads in this one, where a crash of a native decoder ends it.
    """
    chunks = (list(chunk) for chunk in _in_chunks(files))
    if workers == 0:
        yield from map(reader.load, chunks)
        return
    under_way: deque[list[ArchiveFile]] = deque()
    finished = False
    while not finished:
        try:
            for loaded in _batches(_noted(chunks, under_way), reader, workers=workers):
                under_way.popleft()
                yield loaded
            finished = True
        except _WorkersLost:
            lost = [file for chunk in under_way for file in chunk]
            under_way.clear()
            yield from _load_alone(lost, reader)


class _WorkersLost(Exception):
    """A worker process died or hung."""


class _Reading(Dataset[LoadedFiles]):
    """A dataset whose indices are the files themselves: nothing is listed beforehand."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader

    def __getitem__(self, index: int) -> LoadedFiles:
        raise TypeError("files are read in chunks")

    def __getitems__(self, files: list[ArchiveFile]) -> LoadedFiles:
        return self._reader.load(files)


def _in_chunks(files: Iterable[ArchiveFile]) -> Iterator[list[ArchiveFile]]:
    iterator = iter(files)
    while chunk := [file for _, file in zip(range(_CHUNK), iterator, strict=False)]:
        yield chunk


def _noted(
    chunks: Iterator[list[ArchiveFile]], under_way: deque[list[ArchiveFile]]
) -> Iterator[list[ArchiveFile]]:
    # The DataLoader hands chunks out in this order and gives batches back in the same one, so
    # the queue holds exactly what was handed out and not yet given back.
    for chunk in chunks:
        under_way.append(chunk)
        yield chunk


def _batches(
    chunks: Iterator[list[ArchiveFile]], reader: FileReader, *, workers: int
) -> Iterator[LoadedFiles]:
    loader: DataLoader[LoadedFiles] = DataLoader(
        _Reading(reader),
        batch_sampler=chunks,
        num_workers=workers,
        collate_fn=_as_it_is,
        timeout=_LOOKS_EVERY,
    )
    previous = signal.getsignal(signal.SIGCHLD)
    with _interrupts_held():
        batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch's handler raises wherever the main thread happens to be when a worker dies. The
        # loader also looks after its workers while it waits, and raises there, where it is caught.
        signal.signal(signal.SIGCHLD, previous or signal.SIG_DFL)
    last = time.monotonic()
    while True:
        try:
            loaded = next(batches)
        except StopIteration:
            return
        except (RuntimeError, MemoryError) as error:
            if _only_slow(error) and time.monotonic() - last < STALLED_AFTER:
                continue
            raise _WorkersLost from None
        yield loaded
        last = time.monotonic()


def _only_slow(error: Exception) -> bool:
    # The loader looks whether its workers live each time it has waited for `timeout`, and where
    # they do it raises this. Nothing is lost by asking again.
    return "timed out" in str(error)


def _load_alone(files: list[ArchiveFile], reader: FileReader) -> Iterator[LoadedFiles]:
    pool = _one_process()
    try:
        for file in files:
            try:
                with _interrupts_held():
                    future = pool.submit(reader.load, [file])
                yield future.result(timeout=FILE_DEADLINE)
                continue
            except BrokenProcessPool:
                detail = "the decoder ended the process that ran it"
                yield reader.failed(file, Outcome.DECODER_CRASHED, detail)
            except TimeoutError:
                detail = f"no image after {FILE_DEADLINE:.0f} s"
                yield reader.failed(file, Outcome.DECODER_TIMEOUT, detail)
            _end(pool)
            pool = _one_process()
    finally:
        _end(pool)


def _one_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1)


def _end(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _as_it_is(loaded: object) -> object:
    return loaded


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C waiting while processes start.

    Ctrl-C reaches the whole process group. The children inherit a handler that does nothing, so
    only the main process decides what follows; and an exception in the middle of a fork, or of
    the loader's making, would be lost or leave it half made. Blocking the signal is not enough:
    any thread of a library may still receive it on Python's behalf.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)
    if noted and callable(previous):
        previous(signal.SIGINT, None)
