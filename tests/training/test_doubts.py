"""Labels are ranked by how little the network believes them, and likely errors are found."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from cxrbatch.training.doubts import find_doubts, write_doubted_pictures, write_doubts

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia")


def planted(seed: int, *, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True classes, labels of which a tenth is wrong, and scores that follow the truth loosely."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    labels = truth.copy()
    wrong = rng.choice(count, count // 10, replace=False)
    labels[wrong] = (truth[wrong] + rng.integers(1, 3, len(wrong))) % 3
    logits = rng.normal(size=(count, 3)) + 2.5 * np.eye(3)[truth]
    return truth, labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_an_example_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    # Thresholds: (0.9 + 0.2) / 2 = 0.55 and (0.7 + 0.55) / 2 = 0.625.
    found = find_doubts(labels, p)
    assert found.order.tolist() == [1, 3, 2, 0]
    assert found.likely_wrong.tolist() == [False, True, False, False]
    assert found.suggested.tolist() == [1, 1, 0, 0]


def test_a_suggestion_reaches_its_threshold_where_one_does() -> None:
    """The second class is more probable, but less so than for its own images."""
    labels = np.array([0, 1, 2, 0])
    p = np.array([[0.25, 0.4, 0.35], [0.05, 0.9, 0.05], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1]])
    found = find_doubts(labels, p)
    assert found.suggested[0] == 2
    assert found.likely_wrong[0]


@pytest.mark.parametrize("seed", range(3))
def test_likely_errors_are_the_off_diagonal_of_the_confident_joint(seed: int) -> None:
    _, labels, p = planted(seed)
    thresholds = np.array([p[labels == c][:, c].mean() for c in range(3)])
    confident = np.flatnonzero((p >= thresholds).any(axis=1))
    counted = [max(np.flatnonzero(p[i] >= thresholds), key=lambda c: p[i, c]) for i in confident]
    joint = confusion_matrix(labels[confident], counted)
    found = find_doubts(labels, p)
    assert found.likely_wrong.sum() == joint.sum() - joint.trace()
    wrong = found.likely_wrong[confident]
    assert (found.suggested[confident][wrong] == np.array(counted)[wrong]).all()


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_come_first(seed: int) -> None:
    truth, labels, p = planted(seed)
    found = find_doubts(labels, p)
    assert sorted(found.order.tolist()) == [*range(len(labels))]
    assert (np.diff(p[np.arange(len(p)), labels][found.order]) >= 0).all()
    first = found.order[: int(0.15 * len(labels))]
    assert (truth != labels)[first].sum() >= 0.6 * (truth != labels).sum()


def test_a_class_without_an_image_is_no_error() -> None:
    found = find_doubts(np.array([0, 1]), np.array([[0.2, 0.1, 0.7], [0.1, 0.8, 0.1]]))
    assert found.order.tolist() == [0, 1]
    assert found.suggested[0] == 2


def test_the_list_and_the_sheet_show_what_was_found(tmp_path: Path) -> None:
    _, labels, p = planted(0, count=50)
    found, paths = find_doubts(labels, p), [f"{i}.png" for i in range(50)]
    shown = {"labels": labels, "probabilities": p, "classes": CLASSES}
    write_doubts(tmp_path / "d.csv", found, paths=paths, **shown)
    rows = pd.read_csv(tmp_path / "d.csv")
    assert [*rows] == [
        "rank",
        "path",
        "label",
        "suggested",
        "p_label",
        "p_suggested",
        "likely_wrong",
    ]
    assert rows["rank"].tolist() == [*range(1, 51)]
    first = int(found.order[0])
    assert rows.iloc[0].tolist() == [
        *(1, f"{first}.png", CLASSES[labels[first]], CLASSES[found.suggested[first]]),
        *(round(p[first, labels[first]], 6), round(p[first, found.suggested[first]], 6)),
        int(found.likely_wrong[first]),
    ]
    assert (rows["label"] != rows["suggested"]).all()
    images = np.arange(60, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    where = np.arange(50) + 10
    write_doubted_pictures(tmp_path / "d.png", found, images=images, rows=where, **shown)
    with Image.open(tmp_path / "d.png") as sheet:
        drawn = np.asarray(sheet)
    assert drawn.shape == ((224 + 4 + 54) * 8 + 4, (224 + 4) * 6 + 4)
    middles = drawn[4 + 54 + 112 :: 282, 4 + 112 :: 228].ravel()
    assert middles.tolist() == (found.order[:48] + 10).tolist()
    assert drawn[4:58, 4:228].max() > 100


def test_a_long_name_stays_above_its_picture(tmp_path: Path) -> None:
    names = ("N" * 64, "W" * 64)
    found = find_doubts(np.array([0, 1]), np.array([[0.2, 0.8], [0.2, 0.8]]))
    write_doubted_pictures(
        tmp_path / "d.png",
        found,
        images=np.zeros((2, 32, 32), np.uint8),
        rows=np.arange(2),
        labels=np.array([0, 1]),
        probabilities=np.array([[0.2, 0.8], [0.2, 0.8]]),
        classes=names,
    )
    with Image.open(tmp_path / "d.png") as sheet:
        assert np.asarray(sheet)[:58, 228:232].max() == 0
