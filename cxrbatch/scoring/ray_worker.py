"""The work of a Ray actor: the local engine's own work on one shard after the other.

Nothing here needs Ray. An actor receives the number of a shard and returns a report as text;
manifest, images and shards are on storage that all nodes see.
"""

import json
import os
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.files import writing
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import read_manifest
from cxrbatch.scoring.engine import Engine
from cxrbatch.scoring.plan import Plan, list_differences, load_plan, shard_path
from cxrbatch.scoring.run import Progress, ScoringOptions

_OUTCOMES = {code.value: code for code in Outcome}


class ActorSetup:
    """Everything that a Ray actor needs to make an engine equal to the one that leads the run.

    No dataclass and without a text form, as it contains the patient secret: Ray may write the
    fields of dataclasses, and the texts of other arguments, into its logs.
    """

    def __init__(self, engine: Engine, plan: Plan, *, options: ScoringOptions) -> None:
        """Copy paths and patient secret from an engine; take PyTorch's number of threads here.

        Args:
            engine: The engine that leads the run.
            plan: The run's plan.
            options: The run's options, with device and precision resolved.
        """
        self.archive = engine.archive.absolute()
        self.output = engine.output.absolute()
        self.checkpoint = engine.checkpoint.absolute()
        self.secret = engine.secret
        self.plan = plan
        self.options = options
        self.threads = torch.get_num_threads()

    def make_engine(self, progress: Progress) -> Engine:
        """Make an engine on this node, and check that it gives the same rows as the leading one.

        Args:
            progress: Receives the progress of the new engine.

        Raises:
            UsageError: This node does not see the plan, sees no file of the archive, or has another
                fingerprint than the plan.
            CxrbatchError: The plan is damaged, or the model or the device cannot be used here.
        """
        torch.set_num_threads(self.threads)
        engine = Engine(
            self.archive, self.output, self.checkpoint, self.options, progress, secret=self.secret
        )
        node = socket.gethostname()
        if load_plan(engine.folder) != self.plan:
            raise UsageError(
                f"{node} does not see {engine.folder}; choose an -o on storage that all nodes share"
            )
        if not self._sees_archive(engine):
            raise UsageError(
                f"{node} does not see the files of {self.archive}; put the archive on storage that "
                "all nodes share, under one path"
            )
        if differ := list_differences(self.plan.fingerprint, engine.fingerprint):
            raise UsageError(f"{node} would make other rows: it differs in {differ}; leave it out")
        return engine

    def _sees_archive(self, engine: Engine) -> bool:
        base = os.fsencode(engine.walk.base)
        files = read_manifest(engine.folder, start=0, stop=self.plan.files)
        return any(os.path.lexists(os.path.join(base, file.path)) for file in files)


@dataclass(slots=True)
class ShardReport:
    """The result of one shard, sent by an actor to the leading engine.

    Files are named by their numbers in the manifest.

    Attributes:
        read: Number of files whose rows were made, not kept.
        images: Number of images that were scored.
        failed: (file, outcome) of each image that could not be read.
        retried: Files that were read a second time.
        fewer_workers: Whether fewer processes read from now on, as several were killed.
        refusal: Error message if the shard was not written; empty if it was.
    """

    read: int = 0
    images: int = 0
    failed: list[tuple[int, Outcome]] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    fewer_workers: bool = False
    refusal: str = ""

    def to_text(self) -> str:
        """Return the report as JSON text, which `from_text` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "ShardReport":
        """Make a report from the JSON text that `to_text` returned."""
        fields = json.loads(text)
        failed = [(number, _OUTCOMES[code]) for number, code in fields.pop("failed")]
        return cls(failed=failed, **fields)


class ShardScorer:
    """Scores and writes one shard per call; a callable class, of which Ray keeps one in each actor.

    Errors of the input are returned in the reports, as an exception would end the whole Ray job.
    """

    def __init__(self, setup: ActorSetup) -> None:
        """Load the model and start the reading processes.

        Where this fails with a CxrbatchError, nothing is raised: each report contains its message.

        Args:
            setup: Makes the engine.
        """
        self._setup = setup
        self._progress = _ReportingProgress()
        self._open = ExitStack()
        self._next_number = 0
        self._refusal = ""
        self._begin()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score one shard and write it to disk.

        Args:
            row: Has the index of the shard in the plan as `shard`.

        Returns:
            `shard`: the index. `report`: a `ShardReport` as JSON text, with a `refusal` if the
            shard could not be written.
        """
        index = int(row["shard"])
        return {"shard": index, "report": self._write(index).to_text()}

    def _begin(self) -> None:
        """Make the engine and its shard writer, closing earlier ones; a failure is for good."""
        try:
            with writing(self._setup.output):
                self._open.close()
                self._engine = self._setup.make_engine(self._progress)
                writer = self._engine.shard_writer(self._setup.plan)
                self._writer = self._open.enter_context(writer)
        except CxrbatchError as error:
            self._refusal = str(error)

    def _write(self, index: int) -> ShardReport:
        numbers = self._setup.plan.shards[index]
        if numbers.start < self._next_number and not self._refusal:
            self._begin()  # rows of an earlier table are found in ascending order alone
        report = self._progress.report = ShardReport(refusal=self._refusal)
        if self._refusal:
            return report
        try:
            self._next_number = numbers.stop
            summary = self._engine.summary
            summary.read = summary.images = 0
            with writing(self._setup.output):
                self._writer.write({shard_path(self._engine.folder, index): numbers})
            report.read, report.images = summary.read, summary.images
        except CxrbatchError as error:
            report.refusal = str(error)
        return report


class _ReportingProgress(Progress):
    """Collects failures and retries for the leading engine, without paths."""

    def __init__(self) -> None:
        self.report = ShardReport()

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        self.report.failed.append((number, outcome))

    def retried(self, number: int, path: str) -> None:
        self.report.retried.append(number)

    def fewer_workers(self) -> None:
        self.report.fewer_workers = True
