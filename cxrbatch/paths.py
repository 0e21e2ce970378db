"""File names as text, reversibly: a POSIX name is bytes, a table's text is UTF-8.

A byte that is no UTF-8 becomes `\\xNN`, and a backslash becomes two, so that each name has one text
and each such text one name. Other characters stay as they are. A member of a container is written
`container!/member`; a `!` before a slash in a name becomes `\\x21`. A NUL, which only a member's
name can contain, becomes `\\x00`.
"""

import re
from pathlib import Path

from cxrbatch.errors import UsageError

_SURROGATES = 0xDC00
_INSIDE = "!/"
_LONGEST_SHOWN = 200
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def path_to_text(path: bytes, member: bytes | None = None) -> str:
    """Write a path, relative or absolute, as valid Unicode text.

    Args:
        path: As the operating system gives it.
        member: Name of a member of the container at `path`, as the container spells it.
    """
    if member is not None:
        return f"{path_to_text(path)}{_INSIDE}{path_to_text(member)}"
    text = path.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    text = text.replace(_INSIDE, "\\x21/").replace("\0", "\\x00")
    return "".join(
        f"\\x{ord(c) - _SURROGATES:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text
    )


def text_to_path(text: str) -> bytes:
    """Convert a text of `path_to_text`, without a member, back to the path.

    Raises:
        ValueError: `path_to_text` returns no such text.
    """

    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        if code == "\\":
            return code
        byte = int(code[1:], 16)
        return chr(byte if byte < 0x80 else _SURROGATES + byte)

    path = _ESCAPE.sub(unescape, text).encode("utf-8", "surrogateescape")
    if path_to_text(path) != text:
        raise ValueError("not a path written by path_to_text")
    return path


def text_to_place(text: str) -> tuple[bytes, bytes | None]:
    """Convert a text of `path_to_text` back to the path and the member, None if it has none.

    Raises:
        ValueError: `path_to_text` returns no such text.
    """
    path, inside, member = text.partition(_INSIDE)
    return text_to_path(path), text_to_path(member) if inside else None


def shown(name: str) -> str:
    """Quote a name for a message, with unprintable characters escaped and long names shortened."""
    if len(name) > _LONGEST_SHOWN:
        name = f"{name[: _LONGEST_SHOWN // 2]}…{name[-_LONGEST_SHOWN // 2 :]}"
    return repr(name)


def check_output(output: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Check that a file can be written, before any work is done.

    Args:
        output: The file.
        overwrite: Whether an existing file may be replaced.
        source: The file that is read, which is never replaced.

    Raises:
        UsageError: `output` is a folder, a device or the source, exists and may not be replaced,
            or its folder is missing.
    """
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} is no regular file; name another")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; choose another name or give --overwrite")
    # The second path is its name until it is whole.
    for written in (output, output.with_name(f"{output.name}.tmp")):
        if source and source.is_file() and written.exists() and written.samefile(source):
            raise UsageError(f"{written} is the file that is to be read; choose another name")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist; make it first")
