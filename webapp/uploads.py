"""Uploads: the form that takes one file, its scores, and the folder where uploads may be kept.

The name that a client gives its file is never used. The file lies on the disk without a name and
is gone when its answer is sent, unless the server was started to keep uploads.
"""

import base64
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from flask import Blueprint, Request, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from cxrbatch.errors import UsageError
from cxrbatch.files import written_whole
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import bundled_checkpoint, read_card, unreadable_checkpoint
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.reading.sniffing import HEAD_BYTES, sniff
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.webapp.children import ChildProcesses, WorkQueue, read_upload
from cxrbatch.webapp.images import FLAG_MEANINGS, OUTCOMES, heat_map_png
from cxrbatch.webapp.library import InsufficientStorage, get_service
from cxrbatch.webapp.served_table import FileVersion, file_version
from cxrbatch.webapp.upload_frames import frames_as_json
from cxrbatch.workers.worker import WorkerFault

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from cxrbatch.model.predictor import Predictor

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600

blueprint = Blueprint("uploads", __name__)


class UploadRequest(Request):
    """A request whose files, of any size, lie on the disk without a name until it is closed."""

    def __init__(
        self, environ: "WSGIEnvironment", populate_request: bool = True, shallow: bool = False
    ) -> None:
        """Create a request as Werkzeug does; its body is not read yet."""
        super().__init__(environ, populate_request, shallow)
        self._streams: list[IO[bytes]] = []

    def close(self) -> None:
        """Close the request, and delete its files; Flask calls this once the answer is made."""
        super().close()
        for stream in self._streams:
            stream.close()

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        stream = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 -- `close` closes it
        self._streams.append(stream)
        return stream


@dataclass(frozen=True, slots=True)
class ScoredUpload:
    """An uploaded file with its scores.

    Attributes:
        card: Card of the checkpoint that scored it.
        frames: The frames of the file as JSON values: `frames` in `openapi.json`.
        png: The first frame as PNG; empty where it gave no image.
    """

    card: Card
    frames: list[dict[str, Any]]
    png: bytes


class UploadScorer:
    """Reads uploads in child processes and scores them in this process, one at a time.

    Reading and scoring are those of `cxrbatch score` with its defaults. torch and the weights are
    loaded for the first file. A checkpoint whose file has changed since is loaded again for the
    next file, so that card and weights are always of one file.

    Attributes:
        card: Card of the checkpoint that was read last.
    """

    def __init__(self, checkpoint: Path | None, children: ChildProcesses) -> None:
        """Read the card of the checkpoint.

        Args:
            checkpoint: The checkpoint; None for the bundled one.
            children: Child processes that read the files.

        Raises:
            CheckpointError: The checkpoint cannot be read, or has no valid card.
        """
        self._path = checkpoint or bundled_checkpoint()
        self.card = read_card(self._path)
        self._children = children
        self._queue = WorkQueue(running=1, waiting=4)
        self._loaded: tuple[FileVersion, Predictor] | None = None

    def score_file(self, file: BinaryIO) -> ScoredUpload:
        """Read and score at most 16 frames of an open file; wait while another file is scored.

        `file` needs a descriptor and no name. A file that cannot be read gives one frame without
        scores, which says why.

        Raises:
            CheckpointError: The checkpoint is gone, or cannot be used.
            CxrbatchError: A score is not finite, memory is short, or no process can be started.
            ServerBusy: Too many requests wait.
        """
        descriptor = file.fileno()
        archive_file = ArchiveFile(str(descriptor).encode(), os.fstat(descriptor).st_size)
        with self._queue.turn():
            predictor = self._load()
            recipe = predictor.card.recipe
            # The child opens the file through this process's descriptor, as it has no name.
            reader = FileReader(
                base=f"/proc/{os.getpid()}/fd".encode(),
                recipe=recipe,
                options=ReadingOptions(no_voi=recipe.no_voi),
                patient_secret=secrets.token_bytes(32),
            )
            result = self._children.call(read_upload, reader, archive_file)
            if isinstance(result, WorkerFault):
                result = reader.failed(archive_file, result.outcome, result.detail), b""
            loaded, png = result
            return ScoredUpload(predictor.card, frames_as_json(loaded, predictor), png)

    def _load(self) -> "Predictor":
        """Return the checkpoint's predictor, loaded again where its file has changed."""
        try:
            version = file_version(self._path.stat())
        except OSError as error:
            raise unreadable_checkpoint(self._path, error) from None
        if self._loaded is None or self._loaded[0] != version:
            from cxrbatch.model.predictor import load_model

            self._loaded = version, load_model(self._path)
            self.card = self._loaded[1].card
        return self._loaded[1]


