"""The films of an audit: read again, masked, treated and scored, with what a page shows of them."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.auditing.areas import AreaFigures, area_figures, log_odds, no_figures
from cxrbatch.auditing.audit_table import DOUBTED, NO_MASK, PLAUSIBLE
from cxrbatch.auditing.films import FilmReader, FilmSet, WantedFilm, no_films, read_films
from cxrbatch.auditing.heat import HeatShare, heat_outside, heat_shares
from cxrbatch.auditing.passes import (
    MASKED_AT_ONCE,
    FindsLungs,
    LungMaskSet,
    Passes,
    PassScores,
    batches_of,
    treat,
)
from cxrbatch.auditing.treatments import TREATMENTS, WHOLE, Films, Treatment
from cxrbatch.auditing.verdict import TreatmentResult
from cxrbatch.model.input_gate import FeatureStatistics
from cxrbatch.model.predictor import Predictor
from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.analysis import Analysis
from cxrbatch.results.statistics.intervals import Groups
from cxrbatch.results.table import Table
from cxrbatch.scoring.file_reader import UNKNOWN_ORIGIN, Origin
from cxrbatch.scoring.run import ScoringOptions

ARCHIVE_GONE = "the archive is not at hand"
NO_MASKS = "the lungs were not looked for"
ALL_DOUBTED = "no film has a mask of its lungs that is not doubtful"
NONE_READ = "no film could be read again"
_MOST_SHOWN = 4
_UNTREATED = Treatment(WHOLE, "The films as they are.", of_film=lambda films: films)


@dataclass(frozen=True, slots=True)
class PassSetup:
    """What treating and scoring films needs, beside the films.

    Attributes:
        folder: The folder of the parts.
        run: Id of the run.
        scoring: How many processes read, and what one film may take.
        archive: The archive's folder now; None for where it was scored.
        predictor: Returns the network.
        finder: Finds the lungs; None to leave them out.
        temperature: What the logits are divided by before the softmax.
        statistics: Of the network's features over its training films; None where unknown.
        advance: Called with a number of films that were read, masked or scored.
    """

    folder: Path
    run: str
    scoring: ScoringOptions
    archive: Path | None
    predictor: Callable[[], Predictor]
    finder: FindsLungs | None
    temperature: float
    statistics: FeatureStatistics | None
    advance: Callable[[int], object]


@dataclass(frozen=True, slots=True, eq=False)
class ShownFilm:
    """One film under one treatment, for a page.

    Attributes:
        treatment: Name of the treatment.
        film: Shape (size, size), uint8.
        prediction: The most probable class.
        probability: Its probability.
    """

    treatment: str
    film: npt.NDArray[np.uint8]
    prediction: str
    probability: float


@dataclass(frozen=True, slots=True)
class TreatedFilm:
    """One film under each treatment that it can have.

    Attributes:
        truth: Its true class.
        row: Its row in the results table, from 1.
        shown: The film as it is, then treated.
    """

    truth: str
    row: int
    shown: tuple[ShownFilm, ...]


class TreatedFilms:
    """The films that an analysis chose, read from their archive and scored under each treatment.

    Attributes:
        truth: Shape (n,), true classes as indices into the task's classes.
        patients: Shape (n,), numbers of the films' patients.
    """

    def __init__(self, analysis: Analysis, table: Table, setup: PassSetup) -> None:
        """Keep the arguments; each property does its work when it is first asked for.

        Args:
            analysis: The films, their truth and the scores of the whole films.
            table: The results table of the analysis.
            setup: What the passes need.
        """
        self._analysis, self._table, self._setup = analysis, table, setup
        self.truth = analysis.true_classes()[analysis.chosen].astype(np.int64)
        self.patients: Groups = analysis.patients()
        self._passes = Passes(
            setup.folder, setup.run, setup.predictor, len(table.classes), setup.advance
        )

    @cached_property
    def films(self) -> FilmSet:
        """The films, read again; each is checked to be the one that was scored.

        Raises:
            TableError: The table is damaged.
            OSError: A part cannot be written.
            CxrbatchError: No process can be started.
        """
        archive, count = self._setup.archive, len(self.truth)
        root = None if archive is None else os.path.abspath(os.fsencode(archive))
        origin = Origin.of(self._table, root=root)
        if origin is None or not os.path.isdir(origin.root):
            reason = UNKNOWN_ORIGIN if origin is None else ARCHIVE_GONE
            self._setup.advance(count)
            return no_films(count, size=self._size, absence=reason)
        names = ["path", "frame", "image_hash", "file_size"]
        rows = self._table.take(self._analysis.rows.tolist(), names).to_pylist()
        return read_films(
            [WantedFilm(*(row[name] for name in names)) for row in rows],
            FilmReader(origin),
            folder=self._setup.folder,
            run=self._setup.run,
            workers=self._setup.scoring.workers,
            limits=self._setup.scoring.limits,
            advance=self._setup.advance,
        )

    @property
    def _size(self) -> int:
        return int(self._table.provenance["recipe"]["size"])

    @property
    def lost(self) -> dict[str, int]:
        """Why films could not be read again -> their number, the most frequent reason first."""
        return dict(Counter(a for a in self.films.absences if a).most_common())

    @cached_property
    def masks(self) -> LungMaskSet | None:
        """The masks of the lungs; None if there is no finder, or no film to look at."""
        if self._setup.finder is None or not self.films.is_read.any():
            self._setup.advance(len(self.truth))
            return None
        return self._passes.masks(self.films, self._setup.finder)

    @property
    def mask_words(self) -> list[str]:
        """For each film `PLAUSIBLE`, `DOUBTED` or `NO_MASK`."""
        if self.masks is None:
            return [NO_MASK] * len(self.truth)
        is_read = self.films.is_read
        words = np.where(self.masks.doubted, DOUBTED, PLAUSIBLE)
        return [str(word) for word in np.where(is_read, words, NO_MASK)]

    @cached_property
    def scores(self) -> dict[str, PassScores | None]:
        """The scores of the films under each treatment; None where no film can have it.

        Raises:
            OSError: A part cannot be written.
            CxrbatchError: In the cases in which `Predictor.score` raises it.
        """
        found = {}
        for treatment in TREATMENTS:
            found[treatment.name] = self._passes.score(treatment, self.films, self.masks)
            if found[treatment.name] is None:
                self._setup.advance(len(self.truth))
        return found

    def probabilities(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the probabilities of the task's classes, shape (n, classes), by treatment.

        NaN stands in rows of films that a treatment leaves out.
        """
        task = self._analysis.task
        found = {WHOLE: self._analysis.probabilities}
        for name, scores in self.scores.items():
            if scores is not None:
                merged = np.full_like(found[WHOLE], np.nan)
                chosen = scores.is_scored
                merged[chosen] = task.merge_probabilities(scores.probabilities[chosen])
                found[name] = merged
        return found

    def whole(self) -> AreaFigures:
        """Return the figures of the films as they are."""
        return self._figures(self._odds[WHOLE], np.ones(len(self.truth), bool))

    @cached_property
    def _odds(self) -> dict[str, npt.NDArray[np.float64]]:
        """Log odds of the task's classes, shape (n, classes), by treatment; NaN without a score."""
        found = {WHOLE: self._log_odds(self._analysis.scores.logits[self._analysis.chosen])}
        for name, scores in self.scores.items():
            if scores is not None:
                found[name] = np.full_like(found[WHOLE], np.nan)
                found[name][scores.is_scored] = self._log_odds(scores.logits[scores.is_scored])
        return found

    def _log_odds(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        tempered = logits / np.float32(self._setup.temperature)
        return log_odds(self._analysis.task.merge_logits(tempered))

    def results(self) -> tuple[TreatmentResult, ...]:
        """Return the figures of each treatment; a treatment that cannot be given says why."""
        usual = self._distance(_UNTREATED)
        return tuple(self._result(each, usual) for each in TREATMENTS)

    def _result(self, treatment: Treatment, usual: float | None) -> TreatmentResult:
        scores = self.scores[treatment.name]
        chosen = np.zeros(len(self.truth), bool) if scores is None else scores.is_scored
        if not chosen.any():
            figures = no_figures(self._reason(treatment), classes=self._analysis.task.classes)
            return TreatmentResult(
                treatment.name, treatment.shows, figures, figures.macro_auc, None
            )
        distance = self._distance(treatment)
        return TreatmentResult(
            treatment.name,
            treatment.shows,
            self._figures(self._odds[treatment.name], chosen),
            self._figures(self._odds[WHOLE], chosen).macro_auc,
            distance / usual if distance is not None and usual else None,
        )

    def _reason(self, treatment: Treatment) -> str:
        """Why no film can have a treatment."""
        if not self.films.is_read.any():
            reasons = [*self.lost]
            return reasons[0] if len(reasons) == 1 else NONE_READ
        return NO_MASKS if self.masks is None and treatment.needs_lungs else ALL_DOUBTED

    def _distance(self, treatment: Treatment) -> float | None:
        statistics = self._setup.statistics
        if statistics is None or not self.films.is_read.any():
            return None
        return self._passes.distance(treatment, self.films, self.masks, statistics)

    def _figures(self, odds: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> AreaFigures:
        return area_figures(
            self.truth[chosen],
            odds[chosen],
            self.patients[chosen],
            classes=self._analysis.task.classes,
        )

    @cached_property
    def _lungs(self) -> npt.NDArray[np.float64]:
        """Share of each film that is lung, then share of its heat outside; NaN where unknown."""
        found = np.full((2, len(self.truth)), np.nan)
        if self.masks is None:
            return found
        cells = int(self._table.provenance["heatmap_size"])
        predicted = self._analysis.scores.predicted[self._analysis.chosen]
        for rows in batches_of(np.flatnonzero(~self.masks.doubted), MASKED_AT_ONCE):
            lungs = self.masks.take(rows)
            places = self._analysis.rows[rows].tolist()
            stored = self._table.take(places, ["heatmaps"])["heatmaps"].to_pylist()
            levels = np.frombuffer(b"".join(stored), np.uint8)
            maps = levels.reshape(len(rows), -1, cells, cells)
            found[0, rows] = lungs.mean(axis=(1, 2))
            found[1, rows] = heat_outside(maps[np.arange(len(rows)), predicted[rows]], lungs)
        return found

    @property
    def lung_area(self) -> npt.NDArray[np.float64]:
        """Share of each film that is lung, shape (n,); NaN without a sure mask."""
        area: npt.NDArray[np.float64] = self._lungs[0]
        return area

    @property
    def heat_outside(self) -> npt.NDArray[np.float64]:
        """Share of the predicted class's heat map outside the lungs, shape (n,); NaN likewise."""
        outside: npt.NDArray[np.float64] = self._lungs[1]
        return outside

    def heat(self) -> tuple[HeatShare, ...]:
        """Return the share of heat outside the lungs by predicted class; empty without masks."""
        if self.masks is None:
            return ()
        predicted = self._analysis.scores.predicted[self._analysis.chosen]
        return heat_shares(
            self.heat_outside,
            1.0 - self.lung_area,
            predicted.astype(np.int64),
            self.patients,
            classes=self._table.classes,
        )

    def shown(self) -> tuple[TreatedFilm, ...]:
        """Choose one film of each class, of up to four, and return it under each treatment.

        It is the film whose class is surest, of those that have all treatments if there is one.
        Films whose header says that text may be burned into them are never shown.
        """
        probabilities = self.probabilities()
        whole, found = probabilities[WHOLE], []
        full = np.sum([~np.isnan(p).any(axis=1) for p in probabilities.values()], axis=0)
        for number in np.unique(self.truth)[:_MOST_SHOWN]:
            rows = np.flatnonzero((self.truth == number) & self.films.is_read & self._may_be_shown)
            if len(rows):
                best = rows[np.lexsort((-whole[rows, number], -full[rows]))[0]]
                found.append(self._treated(int(best), probabilities))
        return tuple(found)

    @cached_property
    def _may_be_shown(self) -> npt.NDArray[np.bool_]:
        flags = self._table.take(self._analysis.rows.tolist(), ["image_flags"])["image_flags"]
        risk = Flag.BURNED_IN_RISK.value
        return np.array([risk not in (own or ()) for own in flags.to_pylist()], np.bool_)

    def _treated(
        self, row: int, probabilities: Mapping[str, npt.NDArray[np.float32]]
    ) -> TreatedFilm:
        classes, shown = self._analysis.task.classes, []
        for treatment in (_UNTREATED, *TREATMENTS):
            told = probabilities.get(treatment.name)
            if told is None or np.isnan(told[row]).any():
                continue
            film: Films = treat(treatment, self.films, self.masks, np.array([row]))
            best = int(told[row].argmax())
            shown.append(ShownFilm(treatment.name, film[0], classes[best], float(told[row, best])))
        return TreatedFilm(
            classes[self.truth[row]], int(self._analysis.rows[row]) + 1, tuple(shown)
        )
