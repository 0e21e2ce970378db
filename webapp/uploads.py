"""Uploads: the page that takes one file and shows what becomes of it, and what a program gets.

The name that a client gives its file is never looked at. The file lies on the disk without a name
while it is read, and is gone with the answer, unless the server was started to keep uploads.
"""

import base64
import tempfile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from flask import Blueprint, Request, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from cxrbatch.reading.sniffing import HEAD_BYTES, sniff
from cxrbatch.results.table import FACTS, ImageScores, Row
from cxrbatch.webapp.films import heat_layer
from cxrbatch.webapp.images import FLAG_MEANINGS, OUTCOMES, SHOWN_FACTS, points_of
from cxrbatch.webapp.scorer import Scored
from cxrbatch.webapp.services import services

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

blueprint = Blueprint("uploads", __name__)


class UploadRequest(Request):
    """A request whose files lie on the disk, each without a name, however small.

    They are gone when the request is, those of a body that cannot be parsed too.
    """

    def __init__(
        self, environ: "WSGIEnvironment", populate_request: bool = True, shallow: bool = False
    ) -> None:
        """Have no files yet."""
        super().__init__(environ, populate_request, shallow)
        self._streams: list[IO[bytes]] = []

    def close(self) -> None:
        """Close all files; called where Flask is done with the request."""
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


@blueprint.get("/upload")
def upload() -> ResponseReturnValue:
    """The page that takes a file."""
    return _page(frames=None)


@blueprint.post("/upload")
def uploaded() -> ResponseReturnValue:
    """What became of a file."""
    scored = scored_upload()
    return _page(
        frames=[_shown(row, scores) for row, scores in scored.rows],
        picture=_address(scored.picture),
        geometry=services().scorer.card.recipe.geometry,
    )


def _page(**told: object) -> str:
    are_kept = services().keeper is not None
    model = services().scorer.card.name
    return render_template("upload.html", model=model, are_kept=are_kept, **told)


def scored_upload() -> Scored:
    """Score the one file of a request.

    Raises:
        BadRequest: There is not exactly one.
        UnsupportedMediaType: Its first bytes are of no format that is read.
        Busy: Too many wait.
        NotKept: It cannot be kept.
    """
    given = [file for files in request.files.listvalues() for file in files]
    if len(given) != 1 or "file" not in request.files:
        raise BadRequest("Send exactly one file, as the field 'file'.")
    stream = cast(BinaryIO, given[0].stream)
    form = _format(stream)
    scored = services().scorer.score(stream)
    if (keeper := services().keeper) is not None:
        keeper.keep(stream, form, [told(row, scores) for row, scores in scored.rows])
    return scored


def told(row: Row, scores: ImageScores | None) -> dict[str, Any]:
    """A frame and its scores as JSON values."""
    outcome = OUTCOMES[row.outcome]
    facts = dict(zip(FACTS, row.facts, strict=True))
    answer: dict[str, Any] = {
        "frame": row.frame,
        "format": row.format,
        "outcome": outcome.value,
        "meaning": outcome.meaning,
        "remedy": outcome.remedy,
        "detail": row.detail,
        "flags": list(row.flags),
        "facts": {name: facts[name] for name in SHOWN_FACTS},
        "image_hash": row.image_hash,
    }
    if scores is not None:
        classes = services().scorer.card.classes
        answer |= {
            "prediction": classes[int(scores.probabilities.argmax())],
            "probabilities": dict(zip(classes, scores.probabilities.tolist(), strict=True)),
            "logits": dict(zip(classes, scores.logits.tolist(), strict=True)),
            "heatmaps": dict(zip(classes, _levels(scores).tolist(), strict=True)),
            "heatmap_scale": scores.heatmap_scale,
        }
    return answer


def _shown(row: Row, scores: ImageScores | None) -> dict[str, Any]:
    """A frame as the page shows it."""
    answer = told(row, scores)
    card = services().scorer.card
    layers = [] if scores is None else [_address(heat_layer(map)) for map in _levels(scores)]
    return {
        **answer,
        "outcome": OUTCOMES[row.outcome],
        "flags": [(flag, FLAG_MEANINGS[flag]) for flag in row.flags],
        "facts": [(name, value) for name, value in answer["facts"].items() if value],
        "layers": list(zip(card.classes, layers, strict=True)) if layers else [],
        "points": points_of(card, answer.get("probabilities", {})),
    }


def _levels(scores: ImageScores) -> npt.NDArray[np.uint8]:
    """Shape (classes, h, w), uint8."""
    classes = len(services().scorer.card.classes)
    size = round((len(scores.heatmaps) // classes) ** 0.5)
    return np.frombuffer(scores.heatmaps, np.uint8).reshape(classes, size, size)


def _format(stream: BinaryIO) -> str:
    head = stream.read(HEAD_BYTES)
    size = stream.seek(0, 2)
    stream.seek(0)
    form = sniff(head, size=size)
    if form == "other":
        raise UnsupportedMediaType("The file is neither DICOM nor PNG nor JPEG.")
    return form


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
