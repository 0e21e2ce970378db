"""Reads one file into table rows and network inputs, with the key of its patient.

Worker processes run this module, so it imports no torch. The patient secret turns patient ids into
keys: the same person has the same key, and nobody gets from a key to the id. The secret stays with
the user, outside of every output.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.files import path_to_text
from cxrbatch.model.preprocessing import ModelInput, Recipe, difference_hash, image_hash
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_member,
    iterate_radiographs,
)
from cxrbatch.reading.readings import HeaderFacts, failed_reading
from cxrbatch.results.columns import Row, facts_of
from cxrbatch.scoring.archive import ArchiveFile, modified_ns

_SECRET_BYTES = 32
_KEY_HEX_DIGITS = 32
_ID_HEX_DIGITS = 16

# What de-identification and registration write instead of an id, without case, blanks and
# punctuation. A number other than zero may be the id of a person, however short it is.
_NOBODY = re.compile(
    "|".join(
        (
            *("0*", "x*", "na", "nan", "nil", "none", "null", "empty", "blank", "missing"),
            *("un(known|named|specified|defined|identified|available)", "not?(available|known)"),
            *("no(name|id|patient|patientid)", "(patient|pat|subject)?(id|name)?", "default"),
            *("(anon(ym)?(ous|i[sz]ed|i[sz]e)?)(patient|subject|name|id)?", "test(patient)?"),
            *("de?identified", "pseudonymi[sz]ed", "removed", "redacted", "deleted", "hidden"),
        )
    )
)


def secret_file() -> Path:
    """Return the path of the file that contains the user's patient secret; it need not exist.

    The path is cxrbatch/patient-secret in the folder XDG_CONFIG_HOME, or in ~/.config if that
    variable is not set.

    Raises:
        RuntimeError: The user's home folder cannot be found.
    """
    configured = os.environ.get("XDG_CONFIG_HOME")
    base = Path(configured) if configured else Path.home() / ".config"
    return base / "cxrbatch" / "patient-secret"


def patient_secret() -> bytes | None:
    """Read the user's patient secret; create it at first use, readable by the user alone.

    The secret is the key of the hash by which `patient_key` replaces patient ids.

    Returns:
        32 bytes; None if the file can neither be read nor created, or has another length.
    """
    try:
        file = secret_file()
        if not file.exists():
            _create_secret(file)
        secret = file.read_bytes()
    except (OSError, RuntimeError):
        return None
    return secret if len(secret) == _SECRET_BYTES else None


def secret_id(secret: bytes) -> str:
    """Compute 16 hexadecimal digits that identify a patient secret without revealing it.

    Two tables with the same digits have the same key for the same patient.
    """
    return hmac.new(secret, b"id", hashlib.sha256).hexdigest()[:_ID_HEX_DIGITS]


def patient_key(facts: HeaderFacts, secret: bytes) -> str | None:
    """Compute a keyed hash of the patient id in a header; it stands for the patient in tables.

    Args:
        facts: Patient ID (0010,0020) and its Issuer (0010,0021) are hashed together.
        secret: From `patient_secret`.

    Returns:
        32 hexadecimal digits; None if there is no id, or only one that `is_placeholder`.
    """
    if facts.patient_id is None or is_placeholder(facts.patient_id):
        return None
    # Header text is printable, so the line break keeps id and issuer apart.
    identity = "\n".join(filter(None, (facts.patient_id, facts.patient_issuer)))
    return hmac.new(secret, identity.encode(), hashlib.sha256).hexdigest()[:_KEY_HEX_DIGITS]


def is_placeholder(patient_id: str) -> bool:
    """Whether many different persons have this id, such as ANONYMOUS, 0 or UNKNOWN."""
    plain = "".join(c for c in patient_id.casefold() if c.isalnum())
    return _NOBODY.fullmatch(plain) is not None


def _create_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
        # Not `written_whole`: a link never replaces, so that two first runs at the same time read
        # the same secret.
        with contextlib.suppress(FileExistsError):
            os.link(partial, file)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """Table rows of one file, and the network inputs of those rows that may be scored.

    Attributes:
        rows: One for each frame; one without scores if the file cannot be read.
        scorable: For each row, whether it has an input.
        inputs: Shape (number of true `scorable`, size, size), uint8, in the order of the rows.
    """

    rows: list[Row]
    scorable: list[bool]
    inputs: npt.NDArray[np.uint8]

    @classmethod
    def stack(cls, rows: Sequence[tuple[Row, ModelInput | None]], *, size: int) -> "LoadedFile":
        """Make a LoadedFile of the rows of one file: stack their inputs into one array.

        Args:
            rows: Pairs of a row and its input, shape (size, size), uint8, or None if the row is not
                to be scored.
            size: Edge of the inputs in pixels; needed if no row has one.
        """
        inputs = [image for _, image in rows if image is not None]
        return cls(
            [row for row, _ in rows],
            [image is not None for _, image in rows],
            np.stack(inputs) if inputs else np.empty((0, size, size), dtype=np.uint8),
        )


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads files of an archive into table rows and network inputs.

    It is pickled and sent to the worker processes.

    Attributes:
        base: The folder that the files' paths are relative to.
        recipe: How display images become inputs.
        options: Which images are read, and up to which size.
        patient_secret: Key of the hash that replaces patient ids.
    """

    base: bytes
    recipe: Recipe
    options: ReadingOptions
    patient_secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> LoadedFile:
        """Read one file, or one member of a container, and decode all its frames.

        Args:
            file: The file; its path is relative to `base`.

        Returns:
            A row and, if it may be scored, an input for each frame. A file that cannot be read has
            one row, whose outcome says why: defects of a file raise no exception.
        """
        rows = [self.row(file, reading) for reading in self.readings(file)]
        return LoadedFile.stack(rows, size=self.recipe.size)

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> LoadedFile:
        """Make the result of a file that cannot be read, as its worker process crashed or hung.

        Args:
            file: The file.
            outcome: Why it could not be read, such as `decoder_crashed`; the row's outcome.
            detail: One line for a person; the row's detail.

        Returns:
            One row without an input.
        """
        row = self.row(file, failed_reading("other", ReadingError(outcome, detail)))
        return LoadedFile.stack([row], size=self.recipe.size)

    def readings(self, file: ArchiveFile) -> Iterator[Reading]:
        """Read a file and yield a Reading (outcome, header facts, display image) for each frame.

        Each frame is decoded only when it is asked for. A file that cannot be read yields one
        Reading with the outcome that says why; so does a member of a container whose modification
        time is another than when its members were listed.

        Args:
            file: The file; its path is relative to `base`.
        """
        location = os.path.join(self.base, file.path)
        if file.fault is not None:
            yield failed_reading("other", ReadingError(*file.fault))
        elif file.member is None:
            yield from iterate_radiographs(location, self.options)
        elif _has_changed(location, file):
            detail = "its archive has changed since it was listed"
            yield failed_reading("other", ReadingError(Outcome.UNREADABLE_FILE, detail))
        else:
            yield from iterate_member(location, file.member, file.offset, self.options)

    def row(self, file: ArchiveFile, reading: Reading) -> tuple[Row, ModelInput | None]:
        """Make the table row of one frame, and the network input if the frame may be scored.

        Args:
            file: The file that the frame belongs to.
            reading: What was read of the frame.

        Returns:
            The row, and the input of shape (size, size), uint8; None instead of the input unless
            the row's outcome is `scored`.
        """
        reading, prepared = self.recipe.prepare_reading(reading)
        row = Row(
            path=path_to_text(file.path, file.member),
            frame=reading.frame,
            file_size=file.size,
            file_modified_ns=file.modified_ns,
            format=reading.format,
            outcome=reading.outcome.value,
            detail=reading.detail,
            flags=tuple(flag.value for flag in reading.flags),
            image_hash=None if prepared is None else image_hash(prepared),
            dhash=None if prepared is None else difference_hash(prepared),
            # The row is written to disk, so it contains the key of the patient and not the id.
            patient_key=patient_key(reading.facts, self.patient_secret),
            facts=facts_of(reading.facts),
        )
        return row, prepared


def _has_changed(location: bytes, member: ArchiveFile) -> bool:
    """Whether a container has another time than when its members were listed."""
    try:
        return modified_ns(os.stat(location)) != member.modified_ns
    except OSError:
        return False  # reading it reports the error
