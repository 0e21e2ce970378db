"""Every labelled file once through the one reader, in processes that a decoder cannot take along.

Nothing here imports torch: the reading processes import this module.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch import reading
from cxrbatch.model import preprocessing
from cxrbatch.model.preprocessing import ModelInput, Recipe
from cxrbatch.reading.containers.listing import open_regular
from cxrbatch.reading.outcomes import Outcome, ReadingError, reading_error
from cxrbatch.reading.radiograph import (
    ReadingOptions,
    iterate_radiographs,
    iterate_radiographs_bytes,
)
from cxrbatch.reading.readings import Reading, file_limit
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.patients import patient_key, secret_id
from cxrbatch.training.store import Place, Store, reported, stored_keys
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault, WorkerLimits

_DECODERS = ("imagecodecs", "numpy", "pillow", "pydicom", "scipy")
_COPIED_AT_ONCE = 256
_SECRET_ID_DIGITS = 16
# A file's times may lag so much behind the clock.
_CLOCK_NS = 20_000_000
_PASSING = frozenset({Outcome.UNREADABLE_FILE, Outcome.OUT_OF_MEMORY, Outcome.READER_KILLED})
"""Outcomes that say as much of the machine as of the bytes: they are tried anew in each run."""


def store_place(folder: Path, recipe: Recipe, *, secret: bytes, lasting: bool = True) -> Place:
    """Where a cache keeps the inputs of a recipe, as this version of the reader makes them.

    Args:
        folder: The cache.
        recipe: How display images become inputs.
        secret: Key of the patient hash: records made with another one are none.
        lasting: Whether the next run has it too; if not, that run writes in this one's place.
    """
    told = f"{recipe.sha256} {reading_version()} {secret_id(secret) if lasting else 'passing'}"
    shared = hashlib.sha256(told.encode()).hexdigest()[:-_SECRET_ID_DIGITS]
    return Place(folder, shared + secret_id(secret), recipe.size)


@lru_cache(maxsize=1)
def reading_version() -> str:
    """Hash the code that turns a file's bytes into a network input.

    The hash covers the name and content of every source file of `cxrbatch.reading`, of
    `cxrbatch.model.preprocessing`, and the versions of the decoding libraries. A version number
    that someone must raise by hand would be forgotten one day, and the cache would return inputs
    of an earlier reader.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    folder = Path(str(reading.__file__)).parent
    digest = hashlib.sha256(Path(preprocessing.__file__).read_bytes())
    for source in sorted(folder.rglob("*.py")):
        digest.update(source.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    digest.update(" ".join(version(name) for name in _DECODERS).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of one file.

    Attributes:
        key: Of its bytes; None where they could not be had.
        outcome: `scored` where it has an input; None where the store knows the key already.
        prepared: Shape (size, size), uint8, or None.
        patient: Key of the patient whom its header names, or None.
    """

    key: bytes | None
    outcome: Outcome | None
    prepared: ModelInput | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class InputReader:
    """Makes the input of a file whose bytes are not known yet; travels to reading processes.

    A label belongs to a file: of a multi-frame file the first frame stands for it.

    Attributes:
        recipe: How display images become inputs.
        place: Where known inputs are.
        known: So many records of the store are known.
        opened_ns: Of the store.
        patient_secret: Key of the patient hash.
    """

    recipe: Recipe
    place: Place
    known: int
    opened_ns: int
    patient_secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> Decoded:
        """Read one file; whatever is wrong with it is its outcome."""
        options = ReadingOptions(no_voi=self.recipe.no_voi)
        try:
            with open_regular(file.path) as stream:
                if os.fstat(stream.fileno()).st_size > file_limit(options.max_pixels):
                    return Decoded(None, next(iterate_radiographs(file.path, options)).outcome)
                # The bytes that are hashed are those that are decoded, whoever writes meanwhile.
                data = stream.read()
        except (OSError, ReadingError, MemoryError) as error:
            return Decoded(None, reading_error(error).outcome)
        key = _started(self.place)
        key.update(data)
        if key.digest() in _known(self.place, self.known, self.opened_ns):
            return Decoded(key.digest(), None)
        return self._decode(key.digest(), data, options)

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> Decoded:
        """Stand in for a file that ended the process that read it."""
        return Decoded(None, outcome)

    def _decode(self, key: bytes, data: bytes, options: ReadingOptions) -> Decoded:
        first: Reading = next(iterate_radiographs_bytes(data, options))
        patient = patient_key(first.facts, self.patient_secret)
        reading, prepared = self.recipe.prepare_reading(first)
        return Decoded(key, reading.outcome, prepared, patient)


def fill(
    store: Store,
    files: Sequence[Path],
    *,
    reader: InputReader,
    workers: int,
    limits: WorkerLimits,
    progress: Callable[[int], object],
) -> tuple[npt.NDArray[np.int64], list[Outcome], list[str | None]]:
    """Decode the files whose bytes the store does not know.

    Args:
        store: Where they are kept.
        files: Absolute paths.
        reader: Makes the inputs.
        workers: Processes that read; 0 reads in this one, where a crash of a decoder ends it.
        limits: What one file may use.
        progress: Called with 1 after each file.

    Returns:
        The row of each file in the store, shape (files,), -1 where it has none; its outcome;
        the key of its patient.

    Raises:
        CxrbatchError: The disk refuses, or no process can be started.
    """
    rows: npt.NDArray[np.int64] = np.full(len(files), -1, dtype=np.int64)
    outcomes, patients = [], []
    culprits = _Culprits(store.place)
    with ReadingPool(
        reader,
        workers=workers,
        limits=limits,
        result_bytes=reader.recipe.size**2,
        listener=culprits,
    ) as pool:
        unread = (PendingItem(i, ArchiveFile(os.fsencode(path), 0)) for i, path in enumerate(files))
        decoded: Decoded
        for number, decoded in enumerate(pool.map(unread)):
            key, outcome = decoded.key or culprits.keys.get(number), decoded.outcome
            patient = decoded.patient
            if outcome is None:
                assert key is not None
                rows[number] = store.row(key, near=number)
                outcome = store.outcome(int(rows[number]))
                patient = store.patient(int(rows[number]))
            elif key is not None and outcome not in _PASSING:
                rows[number] = store.append(key, outcome, decoded.prepared, patient)
            outcomes.append(outcome)
            patients.append(patient)
            progress(1)
    return rows, outcomes, patients


def in_order(store: Store, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Map inputs in the order of `rows`, shape (rows, size, size), uint8.

    Where that is the order of the store, as after a first run, the store itself is mapped. Rows
    of -1 are zeros.

    Raises:
        CxrbatchError: The disk refuses.
    """
    inputs: npt.NDArray[np.uint8] = store.place.records(store.count)["input"]
    if np.array_equal(rows, np.arange(len(rows))):
        return inputs[: len(rows)]
    return take(inputs, rows, folder=store.place.folder)


def take(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], *, folder: Path
) -> npt.NDArray[np.uint8]:
    """Copy inputs to a file without a name in `folder`, and map it: memory stays flat.

    Args:
        inputs: Shape (n, size, size), uint8.
        rows: Which of them, in this order; -1 for zeros.
        folder: On whose disk; the system frees the space when the process ends, however it does.

    Returns:
        Shape (rows, size, size), uint8; what is written to it stays in memory.

    Raises:
        CxrbatchError: The disk refuses.
    """
    shape = (len(rows), *inputs.shape[1:])
    if not len(rows):
        return np.empty(shape, np.uint8)
    # Written and then mapped: a full disk is an error of a write, but a signal in a map.
    with reported(folder), tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, len(rows), _COPIED_AT_ONCE):
            some = rows[start : start + _COPIED_AT_ONCE]
            block = np.zeros((len(some), *shape[1:]), np.uint8)
            block[some >= 0] = inputs[some[some >= 0]]
            file.write(block.data)
        file.flush()
        return np.memmap(file, np.uint8, "c", shape=shape)


@dataclass(slots=True)
class _Culprits(PoolListener[ArchiveFile]):
    """Keys of files that end the process which reads them; told by several threads."""

    place: Place
    began_ns: int = field(default_factory=lambda: time.time_ns() - _CLOCK_NS)
    keys: dict[int, bytes] = field(default_factory=dict)

    def lost(self, pending: PendingItem[ArchiveFile], fault: WorkerFault) -> None:
        """Remember the bytes, if they are the ones that were read."""
        if not fault.lasting:
            return
        key = _started(self.place)
        try:
            with open_regular(pending.item.path) as stream:
                while block := stream.read(1 << 20):
                    key.update(block)
                if os.fstat(stream.fileno()).st_ctime_ns < self.began_ns:
                    self.keys[pending.number] = key.digest()
        except (OSError, ReadingError):
            return


def _started(place: Place) -> "hashlib._Hash":
    return hashlib.sha256(place.identity.encode())


@lru_cache(maxsize=1)
def _known(place: Place, count: int, opened_ns: int) -> frozenset[bytes]:
    return stored_keys(place, count)
