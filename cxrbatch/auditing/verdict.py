"""The verdict of an audit: which shortcuts it names, by stated rules, and a paragraph of words.

A shortcut is named where it gives at least half of what the whole film gives above chance, and
where its interval keeps clear of chance. Being named is no proof that the model uses it alone, and
not being named is no proof that there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cxrbatch.auditing.areas import AreaFigures, lower_bound
from cxrbatch.auditing.attributes import Attribute
from cxrbatch.auditing.baselines import Baseline
from cxrbatch.auditing.treatments import (
    BORDER,
    BOX,
    CORNERS,
    EDGES,
    FILLS,
    HIDDEN,
    LUNGS_ONLY,
    SILHOUETTE,
)
from cxrbatch.results.figures import Figure

CHANCE = 0.5
LEAST_AREA, LEAST_LOW = 0.6, 0.55
"""A macro AUC that is named is 0.6 at least, and its lower bound 0.55: with some hundred films
chance alone seldom gives either, and a smaller area matters little."""

SHARE_OF_LEAD = 0.5
"""It is at least half of the whole film's lead over chance: the model could do half as well."""

SHARE_OF_LOSS = 0.25
"""Share of the lead that hiding the corners costs where they count beside a whole border."""

CORNER_NAME, BORDER_NAME = "corner or marker", "border"
OUTSIDE_NAME, AROUND_NAME = "area outside the lungs", "surroundings of the lungs"
SILHOUETTE_NAME = "lung silhouette"


@dataclass(frozen=True, slots=True)
class TreatmentResult:
    """What the network makes of films under one treatment.

    Attributes:
        name: Of the treatment.
        shows: What a score on such films says.
        figures: Of the treated films.
        untreated: Macro AUC of the same films as they are.
        distance: Median squared Mahalanobis distance of the features from the training films', as
            a multiple of that of the whole films; None where unknown.
    """

    name: str
    shows: str
    figures: AreaFigures
    untreated: Figure
    distance: float | None

    @property
    def lead_kept(self) -> float | None:
        """Share of the lead over chance that the treatment leaves; None where undefined."""
        kept, whole = self.figures.macro_auc.value, self.untreated.value
        if kept is None or whole is None or whole <= CHANCE:
            return None
        return (kept - CHANCE) / (whole - CHANCE)


@dataclass(frozen=True, slots=True)
class Accusation:
    """A shortcut that an audit names.

    Attributes:
        name: What it is, such as "border".
        evidence: The rule's figures in words.
    """

    name: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of an audit.

    Attributes:
        is_possible: Whether there is anything to judge: the whole films have a macro AUC.
        accused: The shortcuts that are named.
        text: One paragraph of plain words.
    """

    is_possible: bool
    accused: tuple[Accusation, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All figures that a verdict is made of.

    Attributes:
        whole: Of the whole films.
        treatments: By name.
        baselines: By name.
        attributes: Of the films.
        masks: Number of films with a mask, and number of those whose mask is doubted.
        lost: Number of films that could not be read again.
    """

    whole: AreaFigures
    treatments: Mapping[str, TreatmentResult]
    baselines: Mapping[str, Baseline]
    attributes: Sequence[Attribute]
    masks: tuple[int, int]
    lost: int


def is_clear(figure: Figure) -> bool:
    """Whether an area is 0.6 at least and its lower bound 0.55 at least."""
    low = lower_bound(figure)
    return figure.value is not None and figure.value >= LEAST_AREA and (low or 0.0) >= LEAST_LOW


def keeps_lead(figure: Figure, whole: Figure) -> bool:
    """Whether an area is clear of chance, and at least half as far above it as the whole film's."""
    if figure.value is None or whole.value is None or not is_clear(figure):
        return False
    return figure.value - CHANCE >= SHARE_OF_LEAD * (whole.value - CHANCE)


def judge(evidence: Evidence) -> Verdict:
    """Apply the rules to the figures of an audit, and put them into words."""
    is_possible = evidence.whole.macro_auc.value is not None
    accused = tuple(_accusations(evidence)) if is_possible else ()
    if is_possible:
        text = " ".join([*_sentences(evidence), _conclusion(evidence, accused)])
    else:
        text = (
            f"Nothing can be judged: on these {evidence.whole.films:,} films the macro AUC of the "
            f"whole films is undefined, as {evidence.whole.macro_auc.undefined}. The accuracy is "
            f"{_text(evidence.whole.accuracy)}; what else can be calculated is shown."
        )
    return Verdict(is_possible, accused, text)


def _accusations(evidence: Evidence) -> Iterator[Accusation]:
    local = [*_at_the_rim(evidence)]
    yield from local
    # Without lungs all of a border stays: it explains what is left, and is named already.
    if not local:
        yield from _outside(evidence)
    if _passes(evidence, SILHOUETTE.name):
        yield Accusation(SILHOUETTE_NAME, _kept(evidence, SILHOUETTE.name))
    for name, found in evidence.baselines.items():
        if keeps_lead(found.figures.macro_auc, evidence.whole.macro_auc):
            told = f"a model that sees no pixel reaches {_text(found.figures.macro_auc)}"
            most = "" if found.leading is None else f"; {found.leading[0]} alone tells most"
            area = "" if found.leading is None else f" ({found.leading[1]:.3f})"
            yield Accusation(name, f"{told}{most}{area}")
    for each in evidence.attributes:
        if keeps_lead(each.tells_truth, evidence.whole.macro_auc) and _is_told(each):
            yield Accusation(each.name, _told(each))


