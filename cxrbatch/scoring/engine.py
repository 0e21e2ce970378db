"""The engine: walk, score shard by shard, and put the table together.

A run may be killed at any moment. What it has committed lies in the partial folder beside its
output, and the next run of the same fingerprint goes on from there to the same bytes.
"""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from cxrbatch.atomic import clear, partial_folder, writing
from cxrbatch.errors import TableError, UsageError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import choose_device, choose_precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.table import Table, open_table, table_schema
from cxrbatch.scoring.allocation import keep_freed_memory
from cxrbatch.scoring.archive import Walk
from cxrbatch.scoring.dataset import Sharding
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.manifest import ManifestWriter
from cxrbatch.scoring.patients import patient_secret
from cxrbatch.scoring.provenance import (
    differences,
    fingerprint,
    heatmap_size,
    run_id,
    whole_provenance,
)
from cxrbatch.scoring.quantisation import Quantisation
from cxrbatch.scoring.run import Progress, Run, ScoringOptions, Summary, saved_run, shard_path
from cxrbatch.scoring.shards import read_shard, shard_holds
from cxrbatch.scoring.table_writer import Counts, write_table
from cxrbatch.scoring.update import EarlierRows, is_up_to_date, updatable
from cxrbatch.workers.forkserver_client import Forkserver

# With fewer, there is not always one for each lane, and a model looks idle that is not.
_ENOUGH_BATCHES = 20


def score_archive(
    archive: Path,
    output: Path,
    *,
    checkpoint: Path,
    options: ScoringOptions,
    progress: Progress,
    overwrite: bool = False,
    update: bool = False,
    forkserver: Forkserver | None = None,
    elsewhere: "Elsewhere | None" = None,
) -> Summary:
    """Score every file of an archive into a results table.

    What an earlier call left unfinished is finished. To be called within `claim.claimed(output)`.

    Args:
        archive: A folder, or one file.
        output: The table to write; appears only when it is whole.
        checkpoint: What to score with.
        options: The run's options.
        progress: Told how far the run is.
        overwrite: Replace an output that is there.
        update: Keep those rows of an output that is there whose files have not changed.
        forkserver: Starts the processes that read; one that has been starting may be given.
        elsewhere: Has shards written by other processes; this one writes them if None.

    Raises:
        UsageError: The archive is missing or empty, or the output or an unfinished run is of
            another fingerprint.
        CheckpointError: The checkpoint cannot be used.
        TableError: The table cannot be written.
        CxrbatchError: The model's scores are not finite, or no process can be started.
    """
    engine = Engine(
        archive, output, checkpoint, options, progress, forkserver=forkserver, elsewhere=elsewhere
    )
    with writing(output):
        return engine.run(overwrite=overwrite, update=update)


