"""Decode every labelled file to a network input once, in worker processes, with a cache on disk.

Nothing here imports torch: the worker processes import this module.
"""

import hashlib
import os
import secrets
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
from cxrbatch.reading.outcomes import Outcome, ReadingError, reading_error
from cxrbatch.reading.radiograph import (
    ReadingOptions,
    iterate_radiographs_bytes,
)
from cxrbatch.reading.readings import Reading, file_limit, memory_for
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.patient_keys import patient_key, patient_secret, secret_id
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training.file_index import opened, read_first_frame
from cxrbatch.training.store import CacheFile, InputStore, open_store
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault, WorkerLimits

_DECODERS = ("imagecodecs", "numpy", "pillow", "pydicom", "scipy")
_SECRET_ID_DIGITS = 16
# A file's times may lag so much behind the clock.
_CLOCK_NS = 20_000_000
_TEMPORARY = frozenset({Outcome.UNREADABLE_FILE, Outcome.OUT_OF_MEMORY, Outcome.READER_KILLED})
"""Outcomes that may be the machine's fault: they are not stored, and each run tries again."""


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A labelled file without an image to train on.

    Attributes:
        path: Path of the file as the labels name it.
        outcome: Why the file has no image.
    """

    path: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class DecodedInputs:
    """Network inputs of all labelled files, in the order of the files.

    Attributes:
        values: Shape (n, size, size), uint8, memory-mapped; zeros for a file without an image.
        outcomes: Length n; `scored` for a file with an image, else why it has none.
        patients: Length n; keyed hash of the patient id in the file's header, 32 hexadecimal
            digits; None if no header was read, or it has no id or a placeholder such as ANONYMOUS.
    """

    values: npt.NDArray[np.uint8]
    outcomes: tuple[Outcome, ...]
    patients: tuple[str | None, ...]

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Whether each file has an image, shape (n,), in the order of the files."""
        return np.array([code is Outcome.SCORED for code in self.outcomes], dtype=np.bool_)

    def unreadable(self, files: Sequence[LabelledFile]) -> list[UnreadableFile]:
        """List the files without an image, in their order.

        Args:
            files: The labelled files, as many as `outcomes` and in the same order.
        """
        pairs = zip(files, self.outcomes, strict=True)
        return [UnreadableFile(f.path, code) for f, code in pairs if code is not Outcome.SCORED]


def prepare_inputs(
    files: Sequence[ArchiveFile],
    *,
    recipe: Recipe,
    workers: int,
    folder: Path,
    progress: Callable[[int], object],
) -> DecodedInputs:
    """Decode the files whose bytes are not in the cache, and add them as `decode_files` does.

    A file that cannot be decoded raises nothing: its outcome says why.

    Args:
        files: Files, and members of containers, with absolute paths.
        recipe: How images become network inputs.
        workers: Processes that decode; 0 decodes in this process.
        folder: The folder of the cache; made if it does not exist.
        progress: Called with 1 after each file; what it returns is ignored.

    Returns:
        The inputs, outcomes and patients of all files, in the order of `files`.

    Raises:
        CxrbatchError: The cache cannot be read or written, or no process can be started.
    """
    most_pixels = ReadingOptions().max_pixels
    # The file is held in memory beside its image.
    limits = WorkerLimits(memory=memory_for(most_pixels) + file_limit(most_pixels))
    place, secret = _place_and_secret(folder, recipe)
    with open_store(place) as store:
        reader = InputReader(recipe, place, store.count, store.opened_ns, secret)
        rows, outcomes, patients = decode_files(
            store, files, reader=reader, workers=workers, limits=limits, progress=progress
        )
        return DecodedInputs(store.in_order(rows), tuple(outcomes), tuple(patients))


def _place_and_secret(folder: Path, recipe: Recipe) -> tuple[CacheFile, bytes]:
    kept = patient_secret()
    secret = kept or secrets.token_bytes(32)
    return cache_file(folder, recipe, secret=secret, lasting=kept is not None), secret


def cache_file(folder: Path, recipe: Recipe, *, secret: bytes, lasting: bool = True) -> CacheFile:
    """Return the cache file of a recipe, a secret and this version of the reader; write nothing.

    A change of any of the three changes the identity: inputs made before it are not used.

    Args:
        folder: The folder of the cache.
        recipe: How display images become inputs.
        secret: Key of the patient hash, 32 bytes.
        lasting: Whether the next run has the same secret. If not, the file's name does not depend
            on the secret, so that the next run replaces this run's file.
    """
    text = f"{recipe.sha256} {reading_version()} {secret_id(secret) if lasting else 'passing'}"
    shared = hashlib.sha256(text.encode()).hexdigest()[:-_SECRET_ID_DIGITS]
    return CacheFile(folder, shared + secret_id(secret), recipe.size)


