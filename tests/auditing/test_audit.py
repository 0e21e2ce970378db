"""The whole audit: its table and page, runs that are stopped, and data that lack something."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from drawn_films import CLASSES, FINDER, lung_field

from cxrbatch.auditing.audit import Audit, AuditListener
from cxrbatch.auditing.audit_table import AUDIT_KEY
from cxrbatch.auditing.bundled_lungs import NamedFinder
from cxrbatch.auditing.treatments import TREATMENTS
from cxrbatch.errors import LabelError, UsageError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.network import model_of, save_checkpoint
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.evaluation import evaluate
from cxrbatch.scoring.score import score

AuditMaker = Callable[..., Audit]
NAMES = [treatment.name for treatment in TREATMENTS]
OUTPUTS = ("audit.parquet", "audit.html", "audit.json")


def frame_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "audit.parquet")


def test_the_table_has_a_row_for_each_film_and_treatment(
    audited_films: AuditMaker, tmp_path: Path
) -> None:
    audit = audited_films()
    frame = frame_of(tmp_path)
    expected = ["whole film", *NAMES, "header facts"]
    assert [*frame["treatment"].unique()][: len(expected)] == expected
    assert frame.groupby("treatment").size().loc[expected].unique().tolist() == [24]
    p = frame[[f"p_{name}" for name in CLASSES]]
    assert np.allclose(p.sum(axis=1), 1)
    assert (frame["prediction"] == p.idxmax(axis=1).str.removeprefix("p_")).all()
    whole = frame[frame["treatment"] == "whole film"]
    assert (whole["prediction"] == whole["truth"]).mean() == audit.whole.accuracy.value
    assert whole["patient"].nunique() == 24
    assert set(whole["source"]) == {"north", "south"}
    assert (whole["mask"] == "plausible").all()
    assert whole["lung_area"].to_numpy() == pytest.approx(lung_field(32).mean())
    assert whole["heat_outside"].between(0, 1).all()
    made = json.loads(pq.read_metadata(tmp_path / "audit.parquet").metadata[AUDIT_KEY])
    assert made["verdict"] == audit.verdict.text
    assert not (tmp_path / "audit.parquet.partial").exists()


def test_whole_films_have_the_scores_of_a_results_table(
    audited_films: AuditMaker, labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    audited_films()
    table = tmp_path / "results.parquet"
    score(labels.parent, table, checkpoint=checkpoint, batch_size=8, workers=0, progress=False)
    results = pd.read_parquet(table).set_index("path")
    frame = frame_of(tmp_path)
    whole = frame[frame["treatment"] == "whole film"].set_index("path")
    for name in CLASSES:
        assert (whole[f"p_{name}"] == results.loc[whole.index, f"p_{name}"]).all()
    assert evaluate(table, labels).accuracy.value == (whole.prediction == whole.truth).mean()


def test_a_table_as_data_gives_the_same_figures(
    audited_films: AuditMaker, labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    of_archive = audited_films()
    table = tmp_path / "results.parquet"
    score(labels.parent, table, checkpoint=checkpoint, batch_size=8, workers=0, progress=False)
    of_table = audited_films(data=table, table=tmp_path / "b.parquet")
    # The archive's own table has the files of the side test alone, so its rows are others.
    assert of_table.treatments == of_archive.treatments
    assert of_table.baselines[0].figures == of_archive.baselines[0].figures
    assert of_table.verdict == of_archive.verdict


def test_only_files_that_labels_name_are_read(
    audited_films: AuditMaker, labels: Path, tmp_path: Path
) -> None:
    (labels.parent / "unnamed.dcm").write_text("never opened")
    audit = audited_films()
    assert (audit.flow.files, audit.flow.scored, audit.flow.side) == (24, 24, "test")


class Stopping(AuditListener):
    """Stops the audit when it has made so much progress."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, films: int) -> None:
        self.left -= films
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [0, 30, 100, 24 * 15 - 1])
def test_an_audit_that_was_stopped_ends_in_the_same_bytes(
    audited_films: AuditMaker, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited_films()
    whole = {name: (tmp_path / name).read_bytes() for name in OUTPUTS}
    for name in OUTPUTS:
        (tmp_path / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        audited_films(Stopping(after))
    assert not any((tmp_path / name).exists() for name in OUTPUTS)
    scored = []
    launch = Predictor.launch

    def counted(self: Predictor, inputs: np.ndarray) -> object:
        scored.append(len(inputs))
        return launch(self, inputs)

    monkeypatch.setattr(Predictor, "launch", counted)
    audited_films()
    assert {name: (tmp_path / name).read_bytes() for name in OUTPUTS} == whole
    parts = max(0, after // 24 - 2)
    assert sum(scored) <= 24 * (len(TREATMENTS) - parts) + 24


def test_a_page_that_could_not_be_written_is_tried_again(
    audited_films: AuditMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cxrbatch.reports.audit_page.write_outputs", fail)
        with pytest.raises(KeyboardInterrupt):
            audited_films()
    assert (tmp_path / "audit.parquet").exists()
    audited_films()
    assert (tmp_path / "audit.html").exists()


def test_an_unfinished_audit_of_another_kind_is_not_dropped_unasked(
    audited_films: AuditMaker, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        audited_films(Stopping(50))
    with pytest.raises(UsageError, match="unfinished audit that differs in keep copies"):
        audited_films(keep_copies=True)
    audited_films(keep_copies=True, overwrite=True)
    assert frame_of(tmp_path)["treatment"].nunique() >= 15


def test_outputs_are_not_replaced_unasked(audited_films: AuditMaker) -> None:
    audited_films()
    with pytest.raises(UsageError, match="exists; choose another name or give --overwrite"):
        audited_films()
    audited_films(overwrite=True)


def test_a_table_whose_images_are_gone_keeps_what_needs_no_image(
    audited_films: AuditMaker, labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "archive"
    moved.mkdir()
    for file in labels.parent.glob("*.dcm"):
        (moved / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "results.parquet"
    score(moved, table, checkpoint=checkpoint, batch_size=8, workers=0, progress=False)
    moved.rename(tmp_path / "elsewhere")
    audit = audited_films(data=table, table=tmp_path / "gone.parquet")
    assert audit.lost == {"the archive is not at hand": 24}
    assert audit.whole.macro_auc.value is not None
    assert {t.figures.macro_auc.undefined for t in audit.treatments} == {
        "the archive is not at hand"
    }
    assert audit.baselines[0].figures.macro_auc.value == 1.0
    assert "24 films could not be read again" in audit.verdict.text
    assert "Without the lungs" not in audit.verdict.text
    assert (
        "No film can be shown: the archive is not at hand" in (tmp_path / "gone.html").read_text()
    )
    found = audited_films(
        data=table, archive=tmp_path / "elsewhere", table=tmp_path / "found.parquet"
    )
    assert found.lost == {}
    assert found.treatments[0].figures.films == 24


def test_films_that_changed_are_left_out_and_counted(
    audited_films: AuditMaker, labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "archive"
    copied.mkdir()
    files = sorted(labels.parent.glob("00*.dcm"))
    for file in files:
        (copied / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "results.parquet"
    score(copied, table, checkpoint=checkpoint, batch_size=8, workers=0, progress=False)
    (copied / "0062.dcm").write_bytes((copied / "0001.dcm").read_bytes())
    (copied / "0063.dcm").unlink()
    audit = audited_films(data=table)
    assert audit.lost == {"changed since it was scored": 1, "not in the archive any more": 1}
    border = next(t for t in audit.treatments if t.name == "border only")
    assert (audit.whole.films, border.figures.films) == (24, 22)


def test_data_of_one_class_have_what_can_be_calculated(
    audited_films: AuditMaker, labels: Path, tmp_path: Path
) -> None:
    lines = labels.read_text().splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(line for line in lines if "Opacity" in line)]) + "\n")
    audit = audited_films(labels=one)
    assert not audit.verdict.is_possible
    assert audit.verdict.text.startswith("Nothing can be judged")
    assert all(t.figures.accuracy.value is not None for t in audit.treatments)
    assert audit.baselines[0].figures.macro_auc.undefined is not None
    assert "Nothing can be judged" in (tmp_path / "audit.html").read_text()


def test_a_checkpoint_without_statistics_has_no_distances(
    audited_films: AuditMaker, checkpoint: Path, tmp_path: Path
) -> None:
    with_statistics = audited_films()
    assert all((t.distance or 0) > 0 for t in with_statistics.treatments)
    loaded = load_checkpoint(checkpoint)
    bare = tmp_path / "bare.safetensors"
    model = model_of(loaded.tensors, loaded.card.architecture)
    save_checkpoint(bare, model=model, card=replace(loaded.card, gate={}))
    audit = audited_films(checkpoint=bare, table=tmp_path / "bare.parquet")
    assert {t.distance for t in audit.treatments} == {None}
    assert audit.treatments[0].figures == with_statistics.treatments[0].figures
    assert (
        "the checkpoint has no statistics of its features" in (tmp_path / "bare.html").read_text()
    )


class DoubtingFinder:
    """Doubts the masks of most films; without lungs nothing is left of all."""

    def __init__(self, sure: int) -> None:
        self.sure = sure

    def masks(self, inputs: np.ndarray) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
        fields, _ = FINDER.finder.masks(inputs)
        return fields, tuple(() if n < self.sure else ("odd",) for n in range(len(inputs)))


@pytest.mark.parametrize("sure", [0, 10])
def test_doubtful_masks_are_counted_and_left_out_of_lung_treatments(
    audited_films: AuditMaker, tmp_path: Path, sure: int
) -> None:
    audit = audited_films(lungs=NamedFinder(DoubtingFinder(sure), "doubting"))
    assert (audit.masks, audit.doubted) == (24, 24 - sure)
    films = {t.name: t.figures.films for t in audit.treatments}
    assert (films["lungs black"], films["border only"]) == (sure, 24)
    frame = frame_of(tmp_path)
    assert (frame["treatment"] == "lungs only").sum() == sure
    whole = frame[frame["treatment"] == "whole film"]
    assert (whole["mask"] == "doubtful").sum() == 24 - sure
    assert whole["heat_outside"].notna().sum() == sure
    text = (tmp_path / "audit.html").read_text()
    assert f"The masks of {24 - sure} of 24 films are doubtful" in text
    if not sure:
        reason = "no film has a mask of its lungs that is not doubtful"
        assert audit.treatments[0].figures.macro_auc.undefined == reason


def test_without_a_finder_the_rest_is_audited(audited_films: AuditMaker) -> None:
    audit = audited_films(lungs=NamedFinder(None, ""))
    undefined = {t.name for t in audit.treatments if t.figures.macro_auc.value is None}
    assert undefined == {treatment.name for treatment in TREATMENTS if treatment.needs_lungs}
    assert audit.heat == ()


def test_a_table_of_another_checkpoint_is_refused(
    audited_films: AuditMaker, labels: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    table = tmp_path / "results.parquet"
    score(labels.parent, table, checkpoint=tiny_checkpoint, workers=0, progress=False)
    with pytest.raises(UsageError, match="was not scored by"):
        audited_films(data=table)


def test_labels_that_name_no_file_are_refused_before_anything_is_read(
    audited_films: AuditMaker, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nnone.dcm,Normal\nnull.dcm,Opacity\n")
    with pytest.raises(LabelError, match=r"no file below .* has a name that the labels name"):
        audited_films(labels=labels)
    labels.write_text("path,label\n0040.dcm,Normal\n0041.dcm,Flu\n")
    with pytest.raises(LabelError, match="name no class of the model"):
        audited_films(labels=labels)
    assert not (tmp_path / "audit.parquet.partial").exists()


def test_merged_classes_are_audited_as_one(
    audited_films: AuditMaker, labels: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from cxrbatch.results.label_files import LabelOptions

    options = LabelOptions(class_map={"Opacity": ["COVID-19", "Viral Pneumonia"]})
    audit = audited_films(checkpoint=tiny_checkpoint, label_options=options)
    assert audit.classes == ("Normal", "Opacity")
    assert set(frame_of(tmp_path)["prediction"]) <= {"Normal", "Opacity"}
    assert audit.whole.macro_auc.value is not None
