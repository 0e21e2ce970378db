"""The steps of a training: labels, images, split, network, and the files beside the checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cxrbatch.files import writing
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint, bundled_checkpoint, load_checkpoint
from cxrbatch.model.network import model_of, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.training import states
from cxrbatch.training.cache import DecodedInputs, UnreadableFile
from cxrbatch.training.config import write_config
from cxrbatch.training.console import Console
from cxrbatch.training.dataset import TrainingData, divide_inputs
from cxrbatch.training.distributed import ProcessGroup, process_group
from cxrbatch.training.duplicates import near_duplicates
from cxrbatch.training.fitting import check_texts, new_card, train_network
from cxrbatch.training.foreign import FurtherFiles, FurtherImages
from cxrbatch.training.initial import InitialWeights, read_initial
from cxrbatch.training.labelled_files import CollectedLabels, LabelSources
from cxrbatch.training.labelled_images import CollectedImages, ImageCollector
from cxrbatch.training.labelled_tables import write_results
from cxrbatch.training.loop import EpochMetrics, options_fingerprint
from cxrbatch.training.metrics_log import MetricsLog
from cxrbatch.training.outputs import TrainingResult, write_contact_sheet, write_curves
from cxrbatch.training.run_files import RunFiles
from cxrbatch.training.run_listener import RunListener
from cxrbatch.training.split import Split, check_split, join_patients, split_files
from cxrbatch.training.split_report import LeakError, write_leaks
from cxrbatch.training.store import remove_stores
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup

_KEYS = {"class_map": "map", "architecture": "arch"}
_FIXED = {"weight_decay", "label_smoothing", "warmup", "averaging"}


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from, known before any label is read.

    Attributes:
        group: The processes that train together.
        initial: Weights to start from; None for random ones.
        teachers: Checkpoints whose probabilities the network learns as well.
    """

    group: ProcessGroup
    initial: InitialWeights | None
    teachers: Sequence[Checkpoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One call of `train`, with its arguments resolved.

    Attributes:
        sources: Where labels and files are, and the order of the classes.
        check_only: Only show how labels and files fit; write nothing.
        files: Paths of what is written, and whether what is there may be replaced.
        name: Name in the checkpoint's card.
        limits: Sentences for the card about what the data cannot show.
        options: Options that decide the weights.
        init: File of weights to start from; None for random ones.
        teachers: Checkpoints whose probabilities the network learns as well.
        cache: Folder that keeps decoded images; None keeps them until this training is done.
        workers: Processes that read, and that augment for a GPU.
        device: The device that trains and evaluates.
        further: Files of twins for the controls, and of foreign images for the gate.
        drop_leaks: Leave out files whose patient or picture a given split has in another subset.
        console: Shows messages and progress.
        on_epoch: Called with the metrics of each epoch by the first process; None calls nothing.
    """

    sources: LabelSources
    check_only: bool
    files: RunFiles
    name: str
    limits: Sequence[str]
    options: TrainingOptions
    init: Path | None
    teachers: Sequence[Path]
    cache: Path | None
    workers: int
    device: torch.device
    further: FurtherFiles
    drop_leaks: bool
    console: Console
    on_epoch: Callable[[EpochMetrics], object] | None

    @property
    def recipe(self) -> Recipe:
        """How images become the network's inputs."""
        return Recipe(size=self.options.size, geometry=self.options.geometry)

    def as_config(self) -> dict[str, object]:
        """Return the options that repeat this training, by their keys in a configuration file.

        Not among them are those of one call alone: check-labels, mismatches, overwrite, resume.
        """
        options = {**asdict(self.sources.options), **asdict(self.options)}
        return {
            "data": self.sources.data,
            "output": self.files.output,
            "root": self.sources.roots,
            "cache": self.cache,
            "name": self.name,
            "classes": self.sources.classes,
            "limit": self.limits,
            # Its own path is that of an installation.
            "init": "default" if self.init == bundled_checkpoint() else self.init,
            "teacher": self.teachers,
            **{_KEYS.get(n, n.replace("_", "-")): v for n, v in options.items() if n not in _FIXED},
            **self.further.as_config(),
            "folds": self.files.folds,
            "drop-leaks": self.drop_leaks,
            "workers": self.workers,
            "device": self.device.type,  # without the number that torchrun gives each process
        }

    @property
    def collector(self) -> ImageCollector:
        """Reads the labels and decodes their images."""
        return ImageCollector(
            sources=self.sources,
            files=self.files,
            recipe=self.recipe,
            workers=self.workers,
            folder=self.cache or self.files.folder,
            further=self.further,
            console=self.console,
        )

    def execute(self) -> TrainingResult:
        """Train, and write the checkpoint and the files beside it; if `check_only`, check labels.

        If `torchrun` started several processes, each calls this; the first alone writes outputs.

        Raises:
            UsageError: The options contradict each other or the files that exist.
            LabelError: Labels and files do not match or cannot be split, or more than 5 % of the
                files have no image.
            CheckpointError: `init` or a teacher cannot be used.
            CxrbatchError: The loss diverged, a file cannot be written, and other failures.
        """
        check_texts(self.name, self.limits)
        if self.check_only:
            self.collector.show(check_split)
            return self.result(None, ())
        with self.opened() as (run, start):
            return run._execute(start)

    @contextmanager
    def opened(self) -> Iterator[tuple["TrainingRun", Start]]:
        """Check outputs, read initial weights and teachers, join the other processes, lock.

        The folder of states is locked while the block runs.

        Yields:
            This run, which is silent in all processes but the first, and what it starts from.

        Raises:
            UsageError, CheckpointError, CxrbatchError: In the cases that `execute` lists.
        """
        self.files.check_output()
        further = self.further.paths
        self.files.check_sources([*self.sources.data, self.init, *self.teachers, *further])
        initial = None
        if self.init:
            initial = read_initial(self.init, architecture=self.options.architecture)
        teachers = [load_checkpoint(path) for path in self.teachers]
        with (
            process_group(self.device) as group,
            states.locked_folder(self.files.folder) if group.leads else nullcontext(),
        ):
            group.part_size(self.options.batch_size)  # or it would be refused after the reading
            if group.leads:
                self.files.make_way(lambda: self.fingerprint(teachers), self.console.say)
            silent = replace(self, console=Console(enabled=False))
            yield self if group.leads else silent, Start(group, initial, teachers)

    def fingerprint(self, teachers: Sequence[Checkpoint]) -> states.Fingerprint:
        """Return what a continued training must share with this one, as far as options say it."""
        options = options_fingerprint(self.options, self.recipe, teachers)
        return {**options, "folds": self.files.folds}

    def _execute(self, start: Start) -> TrainingResult:
        with start.group.first_alone():
            images, data = self._prepare(start)
            further = self.collector.read_further(data, images.labels, leads=start.group.leads)
        checkpoint = self.fit_network(
            data, start, further=further, started=lambda: self._begin(data)
        )
        if checkpoint is not None:
            self._write(checkpoint, images.labels, data)
        return self.result(None if checkpoint is None else checkpoint.card, data.unreadable)

    def fit_network(
        self,
        data: TrainingData,
        start: Start,
        *,
        further: FurtherImages,
        started: Callable[[], object],
    ) -> Checkpoint | None:
        """Train one network, calibrate it on validation and evaluate it on test.

        Args:
            data: The images, divided into train, val and test.
            start: What the training starts from.
            further: Twins and foreign images, in the first process.
            started: Called in the first process before the first step, when all checks have passed.

        Returns:
            The checkpoint, in memory; None in all processes but the first.

        Raises:
            CheckpointError, UsageError, CxrbatchError: In the cases of `train_network`.
        """
        setup = TrainingSetup(
            card=new_card(
                data, self.options, name=self.name, limits=self.limits, initial=start.initial
            ),
            options=self.options,
            device=self.device,
            teachers=start.teachers,
            folder=self.files.folder,
            resume=self.files.resume,
            group=start.group,
            workers=self.workers,
        )
        listener = RunListener(
            self.console,
            on_epoch=self.on_epoch if start.group.leads else None,
            log=MetricsLog(self.files.metrics) if start.group.leads else None,
            started=started,
        )
        steps = self.options.steps(len(data.subsets["train"])) * self.options.epochs
        with self.console.bar("training", steps * self.options.batch_size, "img"):
            return train_network(
                data, setup, initial=start.initial, listener=listener, further=further
            )

    def result(self, card: Card | None, unreadable: Sequence[UnreadableFile]) -> TrainingResult:
        """Return the paths of the files that this run writes, with a card and unreadable files."""
        results, split = map(self.files.beside, ("results.parquet", "split.csv"))
        return TrainingResult(self.files.parts[0].output, results, split, card, tuple(unreadable))

    def _prepare(self, start: Start) -> tuple[CollectedImages, TrainingData]:
        """Read labels and images, and split them."""
        images = self.collector.read(check_split, start.teachers, leads=start.group.leads)
        self.tell_head(start.initial, images.classes)
        split = self._split(images.labels, images.inputs)
        data = divide_inputs(images.inputs, split, classes=images.classes)
        self.console.say(*data.split.report.lines())
        return images, data

    def tell_head(self, initial: InitialWeights | None, classes: Sequence[str]) -> None:
        """Say so if the initial weights have a head for other classes, which is replaced."""
        if initial is not None and initial.head_rows(classes) is None:
            self.console.say(
                "--init has a head for other classes: it is replaced by one of random weights"
            )

    def _split(self, labels: CollectedLabels, inputs: DecodedInputs) -> Split:
        patients = join_patients(labels.files, inputs.patients)
        try:
            return split_files(
                patients.files,
                near_duplicates(inputs.values, readable=inputs.readable),
                seed=self.options.seed,
                drop_leaks=self.drop_leaks,
                patients=patients.counts,
            )
        except LeakError as error:
            write_leaks(error.leaks, self.files.leaks)
            self.console.say(f"all leaks are listed in {self.files.leaks}")
            raise

    def _begin(self, data: TrainingData) -> None:
        """Write options, split and examples; delete the list of leaks of an earlier run."""
        if not data.split.report.dropped:
            write_leaks([], self.files.leaks)
        write_config(self.files.config, self.as_config())
        data.split.write(self.files.beside("split.csv"))
        self.write_examples(data)

    def write_examples(self, data: TrainingData) -> None:
        """Write .augmented.png: some training images and augmented versions of each.

        Raises:
            TableError: The file cannot be written.
        """
        write_contact_sheet(
            self.files.beside("augmented.png"),
            data.subsets["train"],
            classes=data.classes,
            flip=self.options.flip,
            seed=self.options.seed,
        )

    def _write(self, checkpoint: Checkpoint, labels: CollectedLabels, data: TrainingData) -> None:
        """Write curves, results and the checkpoint, which comes last: it stands for all."""
        partial = self.write_partial(checkpoint)
        table = self.files.beside("results.parquet")
        pairs = zip(data.split.files, labels.located, strict=True)
        with writing(self.files.output):
            write_results(
                table,
                [(label, file) for label, file in pairs if label.split in ("val", "test")],
                root=labels.root,
                checkpoints=[partial],
                workers=self.workers,
                device=self.device,
                precision=self.options.precision,
            )
            partial.replace(self.files.output)
        self.clear()
        summary = checkpoint.card.training
        self.console.result(summary, checkpoint=self.files.output, table=table)

    def write_partial(self, checkpoint: Checkpoint) -> Path:
        """Write the curves, and the checkpoint to a file in the folder of states.

        Returns:
            The path of the file, which is to be moved to `files.output`.

        Raises:
            CxrbatchError: A file cannot be written.
        """
        history = [EpochMetrics(**epoch) for epoch in checkpoint.card.training["history"]]
        write_curves(self.files.beside("curves.svg"), history)
        partial = self.files.folder / "finished.safetensors"
        model = model_of(checkpoint.tensors, checkpoint.card.architecture)
        save_checkpoint(partial, model=model, card=checkpoint.card, features=checkpoint.features)
        return partial

    def clear(self) -> None:
        """Delete the states of this training, and its decoded images unless `cache` keeps them.

        Raises:
            CxrbatchError: A file cannot be deleted.
        """
        states.clear_states(self.files.folder)
        if self.cache is None:
            remove_stores(self.files.folder)
