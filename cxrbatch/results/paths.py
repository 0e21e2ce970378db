"""File names as text, reversibly: a POSIX name is bytes, a table's text is UTF-8.

A byte that is no UTF-8 becomes `\\xNN`, and a backslash becomes two, so that every name has one
text and every such text one name. Ordinary names stay as they are.
"""

import re
from pathlib import Path

from cxrbatch.errors import UsageError

_SURROGATES = 0xDC00
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def path_to_text(path: bytes) -> str:
    """Write a path, relative or absolute, as valid Unicode text.

    Args:
        path: As the operating system gives it.
    """
    text = path.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return "".join(
        f"\\x{ord(c) - _SURROGATES:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text
    )


def text_to_path(text: str) -> bytes:
    """Give back the bytes that `path_to_text` was given.

    Raises:
        ValueError: `path_to_text` writes no such text.
    """

    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        return "\\" if code == "\\" else chr(_SURROGATES + int(code[1:], 16))

    path = _ESCAPE.sub(unescape, text).encode("utf-8", "surrogateescape")
    if path_to_text(path) != text:
        raise ValueError("not a path written by path_to_text")
    return path


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a place for an output before any work is done.

    Raises:
        UsageError: It is a folder or a device, it exists and may not be replaced, or its folder
            is missing.
    """
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} is no regular file; name another")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; choose another name or give --overwrite")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist; make it first")
