"""The secret that turns patient ids into keys: the same person, the same key, and no way back.

It stays with the user, outside of every output: whoever has a table but not the secret cannot try
out ids against the keys.
"""

import contextlib
import os
import secrets
from pathlib import Path

_SECRET_BYTES = 32


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
