"""The figures of an audit, its verdict, and what receives its progress."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cxrbatch.auditing.areas import AreaFigures
from cxrbatch.auditing.attributes import Attribute
from cxrbatch.auditing.baselines import (
    Baseline,
)
from cxrbatch.auditing.heat import HeatShare
from cxrbatch.auditing.treated import TreatedFilm
from cxrbatch.auditing.verdict import TreatmentResult, Verdict
from cxrbatch.results.analysis import Flow
from cxrbatch.scoring.run import Progress


class AuditListener:
    """Receives the progress of an audit; here nothing is done, a subclass shows it.

    Attributes:
        scoring: Receives the progress of the first pass, over the archive.
    """

    scoring: Progress = Progress()

    def begin(self, films: int) -> None:
        """Do nothing; called before films are read again.

        Args:
            films: How many films will be read, masked and scored, each counted in each pass.
        """

    def advance(self, films: int) -> None:
        """Do nothing; called when so many films more were read, masked or scored."""


@dataclass(frozen=True, slots=True)
class Audit:
    """All figures of an audit, its verdict, and films to show.

    Attributes:
        model: Name of the model.
        checkpoint_sha256: Hash of its file.
        classes: The classes that the truth tells apart.
        truth_source: Where the truth comes from.
        truth_notes: What was done with the labels beside joining them, a sentence each.
        truth_warnings: What to mend in the labels first, a line each.
        flow: How many images were left out of the audit, and why.
        whole: Figures of the whole films.
        treatments: Figures of the treated films; those that could not be scored say why.
        baselines: What sees no pixel.
        attributes: Source, view, sex, age, device and format.
        heat: Share of the heat maps outside the lungs.
        masks: Number of films whose lungs were looked for.
        doubted: Number of those whose mask is doubtful.
        lost: Why films could not be read again -> their number.
        notes: What could not be computed, and why.
        verdict: The verdict.
        shown: Films under each treatment.
    """

    model: str
    checkpoint_sha256: str
    classes: tuple[str, ...]
    truth_source: str
    truth_notes: tuple[str, ...]
    truth_warnings: tuple[str, ...]
    flow: Flow
    whole: AreaFigures
    treatments: tuple[TreatmentResult, ...]
    baselines: tuple[Baseline, ...]
    attributes: tuple[Attribute, ...]
    heat: tuple[HeatShare, ...]
    masks: int
    doubted: int
    lost: Mapping[str, int]
    notes: tuple[str, ...]
    verdict: Verdict
    shown: tuple[TreatedFilm, ...] = field(default=(), repr=False)

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON values, without pictures and scores of single films."""
        names = [name for name in self.__dataclass_fields__ if name != "shown"]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: object) -> object:
    """Return dataclasses, tuples and mappings as JSON has them, without the scores of films."""
    if isinstance(value, Baseline):
        return {n: _plain(getattr(value, n)) for n in ("name", "facts", "figures", "leading")}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return value