class Engine:
    """One call of `score_archive`, or its like in a process that writes shards for one."""

    def __init__(
        self,
        archive: Path,
        output: Path,
        checkpoint: Path,
        options: ScoringOptions,
        progress: Progress,
        *,
        secret: bytes | None = None,
        forkserver: Forkserver | None = None,
        elsewhere: "Elsewhere | None" = None,
    ) -> None:
        """Begin nothing yet.

        Args:
            archive: A folder, or one file.
            output: The table.
            checkpoint: What to score with.
            options: The run's options.
            progress: Told how far the run is.
            secret: Key of the patient hash; the user's own if None.
            forkserver: As of `score_archive`.
            elsewhere: As of `score_archive`.

        Raises:
            UsageError: The device, backend or precision is not to be had, or the archive is
                missing.
            CheckpointError: The checkpoint cannot be used.
            LabelError: The calibration images cannot.
            CxrbatchError: 8 bits change what they give by too much.
        """
        loaded = load_checkpoint(checkpoint)
        self.device = choose_device(options.device, options.backend)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = choose_precision(options.precision, self.device, options.backend)
        self.archive = archive
        self.output = output
        self.folder = partial_folder(output)
        self.checkpoint = checkpoint
        self.card = loaded.card
        self.options = options
        self.progress = progress
        self.forkserver = forkserver
        self.elsewhere = elsewhere
        self.walk = Walk(archive, follow_links=options.follow_links)
        self._loaded = loaded
        secret = secret or patient_secret()
        self.secret = secret or secrets.token_bytes(32)
        self.schema = table_schema(loaded.card.classes, heatmap_size=heatmap_size(loaded))
        self.quantisation = self._quantised()
        self.summary = Summary(
            output,
            device=describe_device(self.device, options.backend),
            precision=self.precision,
            quantisation=self.quantisation,
            lasting_patient_keys=secret is not None,
        )
        self.fingerprint = fingerprint(
            checkpoint=loaded,
            precision=self.precision,
            device=describe_device(self.device, options.backend),
            backend=options.backend,
            quantisation=self.quantisation,
            archive_root=self.walk.base,
            patient_secret=self.secret,
            options={**_deciding(options), **self.walk.identity()},
        )

    def run(self, *, overwrite: bool, update: bool) -> Summary:
        """Finish what is unfinished, and begin what is to be begun."""
        unfinished = self._unfinished(overwrite=overwrite)
        there = self._table_there(overwrite=overwrite, update=update)
        if unfinished is not None:
            self._finish(unfinished)
            if not update:
                return self.summary
            there = open_table(self.output)
        if there is not None and not update:
            self._sum_up(there)
            return self.summary
        begun = self._begin(there)
        if begun is not None:
            self._finish(begun)
        return self.summary

    def _unfinished(self, *, overwrite: bool) -> Run | None:
        found = saved_run(self.folder)
        if found is None:
            return None
        ours = {**self.fingerprint, "part": str(self.options.part)}
        differ = differences(ours, {**found.fingerprint, "part": str(found.part)})
        if not differ:
            return found
        if not overwrite:
            raise UsageError(
                f"{self.folder} holds an unfinished run that differs in {differ}; finish it with "
                "its own options, choose another -o, or give --overwrite to drop it"
            )
        return None

    def _table_there(self, *, overwrite: bool, update: bool) -> Table | None:
        """The table that has the output's name, if it is not to be replaced."""
        if overwrite or not self.output.exists():
            return None
        try:
            there = open_table(self.output)
        except TableError:
            raise UsageError(
                f"{self.output} exists and is no results table of this version; choose another "
                "name or give --overwrite"
            ) from None
        part = {"part": str(self.options.part) if self.options.part.of > 1 else None}
        ours = {**self.fingerprint, **part}
        updated = updatable(ours, there)
        if differ := differences(updated if update else ours, there.provenance):
            remedy = "--overwrite" if differences(updated, there.provenance) else "--update"
            raise UsageError(
                f"{self.output} exists and differs in {differ}; choose another name or give "
                f"{remedy}"
            )
        return there

    def _begin(self, earlier: Table | None) -> Run | None:
        """Walk; None where a table is there that has all files as they are."""
        clear(self.folder)
        own = [self.folder.stat()] + ([self.output.stat()] if self.output.exists() else [])
        self.walk.skip = frozenset((state.st_dev, state.st_ino) for state in own)
        manifest = ManifestWriter(self.walk, self.folder)
        files = 0
        for files in manifest.write():
            self.progress.found(files)
        if not files:
            raise UsageError(f"archive {self.archive} has no files")
        if earlier is not None and is_up_to_date(earlier, manifest.sha256):
            self._sum_up(earlier)
            return None
        run = Run(
            fingerprint=self.fingerprint,
            files=files,
            manifest_sha256=manifest.sha256,
            passed_over=dict(self.walk.passed_over),
            part=self.options.part,
            shard_files=self.options.commit_every,
            update=earlier is not None,
        )
        run.save(self.folder)
        return run

    def _finish(self, run: Run) -> None:
        started = time.monotonic()
        shards = {shard_path(self.folder, index): shard for index, shard in enumerate(run.shards)}
        name = run_id(run)
        left = {path: shard for path, shard in shards.items() if not shard_holds(path, run=name)}
        files = len(run.numbers)
        self.progress.start(files, done=files - sum(len(shard) for shard in left.values()))
        if left:
            write = self.elsewhere or _write_here
            write(self, run, left)
        self.summary.counts = write_table(
            self.output,
            map(read_shard, shards),
            within=self.folder,
            schema=self.schema,
            files=files,
            provenance=lambda counts: whole_provenance(run, counts),
        )
        self.summary.passed_over = Counter(run.passed_over)
        self.summary.seconds += time.monotonic() - started
        clear(self.folder)

    def sharding(self, run: Run) -> Sharding:
        """What writes the shards of a run in this process."""
        reading = self.options.reading(self.card.recipe)
        base = os.fsencode(self.walk.base)
        forkserver, self.forkserver = self.forkserver, None  # it serves one pool
        return Sharding(
            folder=self.folder,
            run=run_id(run),
            schema=self.schema,
            reader=FileReader(base, self.card.recipe, reading, self.secret),
            scorer=self._scorer,
            earlier=self._earlier_rows() if run.update else None,
            options=self.options,
            progress=self.progress,
            summary=self.summary,
            forkserver=forkserver,
        )

    def _quantised(self) -> Quantisation | None:
        labels = self.options.calibration
        if (self.precision == "int8") != (labels is not None):
            raise UsageError("--precision int8 and --calibration go together; give both or neither")
        if labels is None:
            return None
        # It needs scikit-learn, which takes a second to load.
        from cxrbatch.scoring.int8 import quantise_network

        return quantise_network(self._loaded, labels, self.options)

    @cached_property
    def _scorer(self) -> Predictor:
        return Predictor(
            self._loaded,
            batch_size=self.options.batch_size,
            device=self.device,
            precision=self.precision,
            backend=self.options.backend,
            ranges=None if self.quantisation is None else self.quantisation.ranges,
        )

    def _earlier_rows(self) -> EarlierRows | None:
        try:
            there = open_table(self.output)
        except TableError:
            return None  # it has gone since the run began, so its rows are made anew
        same = not differences(updatable(self.fingerprint, there), there.provenance)
        return EarlierRows(there) if same else None

    def _sum_up(self, table: Table) -> None:
        """Say of a table that needs no work what it says of itself."""
        made = table.provenance
        self.summary.counts = Counts(made["files"], table.rows, Counter(made["outcomes"]))
        self.summary.passed_over = Counter(made["passed_over"])


Elsewhere: TypeAlias = Callable[[Engine, Run, Mapping[Path, range]], None]
"""Has the shards of a run written that are left: the path of each, and the numbers of its files."""


def _write_here(engine: Engine, run: Run, left: Mapping[Path, range]) -> None:
    """Write shards in this process."""
    sharding = engine.sharding(run)
    with sharding.opened() as write:
        write(left)
    if engine.summary.images >= _ENOUGH_BATCHES * engine.options.batch_size:
        engine.summary.scoring = sharding.scorer.seconds


def _deciding(options: ScoringOptions) -> Mapping[str, Any]:
    """Those options that rows depend on."""
    return {
        "batch_size": options.batch_size,
        "max_pixels": options.max_pixels,
        "modalities": sorted(options.modalities),
        "follow_links": options.follow_links,
        "seconds_per_file": options.deadline,
        # Left unsaid where it is not asked for, as in tables that are older than it.
        **({"fast_decode": True} if options.fast_decode else {}),
    }
