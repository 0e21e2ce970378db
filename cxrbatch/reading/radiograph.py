"""Reads a file, a member of an archive, or bytes: the way into this package.

Every file gives at least one Reading, whatever it holds; a file without a readable image gives a
Reading that says why. No function here raises because of a file.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from cxrbatch.errors import UsageError
from cxrbatch.files import text_to_place
from cxrbatch.reading.codecs import raster
from cxrbatch.reading.containers.listing import container_kind, members_named, open_member
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError, reading_error
from cxrbatch.reading.polarity import SUSPECT, measure_polarity
from cxrbatch.reading.readings import (
    RADIOGRAPH_MODALITIES,
    HeaderFacts,
    Reading,
    ReadingOptions,
    failed_reading,
    file_limit,
    ordered_flags,
)
from cxrbatch.reading.sniffing import (
    HEAD_BYTES,
    is_named_as_image,
    open_regular,
    sniff,
    unopened_container,
)

__all__ = [
    "DEFAULT_OPTIONS",
    "RADIOGRAPH_MODALITIES",
    "Reading",
    "ReadingOptions",
    "iterate_member",
    "iterate_members_named",
    "iterate_radiographs",
    "iterate_radiographs_bytes",
    "read_radiographs",
]

DEFAULT_OPTIONS = ReadingOptions()
_MOST_BYTES = 1 << 62
_STEP = 1 << 20


def read_radiographs(
    path: str | Path | bytes, options: ReadingOptions = DEFAULT_OPTIONS
) -> list[Reading]:
    """Read a DICOM, PNG or JPEG file: one Reading, or one for each frame.

    Example:
        >>> for reading in read_radiographs("film.dcm"):
        ...     print(reading.outcome, reading.detail)
        ...     if reading.outcome == "scored":
        ...         pixels = reading.display  # shape (rows, columns), float32 in [0, 1]

    Args:
        path: The file. Text of the form "archive.zip!/folder/film.dcm" names a member of a zip,
            of a tar, or of a compressed file, unless a file of that very name exists.
        options: Which images are read, and up to which size.

    Returns:
        At least one Reading. That of a file or frame that cannot be read, or is no image, says why
        by its `outcome` and `detail`, and its `image` is None.

    Raises:
        UsageError: `path` is no path, or `options` are no ReadingOptions.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise UsageError(f"path is of the type {type(path).__name__}; give a str, Path or bytes")
    if not isinstance(options, ReadingOptions):
        raise UsageError(f"options are of the type {type(options).__name__}; give ReadingOptions")
    return list(iterate_radiographs(path, options))


