"""The frames of an upload as JSON values: outcome, facts and scores of each."""

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.columns import FACTS, Row
from cxrbatch.scoring.file_reader import LoadedFile
from cxrbatch.webapp.images import OUTCOMES, SHOWN_FACTS

if TYPE_CHECKING:
    from cxrbatch.model.batch_scores import BatchScores
    from cxrbatch.model.predictor import Predictor


def frames_as_json(loaded: LoadedFile, predictor: "Predictor") -> list[dict[str, Any]]:
    """Score the frames of an upload, and return them as the JSON values of its answer.

    Frames without a network input have their outcome alone. The other keys of frames with one are
    those of `BatchScores` and of the table: prediction, probabilities, logits, heatmaps,
    heatmap_scale, ood_score, ood_kind.

    Args:
        loaded: The upload as it was read.
        predictor: The network.

    Raises:
        CxrbatchError: A score is not finite, or memory does not suffice.
    """
    frames = [_row_json(row) for row in loaded.rows]
    if any(loaded.scorable):
        batch = predictor.score(loaded.inputs)
        for place, frame in enumerate(compress(frames, loaded.scorable)):
            verdict = batch.gate_verdict(place, predictor.card)
            frame |= _scores_json(batch, place, predictor.card.classes)
            frame |= {"ood_score": verdict.ood_score, "ood_kind": verdict.ood_kind}
            if verdict.is_foreign:
                frame["flags"].append(Flag.OUT_OF_DISTRIBUTION.value)
    return frames


def _row_json(row: Row) -> dict[str, Any]:
    outcome = OUTCOMES[row.outcome]
    facts = dict(zip(FACTS, row.facts, strict=True))
    return {
        "frame": row.frame,
        "format": row.format,
        "outcome": outcome.value,
        "meaning": outcome.meaning,
        "remedy": outcome.remedy,
        "detail": row.detail,
        "flags": list(row.image_flags),
        "facts": {name: facts[name] for name in SHOWN_FACTS},
        "image_hash": row.image_hash,
    }


def _scores_json(batch: "BatchScores", place: int, classes: Sequence[str]) -> dict[str, Any]:
    by_class = {
        name: dict(zip(classes, values[place].tolist(), strict=True))
        for name, values in (
            ("probabilities", batch.probabilities),
            ("logits", batch.logits),
            ("heatmaps", batch.heatmaps),
        )
    }
    prediction = classes[int(batch.probabilities[place].argmax())]
    scale = float(batch.heatmap_scale[place])
    return {"prediction": prediction, **by_class, "heatmap_scale": scale}
