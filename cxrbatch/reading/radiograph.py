"""One file to its Readings: the way into this package.

Every file gives at least one Reading, whatever it is; a file that gives no image gives the reason.
"""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from cxrbatch.reading.codecs import raster
from cxrbatch.reading.containers.listing import container_kind, open_member, open_regular
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError, reading_error
from cxrbatch.reading.polarity import SUSPECT, polarity
from cxrbatch.reading.readings import (
    RADIOGRAPH_MODALITIES,
    Reading,
    ReadingOptions,
    failed,
    file_limit,
    in_order,
)
from cxrbatch.reading.sniffing import HEAD_BYTES, sniff, unopened_container

__all__ = [
    "DEFAULT_OPTIONS",
    "RADIOGRAPH_MODALITIES",
    "Reading",
    "ReadingOptions",
    "read_member",
    "read_radiographs",
    "read_radiographs_bytes",
]

DEFAULT_OPTIONS = ReadingOptions()
_MOST_BYTES = 1 << 62
_STEP = 1 << 20


def read_radiographs(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    options: ReadingOptions = DEFAULT_OPTIONS,
) -> Iterator[Reading]:
    """Read a file: one Reading, or one per frame, decoded as they are asked for.

    Never raises: what goes wrong is the outcome of a Reading. Only KeyboardInterrupt, SystemExit
    and GeneratorExit pass through. A FIFO, device or folder is not opened for reading.
    """

    def attempt() -> Iterator[Reading]:
        with open_regular(path) as stream:
            yield from _read_stream(stream, os.fstat(stream.fileno()).st_size, options)

    return _never_raising(attempt)


def read_radiographs_bytes(
    data: bytes, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read a file's content that is already in memory, as `read_radiographs` reads a file."""
    return _never_raising(lambda: _read_stream(io.BytesIO(data), len(data), options))


def read_member(
    path: bytes, name: bytes, offset: int, options: ReadingOptions = DEFAULT_OPTIONS
) -> Iterator[Reading]:
    """Read a member of a container, as `read_radiographs` reads a file.

    An image is given only when the whole member has been compared with its checksum.

    Args:
        path: The container.
        name: The member's name, as `containers.list_members` gave it.
        offset: The member's offset, likewise.
        options: What is read, and its limits.
    """

    def attempt() -> Iterator[Reading]:
        with open_member(path, name, offset) as member:
            for reading in _read_stream(member.stream, member.size, options):
                # What is small has been inflated whole anyway; a film may hide behind a claim of 0.
                is_small = member.size is not None and member.size <= HEAD_BYTES
                if reading.image is not None or is_small:
                    try:
                        member.verify()
                    except ReadingError as error:
                        yield failed(reading.format, error, frame=reading.frame)
                        return
                    reading = _remarked(reading, Flag.NONCONFORMING, member.deviation())
                yield reading

    return _never_raising(attempt)


def _never_raising(attempt: Callable[[], Iterator[Reading]]) -> Iterator[Reading]:
    try:
        yield from map(_doubted, attempt())
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a decoder written in Rust panics outside Exception
        yield failed("other", reading_error(error))


def _doubted(reading: Reading) -> Reading:
    """The same, flagged if its pixels look inverted; they are left as the header wants them."""
    if reading.outcome is not Outcome.SCORED or reading.image is None:
        return reading
    number = polarity(reading.image)
    if number >= SUSPECT:
        return reading
    doubt = f"the pixels look inverted against the header (polarity {number:.2f})"
    return _remarked(reading, Flag.INVERTED_SUSPECTED, doubt)


def _remarked(reading: Reading, flag: Flag, remark: str) -> Reading:
    """The same with a flag and a remark in its detail; as it is if there is no remark."""
    if not remark:
        return reading
    detail = f"{reading.detail}; {remark}" if reading.detail else remark
    return replace(reading, detail=detail, flags=in_order([*reading.flags, flag]))


def _read_stream(stream: BinaryIO, size: int | None, options: ReadingOptions) -> Iterator[Reading]:
    head = stream.read(HEAD_BYTES)
    form = sniff(head, size=_MOST_BYTES if size is None else size)
    if form == "other":
        yield failed(form, _refusal(stream, head))
        return
    limit = file_limit(options.max_pixels)
    if size is None:
        try:
            size = _measure(stream, most=limit)
        except ReadingError as error:
            yield failed(form, error)
            return
    if size > limit:
        yield failed(form, ReadingError(Outcome.TOO_LARGE, f"{size} bytes are over the limit"))
        return
    stream.seek(0)
    if form != "dicom":
        yield _read_raster(stream, form, size, options)
        return
    # A process that has files read by others starts a quarter of a second earlier.
    from cxrbatch.reading.dicom.reader import read_dicom

    try:
        yield from read_dicom(stream, size=size, options=options)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        yield failed(form, reading_error(error))


def _measure(stream: BinaryIO, *, most: int) -> int:
    """Bytes of a stream, by reading to its end, or more than `most`."""
    size = stream.tell()
    while size <= most and (data := stream.read(_STEP)):
        size += len(data)
    return size


def _refusal(stream: BinaryIO, head: bytes) -> ReadingError:
    """Why a file that is no image is not read."""
    if not head:
        return ReadingError(Outcome.NOT_AN_IMAGE, "the file is empty")
    if name := unopened_container(stream, head):
        return ReadingError(Outcome.UNSUPPORTED_CONTAINER, name)
    kind = container_kind(head)
    if kind is None:
        return ReadingError(Outcome.NOT_AN_IMAGE, "neither DICOM nor PNG nor JPEG")
    names = ".zip, .tar, .gz, .bz2, .xz, .tgz, .tbz2 or .txz"
    detail = (
        f"an archive ({kind}): opened if its name ends in {names} and it lies in no other; "
        "a member of it is named as archive.zip!/member"
    )
    return ReadingError(Outcome.NOT_AN_IMAGE, detail)


def _read_raster(stream: BinaryIO, form: str, size: int, options: ReadingOptions) -> Reading:
    try:
        limit = options.max_pixels
        if form == "png":
            found = raster.read_png(stream, size=size, max_pixels=limit, no_voi=options.no_voi)
        else:
            found = raster.read_jpeg(
                stream, size=size, max_pixels=limit, least_size=options.least_size
            )
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        return failed(form, reading_error(error))
    rows, columns = found.shape
    facts = HeaderFacts(
        rows=rows, columns=columns, bits_stored=found.bits, voi_source=found.voi_source
    )
    flags = {
        Flag.COLOUR: found.is_colour,
        Flag.LOSSY: form == "jpeg",
        Flag.REDUCED_DECODING: found.image.shape != found.shape,
        Flag.NO_VOI: found.voi_source is not None,
        Flag.NONCONFORMING: bool(found.deviation),
    }
    return Reading(
        frame=0,
        format=form,
        outcome=Outcome.SCORED,
        detail=found.deviation,
        facts=facts,
        flags=in_order(flag for flag, is_set in flags.items() if is_set),
        image=found.image,
    )
