"""A training as the command runs it: from labels to a checkpoint and what lies beside it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from cxrbatch.atomic import writing
from cxrbatch.errors import LabelError, UsageError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.weight_files import save_checkpoint
from cxrbatch.paths import check_output
from cxrbatch.reading.outcomes import OutcomeKind
from cxrbatch.training import console as telling
from cxrbatch.training import states
from cxrbatch.training.augment import write_contact_sheet
from cxrbatch.training.console import write_curves
from cxrbatch.training.dataset import Inputs, forget_inputs, prepare_inputs
from cxrbatch.training.distributed import World, joined
from cxrbatch.training.duplicates import near_duplicates
from cxrbatch.training.groups import join_patients, write_leaks
from cxrbatch.training.initial import Initial, check_teachers, read_initial
from cxrbatch.training.labels import (
    Labelled,
    collect,
    describe_mismatches,
    order_classes,
    refuse_mismatches,
    write_mismatches,
)
from cxrbatch.training.loop import Epoch, options_fingerprint
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.results import write_results
from cxrbatch.training.split import LeakError, Split, check_split, split_files
from cxrbatch.training.train import Data, prepare_data, train

_MAX_UNREADABLE = 0.05
_BESIDE = ("split.csv", "augmented.png", "curves.svg", "results.parquet")
_LISTINGS = ("mismatches.csv", "leaks.csv")


@dataclass(frozen=True, slots=True)
class Sources:
    """What is trained on.

    Attributes:
        data: Class folders and labels files.
        roots: What the paths of labels files are relative to; none for their own folders.
        classes: Order of the classes; none for the alphabet's.
    """

    data: Sequence[Path]
    roots: Sequence[Path]
    classes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the command.

    Attributes:
        sources: What is trained on.
        output: The checkpoint.
        name: Of the checkpoint, for people.
        limits: What to know of the data before believing a score.
        options: Of the training.
        initial: Weights to start from.
        teachers: Checkpoints to learn from too.
        cache: Where decoded images stay; None to have them go with the training's folder.
        workers: Processes that read.
        device: Where to compute.
        drop_leaks: Leave out what a given split has on another side too.
        resume: Go on with a training that was stopped.
        overwrite: Drop one.
    """

    sources: Sources
    output: Path
    name: str
    limits: Sequence[str]
    options: TrainingOptions
    initial: Path | None
    teachers: Sequence[Path]
    cache: Path | None
    workers: int
    device: torch.device
    drop_leaks: bool
    resume: bool
    overwrite: bool

    @property
    def folder(self) -> Path:
        """Where a training keeps what it needs to go on."""
        return states.training_folder(self.output)

    @property
    def recipe(self) -> Recipe:
        """How images become inputs."""
        return Recipe(size=self.options.size, geometry=self.options.geometry)

    @property
    def goes_on(self) -> bool:
        """Whether there is a training to go on with."""
        return self.resume and states.holds_run(self.folder)

    def beside(self, ending: str) -> Path:
        """A file that lies beside the checkpoint."""
        return self.output.with_name(f"{self.output.stem}.{ending}")

    def spare(self, sources: Iterable[Path | None]) -> None:
        """Refuse to write over what is read, also where asked to overwrite.

        Raises:
            UsageError: A file that is written is one of the sources.
        """
        read = set(_places(filter(None, sources)))
        for path in (self.output, *map(self.beside, (*_BESIDE, *_LISTINGS))):
            if read.intersection(_places([path])):
                raise UsageError(f"{path} is to be read and would be replaced; choose another -o")


def run_session(session: Session, told: telling.Progress) -> bool:
    """Train, and write the checkpoint and what belongs to it.

    Returns:
        Whether every labelled image could be read.

    Raises:
        CxrbatchError: Labels, images, options or the disk stand against it.
    """
    session.spare([*session.sources.data, session.initial, *session.teachers])
    arch = session.options.architecture
    initial = read_initial(session.initial, architecture=arch) if session.initial else None
    teachers = [load_checkpoint(path) for path in session.teachers]
    with (
        joined(session.device) as world,
        states.claimed(session.folder) if world.leads else nullcontext(),
    ):
        world.part(session.options.batch_size)  # or it would be refused when all is read
        if world.leads:
            _make_way(session, teachers)
        with world.first_alone():
            labelled, data = _prepared(session, initial, teachers, quiet=not world.leads)
        checkpoint = _trained(session, labelled, data, initial, teachers, world, told)
        if checkpoint is not None:
            _write(session, checkpoint, labelled, data)
    return not any(item.outcome.kind is OutcomeKind.FAILED for item in data.unreadable)