class UploadKeeper:
    """Keeps uploads and their answers in a private folder, if the server was given one.

    Attributes:
        is_active: Whether uploads are kept.
    """

    def __init__(self, folder: Path | None) -> None:
        """Create the folder, or check that it is writable and private.

        Args:
            folder: The folder; None to keep no uploads.

        Raises:
            UsageError: The folder cannot be created or written to, or others have access to it.
        """
        self._folder = folder
        self.is_active = folder is not None
        if folder is None:
            return
        try:
            folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            mode = folder.stat().st_mode
        except OSError as error:
            raise UsageError(
                f"cannot keep uploads in {folder}: {error.strerror}; name another folder"
            ) from None
        if mode & 0o077:
            raise UsageError(f"others may look into {folder}: chmod 700 it, or name another folder")

    def keep(self, file: BinaryIO, form: str, frames: Sequence[Any]) -> None:
        """Write an upload and its answer to two files in the folder, if there is one: both or none.

        Args:
            file: The upload.
            form: Its format, "dicom", "png" or "jpeg": the ending of its new, random name.
            frames: The frames as JSON values, as the client gets them.

        Raises:
            InsufficientStorage: A file cannot be written.
        """
        if self._folder is None:
            return
        name = secrets.token_hex(16)
        content, answer = (self._folder / f"{name}.{ending}" for ending in (form, "json"))
        try:
            with _private_file(content) as kept:
                file.seek(0)
                shutil.copyfileobj(file, kept)
            with _private_file(answer) as kept:
                kept.write(json.dumps(frames, indent=1).encode())
        except OSError as error:
            for path in (content, answer):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise InsufficientStorage(
                f"The file was scored but cannot be kept: {error.strerror}. Nothing of it is left."
            ) from None


@contextmanager
def _private_file(path: Path) -> Iterator[BinaryIO]:
    with written_whole(path) as file:
        os.fchmod(file.fileno(), _PRIVATE_FILE)
        yield file


@blueprint.get("/upload")
def show_form() -> ResponseReturnValue:
    """Answer with the page of the form that takes a file."""
    return _page(get_service(UploadScorer).card, frames=None)


@blueprint.post("/upload")
def show_scores() -> ResponseReturnValue:
    """Score the file that the form sends, and answer with the form and the scores below it.

    Raises:
        HTTPException, CxrbatchError, ServerBusy: The cases of `score_request`: no file or one of
            another format, a full disk, a checkpoint that cannot be used, too many requests.
    """
    upload = score_request()
    return _page(
        upload.card,
        frames=[_shown(frame) for frame in upload.frames],
        picture=_data_address(upload.png),
        points=upload.card.operating_points,
        geometry=upload.card.recipe.geometry,
    )


def score_request() -> ScoredUpload:
    """Score the file of the current request; write it to the folder for uploads if there is one.

    Raises:
        BadRequest: The request has not exactly one file, as the field `file`.
        CxrbatchError: The checkpoint cannot be used, a score is not finite, memory is short, or no
            process can be started.
        InsufficientStorage: The file cannot be written to the folder.
        ServerBusy: Too many requests wait.
        UnsupportedMediaType: The file begins neither as DICOM nor as PNG nor as JPEG.
    """
    files = [file for files in request.files.listvalues() for file in files]
    if len(files) != 1 or "file" not in request.files:
        raise BadRequest("Send exactly one file, as the field 'file'.")
    stream = cast(BinaryIO, files[0].stream)
    form = _format(stream)
    upload = get_service(UploadScorer).score_file(stream)
    get_service(UploadKeeper).keep(stream, form, upload.frames)
    return upload


def _page(card: Card, **values: object) -> str:
    are_kept = get_service(UploadKeeper).is_active
    return render_template("upload.html", model=card.name, are_kept=are_kept, **values)


def _shown(frame: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a frame."""
    maps = frame.get("heatmaps", {})
    return {
        **frame,
        "outcome": OUTCOMES[frame["outcome"]],
        "flags": [(flag, FLAG_MEANINGS[flag]) for flag in frame["flags"]],
        "facts": [(name, value) for name, value in frame["facts"].items() if value],
        "layers": [
            (name, _data_address(heat_map_png(np.array(levels, np.uint8))))
            for name, levels in maps.items()
        ],
    }


def _format(stream: BinaryIO) -> str:
    head = stream.read(HEAD_BYTES)
    size = stream.seek(0, 2)
    stream.seek(0)
    form = sniff(head, size=size)
    if form == "other":
        raise UnsupportedMediaType("The file is neither DICOM nor PNG nor JPEG.")
    return form


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
