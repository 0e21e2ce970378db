"""The engine: plans a run over an archive, scores it shard by shard, and finishes the table.

A run may be killed at any moment. Its finished shards lie in the partial folder beside its output,
and the next run of the same fingerprint continues from there to the same bytes.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from cxrbatch.errors import TableError, UsageError
from cxrbatch.files import clear, partial_folder
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import choose_device, choose_precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.process import keep_freed_memory
from cxrbatch.results.columns import table_schema
from cxrbatch.results.patient_keys import patient_secret
from cxrbatch.results.table import Table, open_table
from cxrbatch.scoring.archive import Walk, write_manifest
from cxrbatch.scoring.existing_tables import EarlierRows, is_up_to_date, updatable
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.plan import (
    Plan,
    heatmap_size,
    list_differences,
    load_plan,
    make_fingerprint,
    shard_path,
)
from cxrbatch.scoring.run import Progress, Quantisation, ScoringOptions, Summary
from cxrbatch.scoring.shard_writer import ShardWriter
from cxrbatch.scoring.table_writer import Counts, read_shard, shard_holds, write_table
from cxrbatch.workers.forkserver_client import Forkserver

ShardExecutor: TypeAlias = Callable[["Engine", Plan, Mapping[Path, range]], None]
"""Writes the missing shards of a plan: the path of each, and its files' numbers in the manifest."""

# With fewer batches, lanes are idle at the start and the end, and the model looks idle.
_ENOUGH_BATCHES = 20


