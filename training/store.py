"""Decoded inputs on the disk, each under the key of the bytes that it was made of.

One file of records of one size, which only grows: a process that maps it loses nothing of what it
has mapped. A record is written in one piece and begins with a hash of its rest, so that one that
was cut, by a kill, a power cut or a full disk, or edited, is no record.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.atomic import written_whole
from cxrbatch.errors import CxrbatchError
from cxrbatch.model.preprocessing import ModelInput
from cxrbatch.reading.outcomes import Outcome

_MAGIC = b"cxrbatch inputs 2\n"
_HEAD_BYTES = 128
_HASH_BYTES, _KEY_BYTES, _OUTCOME_BYTES, _PATIENT_BYTES = 16, 32, 48, 16
_PATIENT_OFFSET = _HASH_BYTES + _KEY_BYTES + _OUTCOME_BYTES
_OUTCOMES = {code.value.encode(): code for code in Outcome}
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the inputs of one way of reading are kept.

    Attributes:
        folder: The cache.
        identity: Hash of all that decides what bytes become, 64 hexadecimal digits.
        size: Edge of an input in pixels.
    """

    folder: Path
    identity: str
    size: int

    @property
    def file(self) -> Path:
        """The file of records."""
        return self.folder / f"{self.identity[:16]}.inputs"

    @property
    def lock(self) -> Path:
        """The file that says that one process writes."""
        return self.folder / f"{self.identity[:16]}.lock"

    @property
    def record(self) -> np.dtype[np.void]:
        """Hash of the rest, key, outcome, patient, input: zeros where there is none."""
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
        """Map the first records; what is written to them stays in memory."""
        if count == 0:
            return np.empty(0, self.record)
        return np.memmap(self.file, self.record, "c", offset=_HEAD_BYTES, shape=(count,))


class Store:
    """The records of one place, held by one process at a time.

    Attributes:
        place: Where they are.
        count: Records, also those that are struck out.
        opened_ns: Tells this opening from others.
    """

    def __init__(self, place: Place, descriptor: int) -> None:
        """Check every record; `opened` is the way in."""
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
        """Give the row of a key, that one of several which is `near`.

        Raises:
            KeyError: There is none.
        """
        if near < self.count and self._key(near) == key and near in self._outcomes:
            return near
        return self._rows[key]

    def outcome(self, row: int) -> Outcome:
        """What became of the bytes of a row: `scored` where it has an input."""
        return self._outcomes[row]

    def patient(self, row: int) -> str | None:
        """The key of the patient whom the bytes of a row name: 32 hexadecimal digits, or None."""
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
        """Keep what became of some bytes; gives its row.

        Raises:
            CxrbatchError: The disk refuses.
        """
        record = np.zeros(1, self.place.record)
        record["key"], record["outcome"] = np.void(key), outcome.value.encode()
        if prepared is not None:
            record["input"] = prepared
        if patient is not None:
            record["patient"] = np.void(bytes.fromhex(patient))
        record["hash"] = np.void(_hash(record.tobytes()))
        row = self.count
        with reported(self.place.folder):
            _write(self._descriptor, record.tobytes(), self._offset(row))
        self.count += 1
        self._rows[key], self._outcomes[row] = row, outcome
        return row

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


def stored_keys(place: Place, count: int) -> frozenset[bytes]:
    """The keys of the first `count` records, which a `Store` has checked."""
    return frozenset(key.tobytes() for key in place.records(count)["key"]) - {bytes(_KEY_BYTES)}


@contextmanager
def opened(place: Place) -> Iterator[Store]:
    """Hold the store of a place, made anew where there is none or what is there is none.

    Another process that holds it is waited for.

    Raises:
        CxrbatchError: The disk refuses.
    """
    with reported(place.folder):
        place.folder.mkdir(exist_ok=True)
        lock = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with reported(place.folder):
            fcntl.flock(lock, fcntl.LOCK_EX)
            descriptor = _open_records(place)
        try:
            with reported(place.folder):
                store = Store(place, descriptor)
            yield store
        finally:
            os.close(descriptor)
    finally:
        os.close(lock)


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn what the system says against a cache into one line with a remedy.

    Raises:
        CxrbatchError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = "free space, or choose another --cache, then run again to go on"
        if error.errno not in _FULL:
            remedy = "choose another --cache"
        raise CxrbatchError(f"cannot use the cache {folder}: {error.strerror}; {remedy}") from None


def remove_store(place: Place) -> None:
    """Remove the records of a place, and the folder with the last of them.

    Raises:
        CxrbatchError: The disk refuses.
    """
    with reported(place.folder):
        place.file.unlink(missing_ok=True)
        place.lock.unlink(missing_ok=True)
        if not any(place.folder.iterdir()):
            place.folder.rmdir()


def _open_records(place: Place) -> int:
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
