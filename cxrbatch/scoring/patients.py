"""The secret that turns patient ids into keys: the same person, the same key, and no way back.

It stays with the user, outside of every output: whoever has a table but not the secret cannot try
out ids against the keys.
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
_KEY_HEX_DIGITS = 32
_ID_HEX_DIGITS = 16

# What de-identification and registration write where there is no id, without case, blanks and
# punctuation. A number other than zero may be somebody's, however short it is.
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
    """Give the place of the user's secret, below XDG_CONFIG_HOME or ~/.config."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    base = Path(configured) if configured else Path.home() / ".config"
    return base / "cxrbatch" / "patient-secret"


def patient_secret() -> bytes | None:
    """Read the user's secret, making it at first use with access for the user alone.

    Returns:
        32 bytes; None where it can be neither read nor made.
    """
    try:
        file = secret_file()
        if not file.exists():
            _create(file)
        secret = file.read_bytes()
    except (OSError, RuntimeError):
        return None
    return secret if len(secret) == _SECRET_BYTES else None


def secret_id(secret: bytes) -> str:
    """Tell secrets apart by 16 hexadecimal digits that do not give them away."""
    return hmac.new(secret, b"id", hashlib.sha256).hexdigest()[:_ID_HEX_DIGITS]


def patient_key(facts: HeaderFacts, secret: bytes) -> str | None:
    """Give the key of the person whom a header names.

    Args:
        facts: Patient ID (0010,0020) counts within its Issuer (0010,0021), where there is one.
        secret: From `patient_secret`.

    Returns:
        32 hexadecimal digits; None where there is no id, or a word that stands in for one.
    """
    if facts.patient_id is None or is_placeholder(facts.patient_id):
        return None
    # Header text is printable: no id and issuer can read like another id.
    told = "\n".join(filter(None, (facts.patient_id, facts.patient_issuer)))
    return hmac.new(secret, told.encode(), hashlib.sha256).hexdigest()[:_KEY_HEX_DIGITS]


def is_placeholder(patient_id: str) -> bool:
    """Whether an id is one that many different persons bear, such as ANONYMOUS, 0 or UNKNOWN."""
    plain = "".join(c for c in patient_id.casefold() if c.isalnum())
    return _NOBODY.fullmatch(plain) is not None


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
        # A link never replaces: of two first runs at once, both then read the same secret.
        with contextlib.suppress(FileExistsError):
            os.link(partial, file)
    finally:
        partial.unlink(missing_ok=True)