def _at_the_rim(evidence: Evidence) -> Iterator[Accusation]:
    edges, corners = _passes(evidence, EDGES.name), _passes(evidence, CORNERS.name)
    if edges or (_passes(evidence, BORDER.name) and not corners):
        name = EDGES.name if edges else BORDER.name
        yield Accusation(BORDER_NAME, _kept(evidence, name))
    if corners and (not edges or _loses(evidence, HIDDEN.name)):
        yield Accusation(CORNER_NAME, _kept(evidence, CORNERS.name))


def _outside(evidence: Evidence) -> Iterator[Accusation]:
    if _passes(evidence, BOX.name):
        yield Accusation(OUTSIDE_NAME, _kept(evidence, BOX.name))
    elif all(_passes(evidence, fill.name) for fill in FILLS):
        areas = {f: evidence.treatments[f.name].figures.macro_auc.value or 0.0 for f in FILLS}
        least = min(FILLS, key=areas.__getitem__)
        box = evidence.treatments[BOX.name].figures.macro_auc
        yield Accusation(
            AROUND_NAME,
            f"under every fill much is left, at least {_kept(evidence, least.name)}; under a box "
            f"over both lungs {_text(box)}: it lies in heart, rim or outline of the lungs, or in "
            "shadows that the masks leave out",
        )


def _is_told(each: Attribute) -> bool:
    """Whether the scores tell an attribute beyond the class, or nothing can separate the two."""
    within = each.told_within_classes
    return within.value is None or is_clear(within)


def _told(each: Attribute) -> str:
    within = each.told_within_classes
    beyond = (
        "no class has two values of it, so that nothing tells it from disease here"
        if within.value is None
        else f"the scores tell it within the classes with {_text(within)}"
    )
    return f"it tells the class with a macro AUC of {_text(each.tells_truth)}, and {beyond}"


def _passes(evidence: Evidence, name: str) -> bool:
    result = evidence.treatments.get(name)
    return result is not None and keeps_lead(result.figures.macro_auc, result.untreated)


def _loses(evidence: Evidence, name: str) -> bool:
    result = evidence.treatments.get(name)
    kept = result.lead_kept if result is not None else None
    return kept is not None and kept <= 1.0 - SHARE_OF_LOSS


def _kept(evidence: Evidence, name: str) -> str:
    result = evidence.treatments[name]
    return f"{name}: macro AUC {_text(result.figures.macro_auc)}, {_share(result)} of the lead"


def _share(result: TreatmentResult) -> str:
    return "all" if result.lead_kept is None else f"{result.lead_kept:.0%}"


def _text(figure: Figure) -> str:
    if figure.value is None:
        return f"undefined ({figure.undefined})"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _sentences(evidence: Evidence) -> Iterator[str]:
    whole = evidence.whole
    yield (
        f"On {whole.films:,} films of {whole.patients:,} patients the model reaches a macro AUC of "
        f"{_text(whole.macro_auc)}."
    )
    if evidence.lost:
        yield f"{evidence.lost:,} films could not be read again and have no treatment."
    masks, doubted = evidence.masks
    if fills := masks and _listing(evidence, _FILL_WORDS):
        yield f"Without the lungs it keeps {fills}."
    if lungs := masks and _listing(evidence, _LUNG_WORDS):
        yield _sentence(lungs)
    if doubted:
        yield f"{doubted:,} of {masks:,} masks are doubtful; these films are left out there."
    if found := _listing(evidence, _RIM_WORDS):
        yield _sentence(found)
    told = [
        f"{name} give {_text(each.figures.macro_auc)}"
        for name, each in evidence.baselines.items()
        if each.figures.macro_auc.value is not None
    ]
    if told:
        yield f"Without a pixel, {', '.join(told)}."
    clear = [each for each in evidence.attributes if is_clear(each.told_within_classes)]
    if clear:
        names = ", ".join(f"{each.name} ({_text(each.told_within_classes)})" for each in clear)
        yield f"Among films of one class its scores tell {names}."


_FILL_WORDS = dict(
    zip(
        (fill.name for fill in FILLS),
        ("{} where they are black", "{} with the mean", "{} with noise", "{} where blurred"),
        strict=True,
    )
)
_LUNG_WORDS = {
    LUNGS_ONLY.name: "the lungs alone give {}",
    BOX.name: "a black box over them leaves {}",
    SILHOUETTE.name: "their silhouette gives {}",
}
_RIM_WORDS = {
    BORDER.name: "the border alone gives {}",
    CORNERS.name: "the corners give {}",
    HIDDEN.name: "with corners and markers hidden {} is left",
}


def _listing(evidence: Evidence, words: Mapping[str, str]) -> str:
    """Put the areas of some treatments into words, divided by commas; undefined ones are left out.

    Empty if all are undefined.

    Args:
        evidence: The figures.
        words: Name of a treatment -> words, with {} for the area.
    """
    known = [
        text.format(_text(result.figures.macro_auc))
        for name, text in words.items()
        if (result := evidence.treatments.get(name)) and result.figures.macro_auc.value is not None
    ]
    return ", ".join(known)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _conclusion(evidence: Evidence, accused: Sequence[Accusation]) -> str:
    if accused:
        names = ", ".join(each.name for each in accused)
        return (
            f"Named as shortcuts: {names}. Each gives at least half of the lead over chance that "
            "the whole films give: these figures do not show that the model sees disease."
        )
    missing = "" if evidence.masks[0] else " The lungs were not looked for, so that is not judged."
    return (
        "No shortcut that this audit looks for is named. That is no proof that there is none."
        f"{missing}"
    )
