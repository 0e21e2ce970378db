"""What a card says of its model's controls is on the page, whatever the card holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from pages import TableMaker, nodes, report, text_of

PLAIN = {"n": 12, "balanced_accuracy": 0.25, "macro_auc": 0.515}
CONTROLS: dict[str, Any] = {
    "on": "test",
    "as they are": {**PLAIN, "macro_auc": 0.97},
    "lungs blacked out": PLAIN,
    "lungs mean": {**PLAIN, "n": 11},
    "lungs noise": {"n": 0, "undefined": "no mask"},
    "border only": {**PLAIN, "macro_auc": None},
    "within sources": {"Kermany": PLAIN, "RSNA": {"n": 3, "undefined": "one class only"}},
    "twins": {
        "n": 317,
        "of_training": 251,
        "mean_change": {"Normal": {"value": 0.111, "interval": [0.101, 0.121]}},
        "same_class": {"value": 0.853, "interval": [0.81, 0.89]},
    },
}


def card_of(controls: object) -> dict[str, str]:
    return {"card": json.dumps({"name": "m", "training": {"controls": controls}})}


def test_the_controls_of_the_card_are_on_the_page(make_table: TableMaker) -> None:
    table = make_table([(0, 0), (1, 1)], provenance=card_of(CONTROLS))
    figures = table.with_name("f.json")
    text = text_of(report(table, "--json", str(figures)))
    assert "What the model was checked for" in text
    assert "images of test n balanced accuracy macro AUC" in text
    assert "lungs blacked out 12 0.250 0.515" in text
    assert "lungs mean 11 0.250 0.515" in text
    assert "lungs noise" not in text
    assert "border only 12 0.250 –" in text
    assert "source Kermany alone 12" in text
    assert "RSNA" not in text
    assert "Of 317 pairs, 251 of them of training films" in text
    assert "0.853 (0.810–0.890)" in text
    assert "Normal 0.111 (0.101–0.121) n 317" in text
    found = json.loads(figures.read_text())["model_checks"]
    assert found["twins"]["same_class"]["value"] == 0.853
    assert [each["name"] for each in found["controls"]][:2] == ["as they are", "lungs blacked out"]


@pytest.mark.parametrize(
    "controls",
    [
        None,
        3,
        [],
        {},
        {"as they are": 4, "twins": "x", "within sources": [1]},
        {"as they are": {"macro_auc": 1e999, "balanced_accuracy": -1}, "twins": {"n": True}},
        {"twins": {"n": 0, "missing": 4}},
        {"border only": {"n": 3, "macro_auc": "<b>0.5</b>"}, "twins": {"n": -3}},
    ],
)
def test_a_card_without_such_figures_has_no_section(
    make_table: TableMaker, controls: object
) -> None:
    table = make_table([(0, 0), (1, 1)], provenance=card_of(controls))
    assert "checked for" not in text_of(report(table))


def test_hostile_names_and_figures_stay_text(make_table: TableMaker) -> None:
    def page_with(name: str, odd: object) -> Path:
        twins = {
            "n": 5,
            "of_training": odd,
            "same_class": {"value": 0.5, "interval": odd},
            "mean_change": {name: {"value": odd}, "x": {"value": 0.5, "interval": [0.6, 0.7]}},
        }
        named = {"on": odd, "within sources": {name: {**PLAIN, "n": odd}}, "twins": twins}
        return report(make_table([(0, 0), (1, 1)], provenance=card_of(named)))

    plain = nodes(page_with("plain", None))
    for odd in ("<script>", [1, 2, 3], ["a", "b"], {"x": 1}, 1e999, -1, True, 10**400):
        assert nodes(page_with("</dl><script>alert(1)</script>\u202e", odd)) == plain
    sources = {str(number): PLAIN for number in range(1000)}
    many = {"within sources": sources, "twins": None}
    text = text_of(report(make_table([(0, 0), (1, 1)], provenance=card_of(many))))
    assert text.count("alone 12") == 20