class Engine:
    """Scores one archive with one model into one table, and continues runs that were interrupted.

    Attributes:
        archive: A folder, or one file.
        output: The table.
        checkpoint: Path of the model.
        options: The run's options.
        progress: Receives the progress.
        folder: The partial folder of the output, with the finished shards of an unfinished run.
        secret: Key of the keyed hash of patient ids.
        device: The device that computes.
        precision: The precision that is used, not "auto".
        fingerprint: Everything that decides the rows, except the files themselves: JSON values.
        summary: Counts of the run.
    """

    def __init__(
        self,
        archive: Path,
        output: Path,
        checkpoint: Path,
        options: ScoringOptions,
        progress: Progress,
        *,
        secret: bytes | None = None,
    ) -> None:
        """Load the model, choose device and precision; with `options.calibration` calibrate int8.

        Args:
            archive: A folder, or one file.
            output: The table; the caller has its partial folder locked, see `files.claimed`.
            checkpoint: Path of the model.
            options: The run's options.
            progress: Receives the progress.
            secret: Key of the keyed hash of patient ids; None for the user's own, or a random one
                if that cannot be used.

        Raises:
            UsageError: The device, backend or precision is not available, the archive is missing,
                int8 is asked for without calibration images, or these without int8, or `gate` of
                a checkpoint that has none.
            CheckpointError: The checkpoint cannot be used.
            LabelError: The calibration images cannot be used.
            CxrbatchError: int8 changes the accuracy by too much, or lacks memory or processes.
        """
        self.archive, self.output, self.checkpoint = archive, output, checkpoint
        self.options, self.progress = options, progress
        self.folder = partial_folder(output)
        self.walk = Walk(archive, follow_links=options.follow_links)
        self._model = load_checkpoint(checkpoint)
        self.device = choose_device(options.device, options.backend)
        if self.device.type == "cpu":
            keep_freed_memory()
        if options.gate and self._model.features is None:
            raise UsageError(
                "--gate needs a checkpoint with feature statistics, which this one lacks; train it "
                "anew with `cxrbatch train --init` from it, or leave out --gate"
            )
        self.precision = choose_precision(options.precision, self.device, options.backend)
        secret = secret or patient_secret()
        self.secret = secret or secrets.token_bytes(32)
        self.schema = table_schema(self._model.card.classes, heatmap_size=heatmap_size(self._model))
        self.summary = Summary(
            output,
            Counts(),
            device=describe_device(self.device, options.backend),
            precision=self.precision,
            quantisation=self._calibrate(),
            lasting_patient_keys=secret is not None,
            has_gate=self._model.features is not None,
        )
        self.fingerprint = make_fingerprint(
            self._model,
            precision=self.precision,
            device=self.summary.device,
            backend=options.backend,
            quantisation=self.summary.quantisation,
            archive_root=self.walk.base,
            patient_secret=self.secret,
            options={**options.deciding(self._model.card.recipe), **self.walk.identity()},
        )

    def run(
        self,
        *,
        overwrite: bool = False,
        update: bool = False,
        executor: ShardExecutor | None = None,
        forkserver: Forkserver | None = None,
    ) -> Summary:
        """Score the archive into the output; continue an unfinished run of the same fingerprint.

        If the output exists with the same fingerprint and no run is unfinished, nothing is scored,
        unless `overwrite` or `update` is True.

        Args:
            overwrite: Replace an existing output; drop an unfinished run of another fingerprint.
            update: Keep the rows of unchanged files of an existing output.
            executor: Called with engine, plan and missing shards to write them; None: done here.
            forkserver: Starts the reading processes; None starts a new one.

        Returns:
            `summary`, with the counts of the table.

        Raises:
            UsageError: The archive is empty or unreadable, or the output is no results table, or it
                or an unfinished run has another fingerprint, and may not be replaced.
            TableError: The plan, a shard or the table to update is damaged, or the new one.
            OSError: The table or a file in the partial folder cannot be read or written.
            CxrbatchError: A score is not finite, or memory or processes are lacking.
        """
        execute = executor or _LocalExecutor(forkserver)
        unfinished = self._unfinished_plan(overwrite=overwrite)
        existing = self._existing_table(overwrite=overwrite, update=update)
        if unfinished is not None:
            self._score(unfinished, execute)
            if not update:
                return self.summary
            existing = open_table(self.output)
        if existing is not None and not update:
            self._summarise(existing)
            return self.summary
        plan = self._plan(existing)
        if plan is not None:
            self._score(plan, execute)
        return self.summary

    def shard_writer(self, plan: Plan, *, forkserver: Forkserver | None = None) -> ShardWriter:
        """Make the context manager whose `write` reads and scores files of a plan into shards.

        Args:
            plan: The files and shards of the run, and what identifies it.
            forkserver: Starts the reading processes; by default a new one.
        """
        recipe = self._model.card.recipe
        base = os.fsencode(self.walk.base)
        return ShardWriter(
            folder=self.folder,
            run=plan.run_id,
            schema=self.schema,
            reader=FileReader(base, recipe, self.options.reading(recipe), self.secret),
            predictor=self.predictor,
            earlier=self._earlier_rows() if plan.update else None,
            options=self.options,
            progress=self.progress,
            summary=self.summary,
            forkserver=forkserver,
        )

    @cached_property
    def predictor(self) -> Predictor:
        """The network, ready to score on `device`; built at the first access, then kept.

        Raises:
            CheckpointError: The weights are not finite at the run's precision.
            CxrbatchError: There is too little memory for it.
        """
        quantisation = self.summary.quantisation
        return Predictor(
            self._model,
            batch_size=self.options.batch_size,
            device=self.device,
            precision=self.precision,
            backend=self.options.backend,
            ranges=None if quantisation is None else quantisation.ranges,
        )

    def _earlier_rows(self) -> EarlierRows | None:
        """Open the existing table for an update; None if it cannot be updated by this run."""
        try:
            existing = open_table(self.output)
        except TableError:
            return None  # it was removed since the run began, so its rows are made anew
        ours = updatable(self.fingerprint, existing)
        same = not list_differences(ours, existing.provenance)
        return EarlierRows(existing) if same else None

    def _unfinished_plan(self, *, overwrite: bool) -> Plan | None:
        plan = load_plan(self.folder)
        if plan is None:
            return None
        ours = {**self.fingerprint, "part": str(self.options.part)}
        differ = list_differences(ours, {**plan.fingerprint, "part": str(plan.part)})
        if not differ:
            return plan
        if not overwrite:
            raise UsageError(
                f"{self.folder} holds an unfinished run that differs in {differ}; finish it with "
                "its own options, choose another -o, or give --overwrite to drop it"
            )
        return None

    def _existing_table(self, *, overwrite: bool, update: bool) -> Table | None:
        """Open the table that has the output's name; None if there is none or it is replaced."""
        if overwrite or not self.output.exists():
            return None
        try:
            existing = open_table(self.output)
        except TableError:
            raise UsageError(
                f"{self.output} exists and is no results table of this version; choose another "
                "name or give --overwrite"
            ) from None
        part = {"part": str(self.options.part) if self.options.part.of > 1 else None}
        ours = {**self.fingerprint, **part}
        updated = updatable(ours, existing)
        theirs = existing.provenance
        if differ := list_differences(updated if update else ours, theirs):
            remedy = "--overwrite" if list_differences(updated, theirs) else "--update"
            raise UsageError(
                f"{self.output} exists and differs in {differ}; choose another name or give "
                f"{remedy}"
            )
        if existing.is_older:
            self.summary.older_schema = str(theirs["schema_version"])
        return existing

    def _plan(self, earlier: Table | None) -> Plan | None:
        """Walk over the archive; None if an update of `earlier` would change nothing."""
        clear(self.folder)
        own = [self.folder.stat()] + ([self.output.stat()] if self.output.exists() else [])
        self.walk.skip = frozenset((state.st_dev, state.st_ino) for state in own)
        files, sha256 = write_manifest(self.walk, self.folder, found=self.progress.found)
        if not files:
            raise UsageError(f"archive {self.archive} has no files")
        if earlier is not None and is_up_to_date(earlier, sha256):
            self._summarise(earlier)
            return None
        plan = Plan(
            fingerprint=self.fingerprint,
            files=files,
            manifest_sha256=sha256,
            passed_over=dict(self.walk.passed_over),
            part=self.options.part,
            shard_files=self.options.commit_every,
            update=earlier is not None,
        )
        plan.save(self.folder)
        return plan

    def _score(self, plan: Plan, execute: ShardExecutor) -> None:
        """Write the shards that are missing, then the table."""
        started = time.monotonic()
        shards = {shard_path(self.folder, i): numbers for i, numbers in enumerate(plan.shards)}
        run = plan.run_id
        missing = {path: n for path, n in shards.items() if not shard_holds(path, run=run)}
        files = len(plan.numbers)
        done = files - sum(map(len, missing.values()))
        self.progress.start(files, done=done)
        if missing:
            execute(self, plan, missing)
        self._finish(plan, shards)
        self.summary.seconds += time.monotonic() - started

    def _finish(self, plan: Plan, shards: Iterable[Path]) -> None:
        """Write the table, and remove the plan and its shards."""
        self.summary.counts = write_table(
            self.output,
            map(read_shard, shards),
            within=self.folder,
            schema=self.schema,
            files=len(plan.numbers),
            provenance=plan.provenance,
        )
        self.summary.passed_over = Counter(plan.passed_over)
        clear(self.folder)

    def _summarise(self, table: Table) -> None:
        """Take the counts of a table that needs no work from its provenance."""
        made = table.provenance
        self.summary.counts = Counts(made["files"], table.rows, Counter(made["outcomes"]))
        self.summary.passed_over = Counter(made["passed_over"])

    def _calibrate(self) -> Quantisation | None:
        labels = self.options.calibration
        if (self.precision == "int8") != (labels is not None):
            raise UsageError("--precision int8 and --calibration go together; give both or neither")
        if labels is None:
            return None
        # It needs scikit-learn, which takes a second to load.
        from cxrbatch.scoring.int8 import quantise_network

        return quantise_network(self._model, labels, self.options)


class _LocalExecutor:
    """Writes shards in this process."""

    def __init__(self, forkserver: Forkserver | None) -> None:
        self._forkserver = forkserver

    def __call__(self, engine: Engine, plan: Plan, missing: Mapping[Path, range]) -> None:
        forkserver, self._forkserver = self._forkserver, None  # it serves one pool
        with engine.shard_writer(plan, forkserver=forkserver) as writer:
            writer.write(missing)
        if engine.summary.images >= _ENOUGH_BATCHES * engine.options.batch_size:
            engine.summary.scoring = engine.predictor.seconds
