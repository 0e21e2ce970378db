"""What an actor of Ray's does: the engine's own work on one shard after the other.

Nothing here needs Ray. What goes into an actor is the number of a shard, and what comes out is
what a run tells of it; manifest, images and shards are on storage that all nodes see.
"""

import json
import os
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cxrbatch.atomic import writing
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.engine import Engine
from cxrbatch.scoring.manifest import read_manifest
from cxrbatch.scoring.provenance import differences
from cxrbatch.scoring.run import Progress, Run, ScoringOptions, saved_run, shard_path

_OUTCOMES = {code.value: code for code in Outcome}


class Errand:
    """All that an actor is sent once.

    A class of its own without a text form, as it holds the patient secret: Ray writes the fields
    of dataclasses and the texts of other arguments into its logs where it is asked to.
    """

    def __init__(self, engine: Engine, run: Run, *, options: ScoringOptions) -> None:
        """Take what decides the rows from the engine that leads the run.

        Args:
            engine: The engine.
            run: The run.
            options: The run's, with device and precision resolved.
        """
        self.archive = engine.archive.absolute()
        self.output = engine.output.absolute()
        self.checkpoint = engine.checkpoint.absolute()
        self.secret = engine.secret
        self.run = run
        self.options = options
        self.threads = torch.get_num_threads()

    def engine(self, progress: Progress) -> Engine:
        """Make the like of that engine on this node.

        Raises:
            CxrbatchError: This node would make other rows, or does not see the files.
        """
        torch.set_num_threads(self.threads)
        engine = Engine(
            self.archive,
            self.output,
            self.checkpoint,
            self.options,
            progress,
            secret=self.secret,
        )
        node = socket.gethostname()
        if saved_run(engine.folder) != self.run:
            raise UsageError(
                f"{node} does not see {engine.folder}; choose an -o on storage that all nodes share"
            )
        if not self._sees_archive(engine):
            raise UsageError(
                f"{node} does not see the files of {self.archive}; put the archive on storage that "
                "all nodes share, under one path"
            )
        if differ := differences(self.run.fingerprint, engine.fingerprint):
            raise UsageError(f"{node} would make other rows: it differs in {differ}; leave it out")
        return engine

    def _sees_archive(self, engine: Engine) -> bool:
        base = os.fsencode(engine.walk.base)
        files = read_manifest(engine.folder, start=0, stop=self.run.files)
        return any(os.path.lexists(os.path.join(base, file.path)) for file in files)


@dataclass(slots=True)
class Report:
    """What became of one shard; files are told by their numbers in the manifest.

    Attributes:
        read: Files that were read.
        images: Images that were scored.
        failed: Files with images that could not be read, and the outcome of each image.
        retried: Files that were tried a second time.
        fewer_workers: Whether fewer processes read from here on, as several were killed.
        refusal: Why the shard was not written; empty where it was.
    """

    read: int = 0
    images: int = 0
    failed: list[tuple[int, Outcome]] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    fewer_workers: bool = False
    refusal: str = ""

    def to_text(self) -> str:
        """As text that Ray passes on."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Report":
        """Read it back."""
        told = json.loads(text)
        failed = [(number, _OUTCOMES[code]) for number, code in told.pop("failed")]
        return cls(failed=failed, **told)


class ShardScorer:
    """Writes shards; a class of the kind that Ray Data keeps in an actor.

    What goes wrong is in what it gives, as an exception would end the whole job.
    """

    def __init__(self, errand: Errand) -> None:
        """Load the model and start the reading processes."""
        self._errand = errand
        self._told = _Told()
        self._open = ExitStack()
        self._after = 0
        self._refusal = ""
        self._begin()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the shard whose index is `row["shard"]`; tells of it in `report`, as text."""
        index = int(row["shard"])
        return {"shard": index, "report": self._written(index).to_text()}

    def _begin(self) -> None:
        """Start what writes, anew if it was there; or be refused for good."""
        try:
            with writing(self._errand.output):
                self._open.close()
                self._engine = self._errand.engine(self._told)
                sharding = self._engine.sharding(self._errand.run)
                self._write = self._open.enter_context(sharding.opened())
        except CxrbatchError as error:
            self._refusal = str(error)

    def _written(self, index: int) -> Report:
        numbers = self._errand.run.shards[index]
        if numbers.start < self._after and not self._refusal:
            self._begin()  # rows of an earlier table are found in ascending order alone
        report = self._told.report = Report(refusal=self._refusal)
        if self._refusal:
            return report
        try:
            self._after = numbers.stop
            summary = self._engine.summary
            summary.read = summary.images = 0
            with writing(self._errand.output):
                self._write({shard_path(self._engine.folder, index): numbers})
            report.read, report.images = summary.read, summary.images
        except CxrbatchError as error:
            report.refusal = str(error)
        return report


class _Told:
    """Progress that is written down for the one who leads the run."""

    def __init__(self) -> None:
        self.report = Report()

    def found(self, files: int) -> None:
        """The walk is not made here."""

    def start(self, files: int, *, done: int) -> None:
        """Nor does the run start here."""

    def advance(self, files: int) -> None:
        """Leave it to the shard's end."""

    def shard_done(self, files: int) -> None:
        """The report's arrival says it."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Note a failure, without the path."""
        self.report.failed.append((number, outcome))

    def retried(self, number: int, path: str) -> None:
        """Note it, without the path; called by several threads."""
        self.report.retried.append(number)

    def fewer_workers(self) -> None:
        """Note it."""
        self.report.fewer_workers = True
