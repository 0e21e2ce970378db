"""Opens files, and tells formats apart by their first bytes.

A file's name decides two things only: whether a container is looked for in it, and whether it is a
failure that the file is empty.
"""

import contextlib
import os
import re
import stat
import struct
from typing import BinaryIO

from cxrbatch.reading.outcomes import Outcome, ReadingError

COMPRESSED_ALONE = (b".gz", b".bz2", b".xz")
COMPRESSED_TARS = (b".tgz", b".tbz", b".tbz2", b".txz")
CONTAINER_SUFFIXES = (b".zip", b".tar", *COMPRESSED_ALONE, *COMPRESSED_TARS)
"""Suffixes of names under which a container is looked for: to look into all files would be slow."""
_IMAGE_SUFFIXES = (b".dcm", b".dicom", b".dic", b".ima", b".png", b".jpg", b".jpeg")

HEAD_BYTES = 512
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_SHORT = "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US"
_LONG = "OB OD OF OL OV OW SQ SV UC UN UR UT UV"
VALUE_REPRESENTATIONS = {
    name.encode(): (name, is_long)
    for names, is_long in ((_SHORT, False), (_LONG, True))
    for name in names.split()
}
"""By its two bytes: the name of each value representation (VR), and whether its length has 32 bits.

Source: DICOM PS3.5 tables 7.1-1 and 7.1-2.
"""

_UNOPENED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x02\x21\x4c\x18": "LZ4",
    b"LZIP\x01": "lzip",
    b"\x89LZO\0\r\n\x1a\n": "lzop",
    b"MSCF\0\0\0\0": "cabinet (.cab)",
    b"MSWIM\0\0\0": "Windows image (.wim)",
    b"xar!\0": "xar",
    b"070701": "cpio",
    b"070702": "cpio",
    b"070707": "cpio",
}
_UNOPENED_FORMS = (
    # The byte of flags says: 9 to 16 bits a code, two bits unused.
    (re.compile(rb"\x1f\x9d[\x09-\x10\x89-\x90]"), "compress (.Z)"),
    (re.compile(rb"[\x50-\x5f]\x2a\x4d\x18"), "Zstandard or LZ4"),
    # Properties, a dictionary of 64 KiB to 1 GiB, and a size: unknown, or below a terabyte.
    (re.compile(rb"\x5d\0\0.[\0-\x40](\xff{8}|.{5}\0{3})", re.DOTALL), "LZMA"),
    (re.compile(rb"..-l[hz][\ds]-", re.DOTALL), "LHA"),
)
_UNPACK = "unpack it, or pack its files again as .zip"
# The start of a web response, of a part of it, or of its headers; and headers that images follow.
_MESSAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:HTTP/\d[\d.]* \d{3}|(--)[^\r\n]{1,70}\r?\n[a-z][\w-]*:"
    rb"|(?:content|mime)-[\w-]+:|([a-z][\w-]*:[ \t]))",
    re.IGNORECASE,
)
# A part that is a DICOM file, with headers or without; text or chunk sizes may stand before it.
_MAY_HAVE_PART = re.compile(rb"^(?:\xef\xbb\xbf)?--", re.MULTILINE)
_DICOM_PART = re.compile(
    rb"(?:^|\A\xef\xbb\xbf)--[^\r\n]{1,200}\r?\n"
    rb"(?:[a-z][\w-]*:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n){0,5}){0,20}\r?\n"
    rb"(?s:.{128})DICM",
    re.IGNORECASE | re.MULTILINE,
)
_IMAGES_FOLLOW = re.compile(
    rb"^content-type:\s*(?:multipart/related;[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*?type=[\s\"]*)?"
    rb"(?:application/(?:dicom(?![+\w])|octet-stream)|image/)",
    re.MULTILINE,
)
_MULTIPART = "a DICOMweb multipart response saved as a file; save each of its parts by itself"
_LONGEST_HEADERS = 1 << 14
_ISO_SIGNATURE, _ISO_OFFSET = b"CD001", 32769
# Groups that a file may start with: file meta, directory, identification.
_FILE_META = 0x0002
_FIRST_GROUPS = (_FILE_META, 0x0004, 0x0008)
_PREFIX_START, _PREFIX_END = 128, 132


