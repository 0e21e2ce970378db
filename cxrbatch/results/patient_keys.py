"""Keys that stand for patients and studies: keyed hashes of ids, and the user's secret for them.

Nobody without the secret gets from a key to the id.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from cxrbatch.reading.readings import HeaderFacts

_SECRET_BYTES = 32
_KEY_HEX_DIGITS, _ID_HEX_DIGITS = 32, 16

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

    It is cxrbatch/patient-secret in the folder XDG_CONFIG_HOME, or in ~/.config without that.

    Raises:
        RuntimeError: The user's home folder cannot be found.
    """
    configured = os.environ.get("XDG_CONFIG_HOME")
    base = Path(configured) if configured else Path.home() / ".config"
    return base / "cxrbatch" / "patient-secret"


def patient_secret() -> bytes | None:
    """Read the user's patient secret; create it at first use, readable by the user alone.

    It is the key of the hashes `patient_key` and `accession_key`, and stays with the user alone.

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

    Two tables with the same digits have the same key for the same patient and the same study. A
    table's provenance has them as `patient_secret_id`.
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


def accession_key(number: str | None, secret: bytes) -> str | None:
    """Compute a keyed hash of an accession number; it stands for the study in tables.

    Equal numbers have equal keys under one secret, whoever issued them: who has a list of numbers
    seldom has their issuer.

    Args:
        number: Accession Number (0008,0050), or a number of a list; blanks around it do not count.
        secret: From `patient_secret`.

    Returns:
        32 hexadecimal digits; None if there is no number, or only one that `is_placeholder`.
    """
    plain = (number or "").strip()
    if is_placeholder(plain):
        return None
    # No patient's identity begins with a line break, so no study has the key of a patient.
    return hmac.new(secret, f"\n{plain}".encode(), hashlib.sha256).hexdigest()[:_KEY_HEX_DIGITS]


def is_placeholder(identifier: str) -> bool:
    """Whether an id names no one, such as "", 0 or unknown, in any case, spacing, punctuation."""
    plain = "".join(c for c in identifier.casefold() if c.isalnum())
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