def _places(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Device and inode of those that are there: what a file is, by whatever name."""
    for path in paths:
        with suppress(OSError):
            state = path.stat()
            yield state.st_dev, state.st_ino


def _make_way(session: Session, teachers: Sequence[Checkpoint]) -> None:
    """Refuse, keep or remove what a training that was stopped left."""
    if session.goes_on:
        prints = options_fingerprint(session.options, session.recipe, teachers)
        states.check_state(session.folder, fingerprint=prints)
    if not states.holds_run(session.folder):
        if session.resume:
            telling.nothing_to_resume()
    elif not session.resume:
        if not session.overwrite:
            raise states.stopped_training(session.folder)
        states.clear(session.folder)
    for ending in _BESIDE:
        check_output(session.beside(ending), overwrite=session.overwrite or session.resume)
    for ending in _LISTINGS:
        check_output(session.beside(ending), overwrite=True)


def _prepared(
    session: Session, initial: Initial | None, teachers: Sequence[Checkpoint], *, quiet: bool
) -> tuple[Labelled, Data]:
    """All that can be refused without reading an image is refused before one is read."""
    labelled = _collected(session, quiet=quiet)
    classes = order_classes(labelled.files, session.sources.classes)
    check_teachers(teachers, classes=classes, geometry=session.recipe.geometry)
    check_split(labelled.files)
    inputs = _read(session, labelled, quiet=quiet)
    data = prepare_data(labelled, inputs, _split(session, labelled, inputs), classes=classes)
    if not quiet:
        telling.data(data, initial)
    return labelled, data


def _begin(session: Session, labelled: Labelled, data: Data) -> None:
    """Write what shows what is trained on, and leave no list of what is no more."""
    write_mismatches(labelled.mismatches, session.beside("mismatches.csv"))
    if not data.split.report.dropped:
        write_leaks([], session.beside("leaks.csv"))
    data.split.write(session.beside("split.csv"))
    write_contact_sheet(
        session.beside("augmented.png"),
        data.sides["train"],
        classes=data.classes,
        flip=session.options.flip,
        seed=session.options.seed,
    )


def _collected(session: Session, *, quiet: bool) -> Labelled:
    labelled = collect(session.sources.data, roots=session.sources.roots)
    session.spare(labelled.located)
    listing = session.beside("mismatches.csv")
    if not quiet:
        if not session.goes_on or any(mismatch.is_fatal for mismatch in labelled.mismatches):
            write_mismatches(labelled.mismatches, listing)
        telling.lines(describe_mismatches(labelled.mismatches, listing=listing))
    refuse_mismatches(labelled.mismatches, listing=listing)
    return labelled


def _read(session: Session, labelled: Labelled, *, quiet: bool) -> Inputs:
    count = len(labelled.files)
    with tqdm(total=count, desc="reading", unit="file", disable=True if quiet else None) as bar:
        inputs = prepare_inputs(
            labelled,
            recipe=session.recipe,
            workers=session.workers,
            folder=session.cache or session.folder,
            progress=bar.update,
        )
    unreadable = inputs.unreadable(labelled.files)
    if not quiet:
        telling.unreadable(unreadable)
    if len(unreadable) > _MAX_UNREADABLE * count:
        raise LabelError(
            f"{len(unreadable)} of {count} files gave no image, and {_MAX_UNREADABLE:.0%} may; "
            "look at some with `cxrbatch inspect`, then copy them again or remove their labels"
        )
    return inputs


def _split(session: Session, labelled: Labelled, inputs: Inputs) -> Split:
    pairs = near_duplicates(inputs.values, readable=inputs.readable)
    patients = join_patients(labelled.files, inputs.patients)
    try:
        return split_files(
            patients.files,
            pairs,
            seed=session.options.seed,
            drop_leaks=session.drop_leaks,
            patients=patients.counts,
        )
    except LeakError as error:
        listing = session.beside("leaks.csv")
        write_leaks(error.leaks, listing)
        telling.lines([f"all leaks are listed in {listing}"])
        raise


def _trained(
    session: Session,
    labelled: Labelled,
    data: Data,
    initial: Initial | None,
    teachers: Sequence[Checkpoint],
    world: World,
    told: telling.Progress,
) -> Checkpoint | None:
    options = session.options
    draws = options.draws or len(data.sides["train"])
    total = -(-draws // options.batch_size) * options.batch_size * options.epochs
    silent = None if world.leads else True

    def on_start() -> None:
        if world.leads:
            _begin(session, labelled, data)

    def on_epoch(epoch: Epoch) -> None:
        if world.leads:
            told.epoch(epoch)

    with tqdm(total=total, desc="training", unit="img", disable=silent) as bar:
        return train(
            data,
            name=session.name,
            limits=session.limits,
            recipe=session.recipe,
            options=options,
            initial=initial,
            teachers=teachers,
            device=session.device,
            folder=session.folder,
            resume=session.resume,
            world=world,
            on_start=on_start,
            on_step=bar.update,
            on_epoch=on_epoch,
        )


def _write(session: Session, checkpoint: Checkpoint, labelled: Labelled, data: Data) -> None:
    """The checkpoint last: where it is there, all of it is."""
    summary = checkpoint.card.training
    write_curves(session.beside("curves.svg"), [Epoch(**epoch) for epoch in summary["history"]])
    partial = session.folder / "finished.safetensors"
    save_checkpoint(
        partial, model=checkpoint.model, card=checkpoint.card, features=checkpoint.features
    )
    held = [i for i, file in enumerate(data.split.files) if file.split in ("val", "test")]
    table = session.beside("results.parquet")
    with writing(session.output):
        write_results(
            table,
            [data.split.files[i] for i in held],
            [labelled.located[i] for i in held],
            checkpoint=partial,
            workers=session.workers,
            device=session.device,
            precision=session.options.precision,
        )
        partial.replace(session.output)
    states.clear(session.folder)
    if session.cache is None:
        forget_inputs(session.folder, session.recipe)
    telling.result(summary, session.output, table)