def open_regular(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> BinaryIO:
    """Open a regular file for reading, in binary.

    O_NONBLOCK keeps a FIFO, which may have replaced the file meanwhile, from blocking for ever.

    Raises:
        OSError: The file cannot be opened, as a socket never can.
        ReadingError: `unreadable_file` for a folder, named pipe or device that was opened, and for
            a name that no file can have, such as one with a NUL.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError:  # a NUL, or characters that cannot be written in a file's name
        raise ReadingError(Outcome.UNREADABLE_FILE, "no file can have this name") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReadingError(Outcome.UNREADABLE_FILE, "not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


def has_container_suffix(path: bytes) -> bool:
    """Whether a path ends in one of `CONTAINER_SUFFIXES`, such as .zip, in any case of letters.

    Only such files are searched for members; whether they are containers, their content decides.
    """
    return path.lower().endswith(CONTAINER_SUFFIXES)


def is_named_as_image(path: bytes) -> bool:
    """Whether a path ends as that of an image or a container, in any case of letters.

    Suffixes of images are .dcm, .dicom, .dic, .ima, .png, .jpg and .jpeg; those of containers are
    `CONTAINER_SUFFIXES`. An empty file of such a name has lost its content.
    """
    return path.lower().endswith(_IMAGE_SUFFIXES + CONTAINER_SUFFIXES)


def sniff(head: bytes, *, size: int) -> str:
    """Name the format of a file by its first bytes.

    PNG and JPEG are known by their signatures, a damaged PNG by IHDR in its first bytes. DICOM
    is known by the prefix DICM, or without it by two plausible data elements in a row.

    Args:
        head: The file's first `HEAD_BYTES` bytes, or the whole file if it is shorter.
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


def unopened_container(stream: BinaryIO, head: bytes) -> str | None:
    """Name the format of a file that holds other files and is not opened, such as 7z.

    Args:
        stream: The file; read only where `head` may begin a disc image or a web response, which
            moves its position.
        head: The file's first `HEAD_BYTES` bytes, or the whole file if it is shorter.

    Returns:
        The format and the remedy, in one line for a user; None for any other file.

    Raises:
        OSError, ReadingError: Raised by a read of `stream`; passed on.

    Source: the signatures are those of the formats; ECMA-119 8.1.2 for ISO 9660; RFC 9110 and
    2387 and DICOM PS3.18 for messages.
    """
    for signature, name in _UNOPENED.items():
        if head.startswith(signature):
            return f"a file of the format {name}; {_UNPACK}"
    for form, name in _UNOPENED_FORMS:
        if form.match(head):
            return f"a file of the format {name}; {_UNPACK}"
    if _is_disc_image(stream, head):
        return f"a disc image (ISO 9660); {_UNPACK}"
    return _message(stream, head)


def _is_disc_image(stream: BinaryIO, head: bytes) -> bool:
    """Whether a volume descriptor follows a system area that is unused or holds boot code."""
    is_system_area = not any(head) or head[510:512] == b"\x55\xaa" or head.startswith(b"ER")
    if len(head) < HEAD_BYTES or not is_system_area:
        return False
    stream.seek(_ISO_OFFSET)
    return stream.read(len(_ISO_SIGNATURE)) == _ISO_SIGNATURE


def _message(stream: BinaryIO, head: bytes) -> str | None:
    """What to do with a file that is a saved web response with images, None for other files."""
    start = _MESSAGE.match(head)
    if not start and not _MAY_HAVE_PART.search(head):
        return None
    stream.seek(0)
    data = stream.read(_LONGEST_HEADERS)
    if _DICOM_PART.search(data):
        return _MULTIPART
    text = data.partition(b"\0")[0].lower()
    is_web_page = b"text/html" in text
    if not start or is_web_page or not _IMAGES_FOLLOW.search(text):
        return None
    if start[1] or b"multipart/related" in text:
        return _MULTIPART
    # Any text may start like headers.
    return None if start[2] else "a response saved as a file with its headers; save its body alone"


def preamble_length(head: bytes, *, size: int) -> int:
    """Return the number of bytes in front of the first element of a DICOM file.

    132 with preamble and prefix (PS3.10 section 7.1), 4 with the prefix alone, 0 with neither. In a
    file without preamble the letters of the prefix, DICM, may lie at their usual place by chance,
    inside a value; then the elements from the first byte on lead past them, and 0 is returned.

    Args:
        head: The file's first `HEAD_BYTES` bytes, or the whole file if it is shorter.
        size: The file's length in bytes.
    """
    if head[_PREFIX_START:_PREFIX_END] == b"DICM":
        return 0 if _runs_through_prefix(head, size=size) else _PREFIX_END
    return 4 if head[:4] == b"DICM" else 0


def is_implicit(head: bytes) -> bool:
    """Whether a data set is in implicit VR: its first element has no value representation (VR).

    `head` is the start of the data set; its bytes 4 and 5 decide: they are no VR of the standard.
    """
    return head[4:6] not in VALUE_REPRESENTATIONS


def is_big_endian(head: bytes) -> bool:
    """Whether a data set is in big endian: its first tag is written with the high byte first.

    `head` is the start of the data set. In big endian its first byte is 0 and its second is not.
    """
    return len(head) > 1 and head[0] == 0 and head[1] != 0


def _is_bare_dataset(head: bytes, *, size: int) -> bool:
    """Whether a data set without preamble starts here: a plausible element, then another.

    Any eight bytes may look like one element. A second one, with a higher tag and just where the
    first one's length says, is no accident.
    """
    first = _element(head, 0)
    if first is None or first[0] >> 16 not in _FIRST_GROUPS:
        return False
    second = _element(head, first[1])
    return second is not None and second[0] > first[0] and second[1] <= size


def _runs_through_prefix(head: bytes, *, size: int) -> bool:
    """Whether a data set runs from the first byte through the prefix, which lies in a value.

    Tags must ascend up to the prefix, all with or all without value representation. Behind its
    value a tag of the same group may be lower, but for that of the file meta; where the head ends
    before that value does, no file meta may follow the prefix.
    """
    position, last = 0, -1
    while (element := _element(head, position)) is not None:
        tag, end = element
        is_next = tag > last if position else tag >> 16 in _FIRST_GROUPS
        if position >= _PREFIX_END and tag >> 16 == last >> 16:
            is_next = tag >> 16 != _FILE_META
        if not is_next or end > size or is_implicit(head[position:]) != is_implicit(head):
            return False
        if position >= _PREFIX_END:
            return True
        if position > _PREFIX_START - 8 or _PREFIX_START < end < _PREFIX_END:
            return False
        position, last = end, tag
    behind = head[_PREFIX_END:]
    return position > len(head) - 12 and (behind[:2] != b"\2\0" or is_implicit(behind))


def _element(head: bytes, offset: int) -> tuple[int, int] | None:
    """Tag and end of the element at `offset`, or None if it is implausible."""
    if offset + 12 > len(head):
        return None
    order = ">" if is_big_endian(head) else "<"
    group, number = struct.unpack_from(order + "HH", head, offset)
    vr, is_long = VALUE_REPRESENTATIONS.get(head[offset + 4 : offset + 6], (None, False))
    start = 12 if is_long else 8
    if vr and not is_long:
        length = struct.unpack_from(order + "H", head, offset + 6)[0]
    else:
        length = struct.unpack_from(order + "I", head, offset + start - 4)[0]
    if length == 0xFFFFFFFF:
        length = 0
    return (group << 16) | number, offset + start + length
