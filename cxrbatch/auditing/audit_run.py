"""The run of an audit: from labelled films to figures under each treatment and a verdict."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxrbatch.auditing.attributes import attribute, attribute_columns
from cxrbatch.auditing.audit import Audit, AuditListener
from cxrbatch.auditing.audit_plan import SCORES, AuditRequest, begin_run, end_run, make_plan
from cxrbatch.auditing.audit_table import AuditedFilms, write_audit_table
from cxrbatch.auditing.baselines import (
    FILE,
    HEADER,
    HEADER_FACTS,
    baseline,
    file_frame,
    header_frame,
)
from cxrbatch.auditing.labelled_scoring import names_in, score_labelled
from cxrbatch.auditing.passes import FindsLungs
from cxrbatch.auditing.treated import PassSetup, TreatedFilms
from cxrbatch.auditing.treatments import TREATMENTS
from cxrbatch.auditing.verdict import Evidence, TreatmentResult, judge
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.files import claimed, writing
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import choose_device, choose_precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.process import keep_freed_memory
from cxrbatch.results.analysis import Analysis, analyse
from cxrbatch.results.evaluation import require_truth
from cxrbatch.results.label_files import LoadedLabels, load
from cxrbatch.results.label_joining import check_label_texts, join
from cxrbatch.results.merging import Task, make_task
from cxrbatch.results.table import Table, open_table

NO_STATISTICS = (
    "how far treated films are from those that the model was trained on: the checkpoint has no "
    "statistics of its features"
)
_FACT_COLUMNS = ("path", "frame", "file_size", "format", *HEADER_FACTS)


@contextmanager
def audited(
    request: AuditRequest,
    *,
    finder: FindsLungs | None,
    lungs: str = "",
    listener: AuditListener | None = None,
) -> Iterator[Audit]:
    """Audit a checkpoint; the parts on disk are kept until the context ends without an error.

    An audit that was stopped goes on where it was, to the same bytes.

    Args:
        request: What is asked for.
        finder: Finds the lungs; None leaves the treatments that need them out.
        lungs: What `finder` is, in words, for the table's metadata.
        listener: Receives the progress.

    Yields:
        The audit, whose table is written. Write pages of it inside the context.

    Raises:
        UsageError: The request contradicts itself or the state of the disk, or DATA is a table of
            another checkpoint.
        CheckpointError: The checkpoint cannot be used.
        LabelError: The labels cannot be used, or no film is left.
        TableError: A table cannot be read or written.
        CxrbatchError: A score is not finite, or memory or processes are lacking.
    """
    listener = listener or AuditListener()
    with claimed(request.table) as folder, writing(request.table):
        checkpoint = load_checkpoint(request.checkpoint)
        device = choose_device(request.scoring.device)
        precision = choose_precision(request.scoring.precision, device)
        words = describe_device(device)
        plan = make_plan(
            request, sha256=checkpoint.sha256, device=words, precision=precision, lungs=lungs
        )
        listener.scoring.loaded()
        run = begin_run(folder, plan, overwrite=request.overwrite)
        made = _Auditing(request, folder, run, checkpoint, device, finder, listener)
        with _nothing_left(folder):
            audit = made.audit(plan)
        yield audit
        end_run(folder)


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """In this context, an error before the first part is on disk ends the run: nothing is lost."""
    try:
        yield
    except CxrbatchError:
        if not any(folder.glob("*.arrow")) and not (folder / SCORES).exists():
            end_run(folder)
        raise


class _Auditing:
    """One run of an audit."""

    def __init__(
        self,
        request: AuditRequest,
        folder: Path,
        run: str,
        checkpoint: Checkpoint,
        device: torch.device,
        finder: FindsLungs | None,
        listener: AuditListener,
    ) -> None:
        self._request, self._folder, self._run = request, folder, run
        self._checkpoint, self._device = checkpoint, device
        self._finder, self._listener = finder, listener
        if device.type == "cpu":
            keep_freed_memory()

    def audit(self, plan: Mapping[str, Any]) -> Audit:
        """Do what is left of the work, and write the audit's table."""
        labels = self._labels()
        table = open_table(self._scored(labels))
        analysis = self._analysed(table)
        assert analysis.truth is not None
        films = TreatedFilms(analysis, table, self._setup())
        self._listener.begin(len(films.truth) * (2 + len(TREATMENTS)))
        columns = analysis.results.read(_FACT_COLUMNS).iloc[analysis.rows].reset_index(drop=True)
        sources = self._sources(analysis, labels)
        results = films.results()
        made = self._audit(analysis, films, columns, sources, results)
        self._write(plan, made, films, columns, sources, analysis)
        return made

    @property
    def _task(self) -> Task:
        options = self._request.label_options
        return make_task(self._checkpoint.card.classes, options.class_map, merge=True)

    def _labels(self) -> LoadedLabels | None:
        """Read the labels, and refuse texts that name no class before hours of work."""
        request, task = self._request, self._task
        if request.labels is None:
            return None
        options = replace(request.label_options, class_map=task.texts)
        loaded = load(request.labels, options, task.names)
        check_label_texts(loaded, task)
        return loaded

    def _scored(self, labels: LoadedLabels | None) -> Path:
        """Return the results table: DATA itself, or one of the labelled files of the archive."""
        request = self._request
        if request.is_table:
            return request.data
        if request.archive is not None:
            raise UsageError("--archive goes with a results table as DATA; leave it out")
        output = self._folder / SCORES
        score_labelled(
            request.data,
            output,
            request.checkpoint,
            names=names_in(labels, request.label_options),
            options=request.scoring,
            progress=self._listener.scoring,
        )
        return output

    def _analysed(self, table: Table) -> Analysis:
        request, made = self._request, table.provenance
        if made.get("checkpoint_sha256") != self._checkpoint.sha256:
            raise UsageError(
                f"{table.path} was not scored by {request.checkpoint} alone; give the checkpoint "
                "that scored it, or the archive as DATA"
            )
        analysis = analyse(
            table,
            request.labels,
            label_options=request.label_options,
            keep_copies=request.keep_copies,
            keep_flagged=request.keep_flagged,
            merge=True,
        )
        require_truth(analysis)
        return analysis

    def _setup(self) -> PassSetup:
        request = self._request
        return PassSetup(
            folder=self._folder,
            run=self._run,
            scoring=request.scoring,
            archive=request.archive,
            predictor=lambda: self._predictor,
            finder=self._finder,
            temperature=self._checkpoint.card.temperature,
            statistics=self._checkpoint.features,
            advance=self._listener.advance,
        )

    @cached_property
    def _predictor(self) -> Predictor:
        scoring = self._request.scoring
        return Predictor(
            self._checkpoint,
            batch_size=scoring.batch_size,
            device=self._device,
            precision=choose_precision(scoring.precision, self._device),
        )

    def _sources(self, analysis: Analysis, labels: LoadedLabels | None) -> pd.Series | None:
        """Return the source that the labels name for each film; None if they name none."""
        if labels is None or "source" not in labels.frame:
            return None
        joined = join(analysis.results, labels, self._request.label_options.by, self._task)
        of_label = labels.frame["source"].astype("string").loc[joined.labels.index]
        sources = of_label.reset_index(drop=True).reindex(joined.label_of_row[analysis.rows])
        return None if sources.isna().all() else sources.reset_index(drop=True)

    def _audit(
        self,
        analysis: Analysis,
        films: TreatedFilms,
        columns: pd.DataFrame,
        sources: pd.Series | None,
        results: tuple[TreatmentResult, ...],
    ) -> Audit:
        truth, classes = analysis.truth, analysis.task.classes
        assert truth is not None
        frames = {
            HEADER: header_frame(columns),
            FILE: file_frame(columns, films.films.numbers),
        }
        baselines = tuple(
            baseline(name, facts, films.truth, films.patients, classes=classes)
            for name, facts in frames.items()
        )
        attributes = tuple(
            attribute(
                name,
                values,
                logits=analysis.scores.logits[analysis.chosen],
                truth=films.truth,
                patients=films.patients,
                classes=classes,
            )
            for name, values in attribute_columns(columns, sources).items()
        )
        read = int(films.films.is_read.sum())
        masks = 0 if films.masks is None else read
        sure = 0 if films.masks is None else int((~films.masks.doubted).sum())
        whole, lost = films.whole(), films.lost
        evidence = Evidence(
            whole=whole,
            treatments={result.name: result for result in results},
            baselines={each.name: each for each in baselines},
            attributes=attributes,
            masks=(masks, masks - sure),
            lost=sum(lost.values()),
        )
        return Audit(
            model=self._checkpoint.card.name,
            checkpoint_sha256=self._checkpoint.sha256,
            classes=classes,
            truth_source=truth.source,
            truth_notes=truth.notes,
            truth_warnings=truth.warnings,
            flow=analysis.flow,
            whole=whole,
            treatments=results,
            baselines=baselines,
            attributes=attributes,
            heat=films.heat(),
            masks=masks,
            doubted=masks - sure,
            lost=lost,
            notes=() if self._checkpoint.features is not None else (NO_STATISTICS,),
            verdict=judge(evidence),
            shown=films.shown(),
        )

    def _write(
        self,
        plan: Mapping[str, Any],
        made: Audit,
        films: TreatedFilms,
        columns: pd.DataFrame,
        sources: pd.Series | None,
        analysis: Analysis,
    ) -> None:
        classes = analysis.task.classes
        named = [None] * len(columns) if sources is None else sources
        shared = AuditedFilms(
            rows=analysis.rows,
            paths=columns["path"].tolist(),
            frames=columns["frame"].to_numpy("int64"),
            truth=[classes[number] for number in films.truth],
            patients=films.patients,
            sources=[None if pd.isna(source) else str(source) for source in named],
            masks=films.mask_words,
            lung_area=films.lung_area,
            heat_outside=films.heat_outside,
        )
        told = {b.name: b.probabilities for b in made.baselines if b.probabilities is not None}
        write_audit_table(
            self._request.table,
            shared,
            {**films.probabilities(), **told},
            classes=classes,
            made={**plan, "classes": list(classes), "verdict": made.verdict.text},
        )