@lru_cache(maxsize=1)
def reading_version() -> str:
    """Hash the code that turns a file's bytes into a network input.

    The hash covers the name and content of every source file of `cxrbatch.reading`, the content of
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
class DecodedFile:
    """Result of reading one file.

    Attributes:
        key: Hash of the file's bytes; None if the bytes could not be read or are none or too many,
            or if the worker process was lost.
        outcome: `scored` if the file has an input, else why not; None if the store has the key, so
            that the file was not decoded.
        prepared: The input, shape (size, size), uint8; None unless the outcome is `scored`.
        patient: Keyed hash of the patient id in the file's header; None if the header has no id or
            only a placeholder, or if the file was not decoded.
    """

    key: bytes | None
    outcome: Outcome | None
    prepared: ModelInput | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class InputReader:
    """Decodes a file to a network input unless the store has its bytes; runs in workers.

    A label belongs to a file: of a multi-frame file the first frame is used.

    Attributes:
        recipe: How display images become inputs.
        place: The cache file that the store has open.
        known: Number of records that were in the store when it was opened and checked; files with
            the same bytes as one of these are not decoded.
        opened_ns: When the store was opened, by the monotonic clock, from `InputStore.opened_ns`.
        patient_secret: Key of the patient hash, 32 bytes.
    """

    recipe: Recipe
    place: CacheFile
    known: int
    opened_ns: int
    patient_secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> DecodedFile:
        """Read, hash and decode one file; in case of a defect, the result's outcome says which.

        A file whose bytes the store has is hashed and not decoded: the outcome is None. A file that
        is missing, unreadable, empty or larger than any radiograph may be is not hashed: only the
        outcome is not None.

        Args:
            file: The file, or a member of a container; its path is absolute.
        """
        options = ReadingOptions(no_voi=self.recipe.no_voi)
        most = file_limit(options.max_pixels)
        if file.fault is not None:
            return DecodedFile(None, file.fault.outcome)
        try:
            with opened(file) as content:
                # The bytes that are hashed are those that are decoded, whoever writes meanwhile.
                is_large = (content.size or 0) > most
                data = b"" if is_large else content.stream.read(most + 1)
                if not data or len(data) > most:  # an empty one is what its name says
                    return DecodedFile(None, read_first_frame(file, options).outcome)
                content.verify()
        except (OSError, ReadingError, MemoryError) as error:
            return DecodedFile(None, reading_error(error).outcome)
        key = _new_key(self.place)
        key.update(data)
        if key.digest() in _known_keys(self.place, self.known, self.opened_ns):
            return DecodedFile(key.digest(), None)
        return self._decode(key.digest(), data, options)

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> DecodedFile:
        """Make the result of a file whose worker process was lost; called in the main process.

        Args:
            file: The file, not used.
            outcome: Why the process was lost; becomes the result's outcome.
            detail: The same as a line for a person, not used.
        """
        return DecodedFile(None, outcome)

    def _decode(self, key: bytes, data: bytes, options: ReadingOptions) -> DecodedFile:
        first: Reading = next(iterate_radiographs_bytes(data, options))
        patient = patient_key(first.facts, self.patient_secret)
        result, prepared = self.recipe.prepare_reading(first)
        return DecodedFile(key, result.outcome, prepared, patient)


def decode_files(
    store: InputStore,
    files: Sequence[ArchiveFile],
    *,
    reader: InputReader,
    workers: int,
    limits: WorkerLimits,
    progress: Callable[[int], object],
) -> tuple[npt.NDArray[np.int64], list[Outcome], list[str | None]]:
    """Decode the files whose bytes are not in the store, and append the results to the store.

    A file that has no image is appended too, with zeros for its input, so that no later run decodes
    it again. Not appended is a file that is empty, unreadable or has too many bytes, or whose
    failure may be the machine's fault, such as a lack of memory: the next run tries it again.

    Args:
        store: The open store.
        files: Files, and members of containers, with absolute paths.
        reader: Decodes one file.
        workers: Worker processes; 0 reads in this one, where a crash of a decoder ends it.
        limits: Time and memory for one file.
        progress: Called with 1 after each file; what it returns is ignored.

    Returns:
        In the order of `files`: the row of each file in the store, shape (n,), -1 for a file that
        is not in the store; its outcome; its patient key, None if unknown.

    Raises:
        CxrbatchError: The cache cannot be written, or no process can be started.
    """
    rows: npt.NDArray[np.int64] = np.full(len(files), -1, dtype=np.int64)
    outcomes, patients = [], []
    losses = _LostFiles(store.place)
    size = reader.recipe.size**2
    with ReadingPool(
        reader, workers=workers, limits=limits, result_bytes=size, listener=losses
    ) as pool:
        pending = (PendingItem(i, file) for i, file in enumerate(files))
        decoded: DecodedFile
        for number, decoded in enumerate(pool.map(pending)):
            key, outcome = decoded.key or losses.keys.get(number), decoded.outcome
            patient = decoded.patient
            if outcome is None:
                assert key is not None
                row = rows[number] = store.row(key, near=number)
                outcome, patient = store.outcome(row), store.patient(row)
            elif key is not None and outcome not in _TEMPORARY:
                rows[number] = store.append(key, outcome, decoded.prepared, patient)
            outcomes.append(outcome)
            patients.append(patient)
            progress(1)
    return rows, outcomes, patients


@dataclass(slots=True)
class _LostFiles(PoolListener[ArchiveFile]):
    """Collects the keys of files that end their worker process, from several threads."""

    place: CacheFile
    began_ns: int = field(default_factory=lambda: time.time_ns() - _CLOCK_NS)
    keys: dict[int, bytes] = field(default_factory=dict)

    def lost(self, pending: PendingItem[ArchiveFile], fault: WorkerFault) -> None:
        """Store the hash of the file's bytes, unless the file was changed meanwhile."""
        if not fault.lasting:
            return
        key = _new_key(self.place)
        try:
            with opened(pending.item) as content:
                while block := content.stream.read(1 << 20):
                    key.update(block)
            if os.stat(pending.item.path).st_ctime_ns < self.began_ns:
                self.keys[pending.number] = key.digest()
        except (OSError, ReadingError):
            return


def _new_key(place: CacheFile) -> "hashlib._Hash":
    return hashlib.sha256(place.identity.encode())


@lru_cache(maxsize=1)
def _known_keys(place: CacheFile, count: int, opened_ns: int) -> frozenset[bytes]:
    return place.keys(count)
