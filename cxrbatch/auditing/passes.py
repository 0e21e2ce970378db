"""The passes of an audit: the masks of the lungs, and one pass of the network per treatment.

Each pass is written to disk in parts of many films, so that a run that was stopped goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from cxrbatch.auditing.films import CHUNK_FILMS, FilmSet, chunks
from cxrbatch.auditing.parts import Scalar, cells_of, packed, read_part, write_part
from cxrbatch.auditing.treatments import Films, LungFields, Treatment
from cxrbatch.model.input_gate import FeatureStatistics, InputGate
from cxrbatch.model.predictor import Predictor

MOST_DISTANCES = 256
"""Films of a treatment, evenly spread, whose distance from the training films is measured."""

MASKED_AT_ONCE = 32
"""Films whose lungs are found between two steps of the progress."""


class FindsLungs(Protocol):
    """Finds the lungs in network inputs, as `lungs.finder.LungFinder` does."""

    def masks(self, inputs: Films, /) -> tuple[LungFields, tuple[tuple[str, ...], ...]]:
        """Return where lung is, bool, the shape of `inputs`, and the doubts about each mask."""


class LungMaskSet(NamedTuple):
    """The masks of the lungs of all films.

    Attributes:
        bits: For each chunk of films the masks packed to bits, shape (n, bytes), uint8, mapped from
            a file.
        size: Edge of a film in pixels.
        doubted: Shape (films,), whether a mask is doubted; such films get no lung treatment. True
            for films that were not read.
    """

    bits: tuple[npt.NDArray[np.uint8], ...]
    size: int
    doubted: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.int64]) -> LungFields:
        """Return where the lungs of some films are, shape (rows, size, size), in their order."""
        flat = np.unpackbits(taken(self.bits, rows), axis=1, count=self.size**2)
        return flat.reshape(len(rows), self.size, self.size).view(np.bool_)


class PassScores(NamedTuple):
    """Scores of all films under one treatment, in the order of the rows.

    Attributes:
        logits: Shape (films, classes), float32; NaN where the film was not scored.
        probabilities: Likewise.
        is_scored: Shape (films,): whether the film was read and, if need be, has a sure mask.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    is_scored: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Passes:
    """Where the parts of an audit are, and how its progress is shown.

    Attributes:
        folder: The folder of the parts.
        run: Id of the run: parts of another one are made anew.
        predictor: Returns the network; called when the first part is to be scored.
        classes: Number of classes.
        advance: Called with a number of films when they have a mask or a score, or had it already.
    """

    folder: Path
    run: str
    predictor: Callable[[], Predictor]
    classes: int
    advance: Callable[[int], object]

    def masks(self, films: FilmSet, finder: FindsLungs) -> LungMaskSet:
        """Find the lungs of all films that were read.

        Args:
            films: The films.
            finder: Finds them.

        Raises:
            OSError: A part cannot be written.
        """
        bits, doubted = [], [np.empty(0, np.bool_)]
        is_read, size = films.is_read, films.size
        for number, rows in enumerate(chunks(len(is_read))):
            path = self.folder / f"masks-{number:06d}.arrow"
            part = read_part(path, run=self.run)
            if part is None:
                chosen = np.flatnonzero(is_read[rows.start : rows.stop])
                write_part(path, self._find(films.inputs[number], chosen, finder), run=self.run)
                part = read_part(path, run=self.run)
                assert part is not None
            else:
                self.advance(len(rows))
            bits.append(cells_of(part["bits"], np.uint8, (-(-size * size // 8),)))
            doubted.append(part["doubted"].to_numpy())
        return LungMaskSet(tuple(bits), size, np.concatenate(doubted))

    def _find(
        self, inputs: Films, rows: npt.NDArray[np.int64], finder: FindsLungs
    ) -> dict[str, pa.Array]:
        """Find the lungs of some films of a chunk; the others have none, and are doubted."""
        found = np.zeros(inputs.shape, np.bool_)
        doubted = np.ones(len(inputs), np.bool_)
        self.advance(len(inputs) - len(rows))
        for start in range(0, len(rows), MASKED_AT_ONCE):
            some = rows[start : start + MASKED_AT_ONCE]
            fields, doubts = finder.masks(np.ascontiguousarray(inputs[some]))
            found[some] = fields
            doubted[some] = [bool(own) for own in doubts]
            self.advance(len(some))
        bits = np.packbits(found.reshape(len(inputs), -1), axis=1)
        return {"bits": packed(bits), "doubted": pa.array(doubted)}

    def score(
        self, treatment: Treatment, films: FilmSet, masks: LungMaskSet | None
    ) -> PassScores | None:
        """Score all films under one treatment.

        Args:
            treatment: The treatment.
            films: The films.
            masks: Their lungs; None if none were looked for.

        Returns:
            The scores; None where the treatment needs lungs and there are no masks.

        Raises:
            OSError: A part cannot be written.
            CxrbatchError: In the cases in which `Predictor.score` raises it.
        """
        usable = _usable(treatment, films, masks)
        if usable is None:
            return None
        values = [np.empty((0, 2, self.classes), np.float32)]
        for number, span in enumerate(chunks(len(usable))):
            path = self.folder / f"{treatment.name.replace(' ', '-')}-{number:06d}.arrow"
            part = read_part(path, run=self.run)
            if part is None:
                chosen = np.flatnonzero(usable[span.start : span.stop]) + span.start
                scored = self._scored(treatment, films, masks, chosen, span)
                write_part(path, {"scores": packed(scored)}, run=self.run)
            else:
                self.advance(len(span))
                scored = cells_of(part["scores"], np.float32, (2, self.classes))
            values.append(scored)
        joined = np.concatenate(values)
        return PassScores(joined[:, 0], joined[:, 1], usable)

    def _scored(
        self,
        treatment: Treatment,
        films: FilmSet,
        masks: LungMaskSet | None,
        chosen: npt.NDArray[np.int64],
        span: range,
    ) -> npt.NDArray[np.float32]:
        """Score the chosen films of a chunk, which is `span`; NaN for the others."""
        predictor = self.predictor()
        scored = np.full((len(span), 2, self.classes), np.nan, np.float32)
        batches = batches_of(chosen, predictor.batch_size)
        self.advance(len(span) - len(chosen))
        treated = (treat(treatment, films, masks, rows) for rows in batches)
        for rows, scores in zip(batches, predictor.score_all(treated), strict=True):
            places = rows - span.start
            scored[places, 0], scored[places, 1] = scores.logits, scores.probabilities
            self.advance(len(rows))
        return scored

    def distance(
        self,
        treatment: Treatment,
        films: FilmSet,
        masks: LungMaskSet | None,
        statistics: FeatureStatistics,
    ) -> float | None:
        """Measure how far treated films are from those that the network was trained on.

        Args:
            treatment: The treatment.
            films: The films.
            masks: Their lungs; None if none were looked for.
            statistics: Of the network's features over its training films.

        Returns:
            Median squared Mahalanobis distance of at most `MOST_DISTANCES` films; None without any.

        Raises:
            OSError: A part cannot be written.
            CxrbatchError: The batch does not fit into memory.
        """
        path = self.folder / f"distance-{treatment.name.replace(' ', '-')}.arrow"
        part = read_part(path, run=self.run)
        if part is not None:
            found = part["distance"].to_numpy()
        else:
            usable = _usable(treatment, films, masks)
            rows = np.empty(0, np.int64) if usable is None else np.flatnonzero(usable)
            rows = rows[:: max(1, -(-len(rows) // MOST_DISTANCES))]
            predictor, gate = self.predictor(), InputGate(statistics, device=torch.device("cpu"))
            found = np.empty(len(rows))
            for start in range(0, len(rows), predictor.batch_size):
                some = rows[start : start + predictor.batch_size]
                features = predictor.features(treat(treatment, films, masks, some))
                found[start : start + len(some)] = gate.distances(torch.from_numpy(features))
            write_part(path, {"distance": pa.array(found)}, run=self.run)
        return float(np.median(found)) if len(found) else None


def treat(
    treatment: Treatment, films: FilmSet, masks: LungMaskSet | None, rows: npt.NDArray[np.int64]
) -> Films:
    """Return some films under a treatment, shape (rows, size, size).

    Args:
        treatment: The treatment.
        films: All films.
        masks: Their lungs; None only if the treatment needs none.
        rows: Which films.
    """
    lungs = masks.take(rows) if masks is not None and treatment.needs_lungs else None
    return treatment.apply(taken(films.inputs, rows), lungs)


def taken(parts: Sequence[npt.NDArray[Scalar]], rows: npt.NDArray[np.int64]) -> npt.NDArray[Scalar]:
    """Copy some rows of arrays that follow each other in chunks of `CHUNK_FILMS` rows."""
    copied = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
    for place, row in enumerate(rows.tolist()):
        copied[place] = parts[row // CHUNK_FILMS][row % CHUNK_FILMS]
    return copied


def batches_of(rows: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Divide rows into arrays of at most `size` rows, in order."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _usable(
    treatment: Treatment, films: FilmSet, masks: LungMaskSet | None
) -> npt.NDArray[np.bool_] | None:
    """Which films can be treated; None where the treatment needs lungs and there are no masks."""
    if not treatment.needs_lungs:
        return films.is_read
    return None if masks is None else films.is_read & ~masks.doubted