def iterate_radiographs(
    path: str | Path | bytes, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read a file as `read_radiographs` does, and decode each frame only when it is asked for.

    Args:
        path: The file, or as text a member of a container, as in `read_radiographs`. As bytes it
            never names a member. Of a named pipe, device or folder nothing is read.
        options: Which images are read, and up to which size.

    Yields:
        At least one Reading; a file that cannot be read gives one that says why. An empty file is
        `truncated` if its name is that of an image or container, else `not_an_image`.

    Raises:
        KeyboardInterrupt, SystemExit: As they come; no other exception leaves this function.
    """
    if not isinstance(path, bytes) and "!/" in str(path) and not os.path.exists(path):
        with contextlib.suppress(ValueError):
            container, member = text_to_place(str(path))
            if member is not None and os.path.isfile(container):
                return _iterate_place(container, member, options)

    def read() -> Iterator[Reading]:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            yield from _read_stream(stream, size, options, os.fsencode(path))

    return _without_errors(read)


def iterate_radiographs_bytes(
    data: bytes, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read the content of a DICOM, PNG or JPEG file that is in memory.

    Args:
        data: All bytes of the file.
        options: Which images are read, and up to which size.

    Yields:
        A Reading, or one for each frame, decoded when it is asked for. Content that cannot be read
        gives a Reading that says why; only KeyboardInterrupt and SystemExit are raised.
    """
    return _without_errors(lambda: _read_stream(io.BytesIO(data), len(data), options))


def _iterate_place(container: bytes, name: bytes, options: ReadingOptions) -> Iterator[Reading]:
    reading = None
    for reading in iterate_members_named(container, name, options):
        yield reading
    if reading is None:
        missing = ReadingError(Outcome.UNREADABLE_FILE, "the archive has no such member")
        yield failed_reading("other", missing)


def iterate_members_named(
    container: bytes, name: bytes, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read all members of one name, of which a container may have several.

    Args:
        container: Path of the container.
        name: The members' name, as `containers.listing.list_members` gives it.
        options: Which images are read, and up to which size.

    Yields:
        The Readings of each member that is a file; nothing if there is no such member. A container
        that cannot be read before a member is found gives a Reading that says why; an error in the
        container after that ends the iteration silently.
    """
    count = 0
    try:
        for member in members_named(container, name):
            if member.kind != "file":
                continue
            count += 1
            if member.fault is None:
                yield from iterate_member(container, name, member.offset, options)
            else:
                yield failed_reading("other", ReadingError(*member.fault))
    except Exception as error:
        if not count:
            yield failed_reading("other", reading_error(error))


def iterate_member(
    container: bytes, name: bytes, offset: int, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read a member of a container, as `iterate_radiographs` reads a file.

    Args:
        container: Path of the container.
        name: The member's name, as `containers.listing.list_members` gave it.
        offset: The member's `offset` from the same listing.
        options: Which images are read, and up to which size.

    Yields:
        At least one Reading. It has an image only if the whole member has the length and, but in a
        tar, the checksum that the container gives; else a failed Reading is in its place and last.
    """

    def read() -> Iterator[Reading]:
        with open_member(container, name, offset) as member:
            for reading in _read_stream(member.stream, member.size, options, name):
                # A small member has been inflated whole anyway. One that claims a size of 0 may
                # still hold an image.
                is_small = member.size is not None and member.size <= HEAD_BYTES
                if reading.image is not None or is_small:
                    try:
                        member.verify()
                    except ReadingError as error:
                        yield failed_reading(reading.format, error, frame=reading.frame)
                        return
                    reading = _with_remark(reading, Flag.NONCONFORMING, member.deviation())
                yield reading

    return _without_errors(read)


def _without_errors(read: Callable[[], Iterator[Reading]]) -> Iterator[Reading]:
    try:
        yield from map(_check_polarity, read())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a decoder written in Rust panics outside Exception
        yield failed_reading("other", reading_error(error))


def _check_polarity(reading: Reading) -> Reading:
    """The same, flagged if its pixels look inverted; they are left as the header wants them."""
    if reading.outcome is not Outcome.SCORED or reading.image is None:
        return reading
    number = measure_polarity(reading.image)
    if number >= SUSPECT:
        return reading
    remark = f"the pixels look inverted against the header (polarity {number:.2f})"
    return _with_remark(reading, Flag.INVERTED_SUSPECTED, remark)


def _with_remark(reading: Reading, flag: Flag, remark: str) -> Reading:
    """The same with a flag and a remark in its detail; unchanged if the remark is empty."""
    if not remark:
        return reading
    detail = f"{reading.detail}; {remark}" if reading.detail else remark
    return replace(reading, detail=detail, flags=ordered_flags([*reading.flags, flag]))


def _read_stream(
    stream: BinaryIO, size: int | None, options: ReadingOptions, name: bytes = b""
) -> Iterator[Reading]:
    head = stream.read(HEAD_BYTES)
    file_format = sniff(head, size=_MOST_BYTES if size is None else size)
    try:
        if file_format == "other":
            raise _refusal(stream, head, name)
        limit = file_limit(options.max_pixels)
        if size is None:
            size = _measure(stream, most=limit)
        if size > limit:
            raise ReadingError(Outcome.TOO_LARGE, f"{size} bytes are over the limit")
        stream.seek(0)
        if file_format == "dicom":
            # A process that does not read files itself starts a quarter of a second earlier.
            from cxrbatch.reading.dicom.reader import read_dicom

            yield from read_dicom(stream, size=size, options=options)
        else:
            yield _read_raster(stream, file_format, size, options)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        yield failed_reading(file_format, reading_error(error))


def _measure(stream: BinaryIO, *, most: int) -> int:
    """Bytes of a stream, by reading to its end, or more than `most`."""
    size = stream.tell()
    while size <= most and (data := stream.read(_STEP)):
        size += len(data)
    return size


def _refusal(stream: BinaryIO, head: bytes, name: bytes) -> ReadingError:
    """Why a file that is no image is not read; an empty one fails if its name is an image's."""
    if not head and is_named_as_image(name):
        return ReadingError(Outcome.TRUNCATED, "the file is empty: it has 0 bytes")
    if not head:
        return ReadingError(Outcome.NOT_AN_IMAGE, "the file is empty")
    if container := unopened_container(stream, head):
        return ReadingError(Outcome.UNSUPPORTED_CONTAINER, container)
    kind = container_kind(head)
    if kind is None:
        return ReadingError(Outcome.NOT_AN_IMAGE, "neither DICOM nor PNG nor JPEG")
    names = ".zip, .tar, .gz, .bz2, .xz, .tgz, .tbz2 or .txz"
    detail = (
        f"an archive ({kind}): opened if its name ends in {names} and it lies in no other; "
        "a member of it is named as archive.zip!/member"
    )
    return ReadingError(Outcome.NOT_AN_IMAGE, detail)


def _read_raster(stream: BinaryIO, file_format: str, size: int, options: ReadingOptions) -> Reading:
    limit = options.max_pixels
    if file_format == "png":
        decoded = raster.read_png(stream, size=size, max_pixels=limit, no_voi=options.no_voi)
    else:
        decoded = raster.read_jpeg(
            stream, size=size, max_pixels=limit, least_size=options.least_size
        )
    rows, columns = decoded.shape
    flags = {
        Flag.COLOUR: decoded.is_colour,
        Flag.LOSSY: file_format == "jpeg",
        Flag.REDUCED_DECODING: decoded.image.shape != decoded.shape,
        Flag.NO_VOI: decoded.voi_source is not None,
        Flag.NONCONFORMING: bool(decoded.deviation),
    }
    return Reading(
        frame=0,
        format=file_format,
        outcome=Outcome.SCORED,
        detail=decoded.deviation,
        facts=HeaderFacts(
            rows=rows, columns=columns, bits_stored=decoded.bits, voi_source=decoded.voi_source
        ),
        flags=ordered_flags(flag for flag, is_set in flags.items() if is_set),
        image=decoded.image,
    )
