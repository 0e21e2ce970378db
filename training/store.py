"""The cache file: decoded inputs under the hash of the bytes that each was made of.

A file of records of one size, which only grows: a process that maps it loses nothing of what it
has mapped. A record begins with a hash of its rest. One that was cut, by a kill, a power cut or a
full disk, or that was edited, is ignored.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import CxrbatchError
from cxrbatch.files import disk_errors, lock_file, written_whole
from cxrbatch.model.preprocessing import ModelInput
from cxrbatch.reading.outcomes import Outcome

_MAGIC = b"cxrbatch inputs 2\n"
_HEAD_BYTES = 128
_HASH_BYTES, _KEY_BYTES, _OUTCOME_BYTES, _PATIENT_BYTES = 16, 32, 48, 16
_PATIENT_OFFSET = _HASH_BYTES + _KEY_BYTES + _OUTCOME_BYTES
_OUTCOMES = {code.value.encode(): code for code in Outcome}
_COPIED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class CacheFile:
    """Name and format of the file with the inputs of one recipe and one version of the reader.

    Attributes:
        folder: The folder of the cache.
        identity: Hash of recipe, reader and patient secret, 64 hexadecimal digits.
        size: Edge of an input in pixels.
    """

    folder: Path
    identity: str
    size: int

    @property
    def file(self) -> Path:
        """Path of the file of records in `folder`; the file need not exist."""
        return self.folder / f"{self.identity[:16]}.inputs"

    @property
    def lock(self) -> Path:
        """Path of the empty file that a process locks while it has the file of records open."""
        return self.folder / f"{self.identity[:16]}.lock"

    @property
    def record(self) -> np.dtype[np.void]:
        """Layout of a record as a NumPy dtype; zeros stand for no patient and for no input.

        The fields are: "hash" of the rest of the record, 16 bytes; "key", the hash of the source
        file's bytes, 32 bytes; "outcome", its code as text; "patient", the patient key, 16 bytes;
        "unused", 16 bytes; "input", shape (size, size), uint8. Only the outcome tells whether there
        is an input, as a black image has zeros too.
        """
        return np.dtype(
            [
                ("hash", f"V{_HASH_BYTES}"),
                ("key", f"V{_KEY_BYTES}"),
                ("outcome", f"S{_OUTCOME_BYTES}"),
                ("patient", f"V{_PATIENT_BYTES}"),
                ("unused", "V16"),
                ("input", "u1", (self.size, self.size)),
            ]
        )

    def records(self, count: int) -> npt.NDArray[np.void]:
        """Map the first `count` records of the file, shape (count,), with the dtype `record`.

        The records are not checked. Changes to them stay in memory and are not written.
        """
        if count == 0:
            return np.empty(0, self.record)
        return np.memmap(self.file, self.record, "c", offset=_HEAD_BYTES, shape=(count,))

    def keys(self, count: int) -> frozenset[bytes]:
        """Return the keys of the first `count` records: hashes of source files, 32 bytes each.

        An `InputStore` must have checked these records: it sets the keys of damaged ones to zeros,
        which are left out.
        """
        return frozenset(key.tobytes() for key in self.records(count)["key"]) - {bytes(_KEY_BYTES)}


class InputStore:
    """The records of one cache file, open for reading and appending.

    A record has a row, its number from 0; a key, the hash of the source file's bytes; an outcome;
    and possibly an input and a patient key. A damaged record keeps its row and has no key.

    Attributes:
        place: The cache file.
        count: Number of records, damaged ones included.
        opened_ns: Time of opening, by the monotonic clock.
    """

    def __init__(self, place: CacheFile, descriptor: int) -> None:
        """Check every record, clear damaged ones, and cut off a last one that is not whole.

        Call `open_store` instead, which opens and locks the file.

        Args:
            place: The cache file.
            descriptor: The file, open for reading and writing.
        """
        self.place = place
        self._descriptor = descriptor
        self._rows: dict[bytes, int] = {}
        self._outcomes: dict[int, Outcome] = {}
        self.opened_ns = time.monotonic_ns()
        self.count = (os.fstat(descriptor).st_size - _HEAD_BYTES) // place.record.itemsize
        # No process has mapped a record that is not whole.
        os.ftruncate(descriptor, self._offset(self.count))
        for row in range(self.count):
            self._check(row)

    def row(self, key: bytes, *, near: int) -> int:
        """Return the number of a row with a key: `near` if it is one of them, else any of them.

        Args:
            key: Hash of the source file's bytes.
            near: Number of the file in the caller's order. Rows that are in this order need not be
                copied by `in_order`.

        Raises:
            KeyError: No record has the key.
        """
        if near < self.count and self._key(near) == key and near in self._outcomes:
            return near
        return self._rows[key]

    def outcome(self, row: int) -> Outcome:
        """Return the outcome of a row: `scored` if it has an input, else why it has none.

        Raises:
            KeyError: There is no such row, or it is damaged.
        """
        return self._outcomes[row]

    def patient(self, row: int) -> str | None:
        """Return the patient key of a row, 32 hexadecimal digits; None if the row has none."""
        start = self._offset(row) + _PATIENT_OFFSET
        patient = os.pread(self._descriptor, _PATIENT_BYTES, start)
        return patient.hex() if any(patient) else None

    def append(
        self,
        key: bytes,
        outcome: Outcome,
        prepared: ModelInput | None,
        patient: str | None = None,
    ) -> int:
        """Append a record to the file and return its row.

        Args:
            key: Hash of the source file's bytes, 32 bytes.
            outcome: `scored` if there is an input, else why not.
            prepared: The input, shape (size, size), uint8; None is stored as zeros.
            patient: Patient key, 32 hexadecimal digits; None if the patient is unknown.

        Raises:
            CxrbatchError: The file cannot be written.
        """
        record = np.zeros(1, self.place.record)
        record["key"], record["outcome"] = np.void(key), outcome.value.encode()
        if prepared is not None:
            record["input"] = prepared
        if patient is not None:
            record["patient"] = np.void(bytes.fromhex(patient))
        record["hash"] = np.void(_hash(record.tobytes()))
        row = self.count
        with cache_errors(self.place.folder):
            _write(self._descriptor, record.tobytes(), self._offset(row))
        self.count += 1
        self._rows[key], self._outcomes[row] = row, outcome
        return row

    def in_order(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the inputs of some rows as a memory map; changes to it are not written.

        If `rows` are 0, 1, 2 and so on, as after a first run, the cache file itself is mapped;
        otherwise the inputs are copied to a temporary file.

        Args:
            rows: Shape (n,), rows in the wanted order; -1 gives an input of zeros.

        Returns:
            Shape (n, size, size), uint8.

        Raises:
            CxrbatchError: The temporary file, in the folder of the cache, cannot be written.
        """
        inputs: npt.NDArray[np.uint8] = self.place.records(self.count)["input"]
        if np.array_equal(rows, np.arange(len(rows))):
            return inputs[: len(rows)]
        return copy_rows(inputs, rows, folder=self.place.folder)

    def _offset(self, row: int) -> int:
        return _HEAD_BYTES + row * self.place.record.itemsize

    def _key(self, row: int) -> bytes:
        return os.pread(self._descriptor, _KEY_BYTES, self._offset(row) + _HASH_BYTES)

    def _check(self, row: int) -> None:
        written = os.pread(self._descriptor, self.place.record.itemsize, self._offset(row))
        key = written[_HASH_BYTES : _HASH_BYTES + _KEY_BYTES]
        outcome = _OUTCOMES.get(bytes(np.frombuffer(written, self.place.record)["outcome"][0]))
        if outcome is None or _hash(written) != written[:_HASH_BYTES]:
            # The reading processes look keys up by themselves; they must not find this one.
            os.pwrite(self._descriptor, bytes(_HEAD_BYTES), self._offset(row))
            return
        self._rows.setdefault(key, row)
        self._outcomes[row] = outcome


