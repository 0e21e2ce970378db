"""Tell formats apart by their first bytes; a file's name is never asked."""

import struct

HEAD_BYTES = 512
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN "
    b"UR US UT UV".split()
)


def sniff(head: bytes, *, size: int) -> str:
    """Name the format of a file.

    Args:
        head: The file's first `HEAD_BYTES` bytes, or all of it.
        size: The file's length in bytes.

    Returns:
        "png", "jpeg", "dicom" or "other".
    """
    if head.startswith(PNG_SIGNATURE) or b"IHDR" in head[:20]:
        return "png"
    if head.startswith(JPEG_SIGNATURE):
        return "jpeg"
    if preamble_length(head, size=size) or _is_bare_dataset(head, size=size):
        return "dicom"
    return "other"


def preamble_length(head: bytes, *, size: int) -> int:
    """Bytes in front of the first element: preamble and prefix (PS3.10 section 7.1), or less.

    The letters of the prefix may lie in a value at that place, in a file without preamble.

    Args:
        head: As of `sniff`.
        size: Likewise.
    """
    if head[128:132] == b"DICM":
        return 0 if _is_bare_dataset(head, size=size, reach=132) else 132
    return 4 if head[:4] == b"DICM" else 0


def is_implicit(head: bytes) -> bool:
    """Whether a data set's first element carries no value representation."""
    return head[4:6] not in _VALUE_REPRESENTATIONS


def is_big_endian(head: bytes) -> bool:
    """Whether a data set's first tag is written with the high byte first."""
    return len(head) > 1 and head[0] == 0 and head[1] != 0


def _is_bare_dataset(head: bytes, *, size: int, reach: int = 0) -> bool:
    """Whether the bytes start a data set without preamble: a plausible element, then others.

    One tag alone is eight arbitrary bytes; a second one, higher and just where the first one's
    length says, is no accident. More must follow until one ends at `reach` or behind it.
    """
    first = _element(head, 0)
    if first is None or first[0] >> 16 not in (0x0002, 0x0004, 0x0008):
        return False
    last = _element(head, first[1])
    if last is None or last[0] <= first[0]:
        return False
    while last is not None and last[1] < reach:
        last = _element(head, last[1])
    return last is not None and last[1] <= size


def _element(head: bytes, offset: int) -> tuple[int, int] | None:
    """Tag and end of the element at `offset`, or None if it is implausible."""
    if offset + 12 > len(head):
        return None
    order = ">" if is_big_endian(head) else "<"
    group, number = struct.unpack_from(order + "HH", head, offset)
    vr = head[offset + 4 : offset + 6]
    if vr not in _VALUE_REPRESENTATIONS:
        length, start = struct.unpack_from(order + "I", head, offset + 4)[0], 8
    elif vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OD", b"OF", b"OL", b"OV"):
        length, start = struct.unpack_from(order + "I", head, offset + 8)[0], 12
    else:
        length, start = struct.unpack_from(order + "H", head, offset + 6)[0], 8
    if length == 0xFFFFFFFF:
        length = 0
    return (group << 16) | number, offset + start + length
