"""The verdict's rules: what is named needs area, interval and half of the lead, and no more."""

from dataclasses import replace

import pytest

from cxrbatch.auditing.areas import AreaFigures
from cxrbatch.auditing.attributes import Attribute
from cxrbatch.auditing.baselines import Baseline
from cxrbatch.auditing.treatments import TREATMENTS
from cxrbatch.auditing.verdict import Evidence, TreatmentResult, judge
from cxrbatch.results.figures import Figure


def area(value: float | None, *, half: float = 0.03) -> Figure:
    if value is None:
        return Figure(None, None, None, 0, None, "there is no film")
    return Figure(value, value - half, min(value + half, 1.0), 200, "DeLong")


def figures(value: float | None, *, half: float = 0.03) -> AreaFigures:
    return AreaFigures(200, 190, area(0.7), area(0.7), area(value, half=half), {})


def evidence(
    treated: dict[str, float | None] | None = None,
    *,
    whole: float | None = 0.95,
    half: float = 0.03,
    header: float | None = None,
    attributes: tuple[Attribute, ...] = (),
    masks: tuple[int, int] = (200, 3),
) -> Evidence:
    """All treatments at chance but for some."""
    found = {
        t.name: TreatmentResult(
            t.name, "", figures((treated or {}).get(t.name, 0.5), half=half), area(whole), None
        )
        for t in TREATMENTS
    }
    baselines = {"header facts": Baseline("header facts", ("sex",), figures(header), None)}
    return Evidence(figures(whole), found, baselines, attributes, masks, 0)


def named(of: Evidence) -> list[str]:
    return [each.name for each in judge(of).accused]


def test_a_model_at_chance_everywhere_else_is_not_accused() -> None:
    verdict = judge(evidence())
    assert verdict.accused == ()
    assert "No shortcut that this audit looks for is named" in verdict.text
    assert "3 of 200 masks are doubtful" in verdict.text


@pytest.mark.parametrize(
    ("treated", "expected"),
    [
        ({"corners only": 0.9, "border only": 0.9, "lung box black": 0.9}, ["corner or marker"]),
        ({"edges only": 0.9, "border only": 0.9, "lung box black": 0.9}, ["border"]),
        ({"edges only": 0.9, "corners only": 0.9, "corners hidden": 0.94}, ["border"]),
        (
            {"edges only": 0.9, "corners only": 0.9, "corners hidden": 0.6},
            ["border", "corner or marker"],
        ),
        ({"border only": 0.8}, ["border"]),
        ({"lung box black": 0.8}, ["area outside the lungs"]),
        ({"lungs black": 0.8, "lungs mean": 0.8, "lungs noise": 0.8}, []),
        (
            dict.fromkeys(("lungs black", "lungs mean", "lungs noise", "lungs blurred"), 0.8),
            ["surroundings of the lungs"],
        ),
        ({"silhouette only": 0.8}, ["lung silhouette"]),
        ({"lungs only": 0.9, "mirrored": 0.9, "blurred to 16 px": 0.9}, []),
    ],
)
def test_each_shortcut_is_named_by_its_figures(
    treated: dict[str, float | None], expected: list[str]
) -> None:
    assert named(evidence({"corners hidden": 0.95} | treated)) == expected


def test_area_interval_and_half_of_the_lead_are_all_needed() -> None:
    assert named(evidence({"lung box black": 0.74})) == ["area outside the lungs"]
    assert named(evidence({"lung box black": 0.72})) == [], "less than half of the lead of 0.45"
    assert named(evidence({"lung box black": 0.8}, half=0.3)) == [], "the interval holds chance"
    assert named(evidence({"lung box black": 0.59}, whole=0.6)) == [], "too near chance"


def test_what_sees_no_pixel_is_named() -> None:
    assert named(evidence(header=0.9)) == ["header facts"]
    assert named(evidence(header=0.6)) == []


def test_an_attribute_needs_the_class_and_the_scores() -> None:
    told = Attribute("source", (("x", 9),), area(0.9), area(0.8), area(0.9))
    assert named(evidence(attributes=(told,))) == ["source"]
    assert "source (0.800" in judge(evidence(attributes=(told,))).text
    unused = replace(told, told_within_classes=area(0.5))
    assert named(evidence(attributes=(unused,))) == []
    harmless = replace(told, tells_truth=area(0.5))
    assert named(evidence(attributes=(harmless,))) == []
    inseparable = replace(told, told_within_classes=area(None))
    assert named(evidence(attributes=(inseparable,))) == ["source"]


def test_without_an_area_nothing_is_judged() -> None:
    verdict = judge(evidence({"edges only": 0.9}, whole=None))
    assert (verdict.is_possible, verdict.accused) == (False, ())
    assert "there is no film" in verdict.text


def test_missing_masks_are_said() -> None:
    verdict = judge(evidence(masks=(0, 0)))
    assert "The lungs were not looked for" in verdict.text
    assert "Without the lungs it keeps" not in verdict.text
