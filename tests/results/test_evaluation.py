"""Every figure against scikit-learn on a thousand tables, and what is undefined."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as authority

from cxrbatch.results.statistics.calculation import evaluate_scores, evaluate_subgroup
from cxrbatch.results.statistics.curves import Ranking
from cxrbatch.results.statistics.decisions import BY_CLASS, OVERALL, Decisions
from cxrbatch.results.statistics.intervals import wilson
from cxrbatch.results.statistics.reliability import Reliability

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
STUDY = ((99, 0, 0, 1), (8, 92, 0, 0), (2, 0, 96, 2), (11, 0, 0, 89))
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, *, most: int = 40) -> Drawn:
    """Truth, probabilities and groups; scores tie, classes are empty or never predicted."""
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(1, most)), int(rng.integers(2, 5))
    truth = rng.choice(rng.permutation(classes)[: rng.integers(1, classes + 1)], n)
    raw = np.round(rng.random((n, classes)) + 0.4 * np.eye(classes)[truth], 1) + 0.1
    raw[:, rng.integers(classes)] *= rng.choice([0.01, 1.0])
    probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    return truth, probabilities, rng.integers(0, max(n // 2, 1), n)


def of_counts(counts: tuple[tuple[int, ...], ...]) -> Drawn:
    pairs = [(t, p) for t, row in enumerate(counts) for p, n in enumerate(row) for _ in range(n)]
    truth, predicted = np.array(pairs).T
    return truth, np.full((len(truth), 4), 0.1) + 0.6 * np.eye(4)[predicted], np.arange(len(truth))


def once(n: int) -> np.ndarray:
    return np.ones((1, n), np.int32)


def nan_if(undefined: bool, value: float) -> float:
    return np.nan if undefined else float(value)


def expected_decisions(truth: np.ndarray, predicted: np.ndarray, classes: int) -> Iterator[float]:
    yield authority.accuracy_score(truth, predicted)
    yield authority.recall_score(
        truth, predicted, labels=np.unique(truth), average="macro", zero_division=0.0
    )
    yield authority.f1_score(truth, predicted, average="macro")
    for c in range(classes):
        true, called = truth == c, predicted == c
        options = {"zero_division": 0.0}
        yield nan_if(not true.any(), authority.recall_score(true, called, **options))
        yield nan_if(true.all(), authority.recall_score(~true, ~called, **options))
        yield nan_if(not called.any(), authority.precision_score(true, called, **options))
        yield nan_if(called.all(), authority.precision_score(~true, ~called, **options))
        yield nan_if(not (true | called).any(), authority.f1_score(true, called, **options))


def test_decisions_of_a_thousand_tables() -> None:
    for seed in range(1000):
        truth, probabilities, groups = drawn(seed)
        classes = probabilities.shape[1]
        found = Decisions(truth, probabilities, groups).statistics(once(len(truth)))[0]
        expected = list(expected_decisions(truth, probabilities.argmax(axis=1), classes))
        assert len(found) == len(OVERALL) + classes * len(BY_CLASS)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_areas_of_a_thousand_tables_under_weights() -> None:
    """A weight of 2 is an image that stands there twice."""
    for seed in range(1000):
        truth, probabilities, _ = drawn(seed)
        positive, score = truth == 0, probabilities[:, 0]
        weights = np.random.default_rng(seed).integers(0, 3, (3, len(truth))).astype(np.int32)
        curves = Ranking(positive, score).curves(weights)
        cut = int(np.count_nonzero(score >= 0.3))
        rates = curves.at(cut)
        for row, weight in enumerate(weights):
            if len(np.unique(positive[weight > 0])) == 2:
                area = authority.roc_auc_score(positive, score, sample_weight=weight)
                assert curves.auc[row] == pytest.approx(area, abs=1e-9)
            else:
                assert np.isnan(curves.auc[row])
            if positive[weight > 0].any():
                precision = authority.average_precision_score(positive, score, sample_weight=weight)
                assert curves.average_precision[row] == pytest.approx(precision, abs=1e-9)
                recall = authority.recall_score(positive, score >= 0.3, sample_weight=weight)
                assert rates.sensitivity[row] == pytest.approx(recall, abs=1e-9)
            else:
                assert np.isnan(curves.average_precision[row])


def test_calibration_of_a_thousand_tables() -> None:
    for seed in range(1000):
        truth, probabilities, _ = drawn(seed)
        ece, brier = Reliability(truth, probabilities).statistics(once(len(truth)))[0]
        own = np.eye(probabilities.shape[1])[truth]
        squares = np.square(probabilities.astype(np.float64) - own).sum(axis=1)
        assert brier == pytest.approx(squares.mean(), abs=1e-9)
        # Rows of 32-bit numbers add up to 1 only nearly; scikit-learn wants them exact.
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        expected = authority.brier_score_loss(
            truth, exact, labels=np.arange(exact.shape[1]), scale_by_half=False
        )
        found = Reliability(truth, exact).statistics(once(len(truth)))[0, 1]
        assert found == pytest.approx(expected, abs=1e-9)
        confidence = probabilities.max(axis=1).astype(np.float64)
        right = probabilities.argmax(axis=1) == truth
        gaps = 0.0
        for index in range(15):
            inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
            gaps += abs((right[inside] - confidence[inside]).sum())
        assert ece == pytest.approx(gaps / len(truth), abs=1e-9)


def test_the_seed_study() -> None:
    found = evaluate_scores(*of_counts(STUDY), classes=CLASSES)
    assert found.confusion == STUDY
    assert found.accuracy == found.accuracy_of_images
    assert found.accuracy.value == 0.94
    assert (round(found.accuracy.low or 0, 3), round(found.accuracy.high or 0, 3)) == (0.912, 0.959)
    assert found.accuracy.method == "Wilson"
    covid = found.classes[1]
    assert (covid.images, covid.predicted) == (100, 92)
    assert (covid.sensitivity.value, covid.sensitivity.n) == (0.92, 100)
    assert (covid.ppv.value, covid.ppv.n) == (1.0, 92)
    assert (covid.ppv.low, covid.ppv.high) == wilson(92, 92)


def test_figures_are_whole_and_ready_for_json() -> None:
    """Of any table; what has no value or no interval says why."""
    for seed in range(25):
        truth, probabilities, groups = drawn(seed, most=90)
        names = ("NORMAL", "B", "C", "D")[: probabilities.shape[1]]
        logits = np.log(probabilities) * 2.0
        stated = {"B": 0.1}
        found = evaluate_scores(
            truth, probabilities, groups, classes=names, logits=logits, prevalence=stated
        )
        text = json.dumps(asdict(found), allow_nan=False)
        for figure in figures_in(json.loads(text)):
            assert (figure["value"] is None or figure["low"] is None) == bool(figure["undefined"])
            assert (figure["low"] is None) == (figure["high"] is None) == (figure["method"] is None)
            if figure["low"] is not None:
                assert figure["low"] <= figure["high"]
        assert sum(map(sum, found.confusion)) == found.images == len(truth)


def figures_in(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        if "undefined" in value:
            yield value
        for inner in value.values():
            yield from figures_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from figures_in(inner)


@pytest.mark.parametrize("n", [0, 1])
def test_no_image_and_one(n: int) -> None:
    found = evaluate_scores(
        np.zeros(n, int), np.full((n, 2), 0.5), np.arange(n), classes=("Normal", "B"), seed=1
    )
    assert found.images == found.patients == n
    assert (found.accuracy.value, found.accuracy.undefined) == (
        (1.0, None) if n else (None, "no images")
    )
    assert found.classes[1].sensitivity.undefined == "no image is of this class"
    assert found.classes[1].auc.undefined == "no image is of this class"
    assert found.classes[1].points == ()
    assert found.triage is not None
    assert found.triage.rules == ()
    assert evaluate_subgroup(
        np.zeros(n, int), np.full((n, 2), 0.5), np.arange(n), classes=("Normal", "B")
    ).macro_auc.undefined


def test_one_class_only_and_a_class_never_predicted() -> None:
    probabilities = np.tile([0.7, 0.2, 0.1], (8, 1))
    found = evaluate_scores(np.zeros(8, int), probabilities, np.arange(8), classes=("A", "B", "C"))
    first, second, _ = found.classes
    assert first.specificity.undefined == first.auc.undefined == "every image is of this class"
    assert second.ppv.undefined == "this class is never predicted"
    assert first.npv.undefined == "this class is always predicted"
    assert found.macro_auc.value is None
    assert found.triage is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full((4, 2), np.nan)}, "not finite"),
        ({"logits": np.full((4, 2), np.inf)}, "not finite"),
        ({"truth": np.array([0, 1, 2, 0])}, "no class index"),
        ({"groups": np.arange(3)}, "different images"),
        ({"classes": ("A",)}, "different images"),
        ({"prevalence": {"A": 1.0}}, "prevalence"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    given = {
        "truth": np.array([0, 1, 0, 1]),
        "probabilities": np.full((4, 2), 0.5),
        "groups": np.arange(4),
        "classes": ("A", "B"),
    }
    with pytest.raises(ValueError, match=message):
        evaluate_scores(**(given | change))


def test_operating_points_triage_and_prevalence() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 300)
    probabilities = softmax(rng.normal(size=(300, 3)) + 1.5 * np.eye(3)[truth], axis=1)
    found = evaluate_scores(
        truth,
        probabilities,
        np.arange(300),
        classes=("normal", "B", "C"),
        prevalence={"B": 0.02},
        thresholds={"B": {"youden": 0.4}},
    )
    assert [(p.name, p.chosen_on) for p in found.classes[1].points] == [
        *((name, "these images") for name in ("youden", "sensitive", "specific")),
        ("youden", "validation"),
    ]
    given = found.classes[1].points[-1]
    called = probabilities[:, 1] >= 0.4
    sensitivity, specificity = called[truth == 1].mean(), 1 - called[truth != 1].mean()
    assert given.sensitivity.value == pytest.approx(sensitivity)
    assert given.ppv_at_prevalence is not None
    assert given.ppv_at_prevalence.value == pytest.approx(
        0.02 * sensitivity / (0.02 * sensitivity + 0.98 * (1 - specificity))
    )
    assert found.classes[0].points[0].ppv_at_prevalence is None
    assert found.triage is not None
    for rule in found.triage.rules:
        kept = 1 - probabilities[:, 0] >= rule.threshold
        assert rule.sensitivity.value == pytest.approx(kept[truth > 0].mean())
        assert rule.sensitivity.value >= rule.target
        assert rule.ruled_out.value == pytest.approx(1 - kept.mean())
    assert found.triage.auc.value == pytest.approx(
        authority.roc_auc_score(truth > 0, 1 - probabilities[:, 0])
    )


def test_patients_with_several_images_widen_what_they_should() -> None:
    truth, probabilities, _ = drawn(11, most=60)
    copies = [np.repeat(values, 6, axis=0) for values in (truth, probabilities)]
    patients = np.repeat(np.arange(len(truth)), 6)
    names = tuple("ABCD"[: probabilities.shape[1]])
    found = evaluate_scores(*copies, patients, classes=names)
    assert found.accuracy.method == "patient bootstrap"
    assert found.accuracy_of_images.method == "Wilson"
    widths = [f.high - f.low for f in (found.accuracy, found.accuracy_of_images)]
    assert widths[0] > 1.8 * widths[1]
    sub = evaluate_subgroup(*copies, patients, classes=names)
    assert (sub.accuracy, sub.images) == (found.accuracy, found.images)
    assert sub.macro_auc.value == pytest.approx(found.macro_auc.value)