def copy_rows(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], *, folder: Path
) -> npt.NDArray[np.uint8]:
    """Copy inputs to a temporary file, and map that file into memory.

    So the inputs may be larger than the memory.

    Args:
        inputs: Shape (n, size, size), uint8.
        rows: Shape (k,), rows of `inputs` in the wanted order; -1 gives zeros.
        folder: Folder of the temporary file, which has no name there: the system frees its space
            on the disk when nothing maps it any more, as after a kill.

    Returns:
        Shape (k, size, size), uint8; changes to it are not written to the file.

    Raises:
        CxrbatchError: The file cannot be written.
    """
    shape = (len(rows), *inputs.shape[1:])
    if not len(rows):
        return np.empty(shape, np.uint8)
    # Written and then mapped: a full disk is an error of a write, but a signal in a map.
    with cache_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        for start in range(0, len(rows), _COPIED_AT_ONCE):
            some = rows[start : start + _COPIED_AT_ONCE]
            block = np.zeros((len(some), *shape[1:]), np.uint8)
            block[some >= 0] = inputs[some[some >= 0]]
            file.write(block.data)
        file.flush()
        return np.memmap(file, np.uint8, "c", shape=shape)


@contextmanager
def open_store(place: CacheFile) -> Iterator[InputStore]:
    """Lock a cache file and open its store while the block runs; wait for another process's lock.

    A file that is missing, or was made with another recipe, reader or secret, is replaced by an
    empty one.

    Yields:
        The store.

    Raises:
        CxrbatchError: The file cannot be locked, read or written.
    """
    with cache_errors(place.folder):
        place.folder.mkdir(exist_ok=True)
        lock = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with cache_errors(place.folder):
            lock_file(lock, wait=True)
            descriptor = _open_records(place)
        try:
            with cache_errors(place.folder):
                store = InputStore(place, descriptor)
            yield store
        finally:
            os.close(descriptor)
    finally:
        os.close(lock)


def cache_errors(folder: Path) -> AbstractContextManager[None]:
    """Replace an OSError in this context by a CxrbatchError that names the folder of the cache."""
    return disk_errors(
        f"cannot use the cache {folder}",
        full="free space, or choose another --cache, then run again to go on",
        other="choose another --cache",
        error=CxrbatchError,
    )


def remove_stores(folder: Path) -> None:
    """Delete all cache files in a folder, of any recipe and reader, and the folder if it is empty.

    Raises:
        CxrbatchError: A file cannot be deleted, or there is no such folder.
    """
    with cache_errors(folder):
        for path in (*folder.glob("*.inputs"), *folder.glob("*.lock")):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _open_records(place: CacheFile) -> int:
    head = (_MAGIC + place.identity.encode() + b" %d\n" % place.size).ljust(_HEAD_BYTES, b"\0")
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(place.file, flags)
        if os.pread(descriptor, _HEAD_BYTES, 0) == head:
            return descriptor
        os.close(descriptor)
    except FileNotFoundError:
        pass
    # By rename: what another process may have mapped of the old one stays as it is.
    with written_whole(place.file) as file:
        file.write(head)
    return os.open(place.file, flags)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _hash(record: bytes) -> bytes:
    return blake2b(memoryview(record)[_HASH_BYTES:], digest_size=_HASH_BYTES).digest()
