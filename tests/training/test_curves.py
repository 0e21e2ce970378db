"""The curves are sound XML with a point per epoch."""

from pathlib import Path
from xml.etree import ElementTree

from cxrbatch.training.loop import EpochMetrics
from cxrbatch.training.outputs import write_curves

SVG = "{http://www.w3.org/2000/svg}"


def test_each_line_has_a_point_per_epoch(tmp_path: Path) -> None:
    history = [EpochMetrics(n, 1.0 / n, 0.9 - 0.1 / n, 1.2 / n) for n in range(1, 6)]
    write_curves(tmp_path / "curves.svg", history)
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    lines = root.findall(f".//{SVG}polyline")
    assert [len(line.get("points", "").split()) for line in lines] == [5, 5, 5]
    heights = [float(point.split(",")[1]) for point in lines[0].get("points", "").split()]
    assert heights == sorted(heights)  # a falling loss goes down the page
    assert "best 0.8800 in epoch 5" in "".join(root.itertext())


def test_one_epoch_is_drawn_too(tmp_path: Path) -> None:
    write_curves(tmp_path / "curves.svg", [EpochMetrics(1, 0.5, 0.5, 0.5)])
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    for line in root.findall(f".//{SVG}polyline"):
        first, second = line.get("points", "").split()
        assert first == second  # no length and round ends: a dot
