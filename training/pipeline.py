"""The steps of a training: labels, images, split, network, and the files beside the checkpoint."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cxrbatch.errors import LabelError
from cxrbatch.files import writing
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint, bundled_checkpoint, load_checkpoint
from cxrbatch.model.network import model_of, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.training import states
from cxrbatch.training.cache import DecodedInputs, UnreadableFile, prepare_inputs
from cxrbatch.training.config import write_config
from cxrbatch.training.console import Console
from cxrbatch.training.dataset import TrainingData, divide_inputs
from cxrbatch.training.distributed import ProcessGroup, process_group
from cxrbatch.training.duplicates import near_duplicates
from cxrbatch.training.fitting import check_texts, new_card, train_network
from cxrbatch.training.initial import InitialWeights, check_teachers, read_initial
from cxrbatch.training.labelled_files import CollectedLabels, LabelSources, collect_labels
from cxrbatch.training.loop import EpochMetrics, TrainingListener, options_fingerprint
from cxrbatch.training.metrics_log import MetricsLog
from cxrbatch.training.mismatches import order_classes, refuse_mismatches, write_mismatches
from cxrbatch.training.outputs import (
    TrainingResult,
    write_contact_sheet,
    write_curves,
    write_results,
)
from cxrbatch.training.run_files import RunFiles
from cxrbatch.training.split import Split, check_split, join_patients, split_files
from cxrbatch.training.split_report import LeakError, write_leaks
from cxrbatch.training.store import remove_stores
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup
from cxrbatch.training.twins import TwinFiles, TwinInputs, read_twins

_MAX_UNREADABLE = 0.05
_KEYS = {"class_map": "map", "architecture": "arch"}
_FIXED = {"weight_decay", "label_smoothing", "warmup", "averaging"}


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
        twins: Pairs of files of one film for the controls; None for none.
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
    twins: TwinFiles | None
    drop_leaks: bool
    console: Console
    on_epoch: Callable[[EpochMetrics], object] | None

    @property
    def recipe(self) -> Recipe:
        """Size and geometry of the network's inputs, from the options."""
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
            "twins": None if self.twins is None else self.twins.source,
            "drop-leaks": self.drop_leaks,
            "workers": self.workers,
            "device": self.device.type,  # without the number that torchrun gives each process
        }

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
            return self._check()
        self.files.check_output()
        twins = self.twins.paths if self.twins else []
        self.files.check_sources([*self.sources.data, self.init, *self.teachers, *twins])
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
                self.files.make_way(
                    lambda: options_fingerprint(self.options, self.recipe, teachers),
                    self.console.say,
                )
                return self._execute(group, initial, teachers)
            return replace(self, console=Console(enabled=False))._execute(group, initial, teachers)

    def _execute(
        self, group: ProcessGroup, initial: InitialWeights | None, teachers: Sequence[Checkpoint]
    ) -> TrainingResult:
        with group.first_alone():
            labels, data = self._prepare(initial, teachers, leads=group.leads)
            twins = self._twin_inputs(labels, data) if group.leads else None
        setup = TrainingSetup(
            card=new_card(data, self.options, name=self.name, limits=self.limits, initial=initial),
            options=self.options,
            device=self.device,
            teachers=teachers,
            folder=self.files.folder,
            resume=self.files.resume,
            group=group,
            workers=self.workers,
        )
        listener = _Listener(self, data, leads=group.leads)
        steps = self.options.steps(len(data.subsets["train"])) * self.options.epochs
        with self.console.bar("training", steps * self.options.batch_size, "img"):
            checkpoint = train_network(data, setup, initial=initial, listener=listener, twins=twins)
        if checkpoint is not None:
            self._write(checkpoint, labels, data)
        return self._result(None if checkpoint is None else checkpoint.card, data.unreadable)

    def _result(self, card: Card | None, unreadable: Sequence[UnreadableFile]) -> TrainingResult:
        beside = self.files.beside
        results, split = beside("results.parquet"), beside("split.csv")
        return TrainingResult(self.files.output, results, split, card, tuple(unreadable))

    def _prepare(
        self, initial: InitialWeights | None, teachers: Sequence[Checkpoint], *, leads: bool
    ) -> tuple[CollectedLabels, TrainingData]:
        """Collect labels, decode images and split them.

        All that can be refused without reading an image is refused before one is read.
        """
        labels = self._collect(leads=leads)
        classes = order_classes(labels.files, self.sources.classes)
        check_teachers(teachers, classes=classes, geometry=self.recipe.geometry)
        check_split(labels.files)
        inputs = self._decode(labels)
        data = divide_inputs(inputs, self._split(labels, inputs), classes=classes)
        self.console.say(*data.split.report.lines())
        if initial is not None and initial.head_rows(data.classes) is None:
            self.console.say(
                "--init has a head for other classes: it is replaced by one of random weights"
            )
        return labels, data

    def _collect(self, *, leads: bool) -> CollectedLabels:
        listing = self.files.mismatches
        labels = self._collected(all_unlabelled=listing is not None and leads)
        self.files.check_sources(Path(os.fsdecode(file.path)) for file in labels.located)
        if listing is not None and leads:
            write_mismatches(labels.mismatches, labels.unlabelled_paths, listing)
        self.console.say(*(f"{title}: {text}" for title, text in labels.notes))
        self.console.mismatches(labels, listing=listing)
        refuse_mismatches(labels.mismatches)
        return labels

    def _collected(self, *, all_unlabelled: bool = False) -> CollectedLabels:
        return collect_labels(
            self.sources,
            all_unlabelled=all_unlabelled,
            bar=lambda: self.console.bar("reading headers", None, "file"),
            progress=self.console.advance,
        )

    def _check(self) -> TrainingResult:
        """Show how labels and files fit, and raise what would stop the training."""
        labels = self._collected()
        twins = [("twins", self.twins.summary())] if self.twins else []
        self.console.show(*labels.notes, *labels.counts(), *twins)
        self.console.mismatches(labels, listing=None)
        refuse_mismatches(labels.mismatches)
        order_classes(labels.files, self.sources.classes)
        check_split(labels.files)
        return self._result(None, ())

    def _decode(self, labels: CollectedLabels) -> DecodedInputs:
        count = len(labels.files)
        with self.console.bar("reading", count, "file"):
            inputs = prepare_inputs(
                labels.located,
                recipe=self.recipe,
                workers=self.workers,
                folder=self.cache or self.files.folder,
                progress=self.console.advance,
            )
        unreadable = inputs.unreadable(labels.files)
        self.console.unreadable(unreadable)
        if len(unreadable) > _MAX_UNREADABLE * count:
            raise LabelError(
                f"{len(unreadable)} of {count} files gave no image, and {_MAX_UNREADABLE:.0%} may; "
                "look at some with `cxrbatch inspect`, then copy them again or remove their labels"
            )
        return inputs

    def _twin_inputs(self, labels: CollectedLabels, data: TrainingData) -> TwinInputs | None:
        if self.twins is None:
            return None
        self.console.say(f"twins: {self.twins.summary()}")
        pairs = zip(data.split.files, labels.located, strict=True)
        train = [file for label, file in pairs if label.split == "train"]
        with self.console.bar("reading twins", len(self.twins.files), "file"):
            return read_twins(
                self.twins,
                recipe=self.recipe,
                workers=self.workers,
                folder=self.cache or self.files.folder,
                train=train,
                progress=self.console.advance,
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

    def begin(self, data: TrainingData) -> None:
        """Write options, split and augmented examples, before the first step of training.

        They lie beside the checkpoint: .toml with all options, .split.csv, and .augmented.png with
        training images and augmented versions of each. The list .leaks.csv of an earlier run is
        deleted if no file was dropped for a leak.

        Raises:
            TableError: A file cannot be written.
        """
        if not data.split.report.dropped:
            write_leaks([], self.files.leaks)
        write_config(self.files.config, self.as_config())
        data.split.write(self.files.beside("split.csv"))
        write_contact_sheet(
            self.files.beside("augmented.png"),
            data.subsets["train"],
            classes=data.classes,
            flip=self.options.flip,
            seed=self.options.seed,
        )

    def _write(self, checkpoint: Checkpoint, labels: CollectedLabels, data: TrainingData) -> None:
        """Write curves, results and the checkpoint, which comes last: it stands for all."""
        summary = checkpoint.card.training
        history = [EpochMetrics(**epoch) for epoch in summary["history"]]
        write_curves(self.files.beside("curves.svg"), history)
        partial = self.files.folder / "finished.safetensors"
        model = model_of(checkpoint.tensors, checkpoint.card.architecture)
        save_checkpoint(partial, model=model, card=checkpoint.card, features=checkpoint.features)
        table = self.files.beside("results.parquet")
        pairs = zip(data.split.files, labels.located, strict=True)
        with writing(self.files.output):
            write_results(
                table,
                [(label, file) for label, file in pairs if label.split in ("val", "test")],
                root=labels.root,
                checkpoint=partial,
                workers=self.workers,
                device=self.device,
                precision=self.options.precision,
            )
            partial.replace(self.files.output)
        states.clear_states(self.files.folder)
        if self.cache is None:
            remove_stores(self.files.folder)
        self.console.result(summary, checkpoint=self.files.output, table=table)


class _Listener(TrainingListener):
    """Shows and writes the progress of a training; writes split and examples when it starts."""

    def __init__(self, run: TrainingRun, data: TrainingData, *, leads: bool) -> None:
        self._run, self._data = run, data
        self._log = MetricsLog(run.files.metrics) if leads else None

    def started(self, history: Sequence[EpochMetrics]) -> None:
        if self._log is not None:
            self._run.begin(self._data)
            self._log.start(history)

    def stepped(self, images: int) -> None:
        self._run.console.advance(images)
        if self._log is not None:
            self._log.stepped(images)

    def epoch_done(self, metrics: EpochMetrics) -> None:
        self._run.console.epoch(metrics)
        if self._log is not None:
            self._log.append(metrics)
            if self._run.on_epoch is not None:
                self._run.on_epoch(metrics)
