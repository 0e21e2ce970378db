"""The public function `train`: from labelled files to a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cxrbatch.errors import UsageError, naming_arguments
from cxrbatch.process import default_workers
from cxrbatch.training.console import Console

if TYPE_CHECKING:  # `train` imports torch when it is called
    from cxrbatch.model.inference import Precision
    from cxrbatch.model.preprocessing import Geometry
    from cxrbatch.training.loop import EpochMetrics
    from cxrbatch.training.outputs import TrainingResult

Paths = str | Path | Sequence[str | Path]
"""One path, or several."""


def train(
    data: Paths,
    output: str | Path,
    *,
    overwrite: bool = False,
    root: Paths = (),
    by: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    class_map: Mapping[str, str] | None = None,
    check_labels: bool = False,
    mismatches: str | Path | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
    classes: Sequence[str] = (),
    arch: str = "resnet18",
    size: int = 160,
    geometry: "Geometry" = "squeeze",
    epochs: int = 8,
    patience: int | None = None,
    draws: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    limit: str | Sequence[str] = (),
    init: str | Path | None = None,
    teacher: Paths = (),
    teacher_weight: float = 0.7,
    freeze_trunk: bool = False,
    class_weights: bool = False,
    twins: str | Path | None = None,
    foreign: str | Path | None = None,
    folds: int | None = None,
    drop_leaks: bool = False,
    flip: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: "Precision" = "auto",
    resume: bool = False,
    progress: "bool | Console" = True,
    on_epoch: "Callable[[EpochMetrics], object] | None" = None,
) -> "TrainingResult":
    """Train a classifier on labelled radiographs, as the command `cxrbatch train` does.

    Args:
        data: Folders of class folders, and files of labels as `load_labels` reads them.
        output: The checkpoint to write; split, examples, metrics, curves, results, and all these
            arguments as a TOML file are written beside it.
        overwrite: Replace these files if they exist and, without `resume`, delete the saved state
            of a training to the same output that was stopped. Without both, either raises
            UsageError.
        root: Folders that relative paths in labels files start from, and below which files are
            looked for by name or header; by default the folder of each labels file.
        by: What names a file in the labels: "path", "name", "sop", "series", "study" or
            "accession"; None takes the first of these that finds a file. For the last four the
            headers of all DICOM files below the roots are read, and a label holds for each file
            that has the UID or number.
        label_column: Name of the labels' column with the class; None finds it by its usual names.
        path_column: Name of the column with the path or file name; None likewise.
        patient_column: Name of the column with an id of the patient; None likewise.
        class_map: Text of a label -> class name that is meant.
        check_labels: Only show how labels and files fit, and write nothing; the result has no card.
        mismatches: CSV file to list labels and files in that do not match; by default they are
            counted, and the first are shown.
        cache: Folder to keep decoded images for later runs; by default until this one is done.
        name: Name in the checkpoint's card; by default the stem of the output's file name.
        classes: Class names in the order of the scores; by default sorted.
        arch: "resnet18", "resnet34" or "resnet50".
        size: Edge of the square input in pixels, 32 to 2048.
        geometry: "squeeze" or "pad" to the square.
        epochs: Number of epochs, at most.
        patience: Stop after so many epochs in a row without a better one (by macro AUC, then by
            loss, on validation); None never stops early.
        draws: Images drawn per epoch, classes equally often, rounded up to whole batches; by
            default as many as there are training images.
        batch_size: Images per step, over all processes.
        learning_rate: Peak of the schedule, in (0, 1].
        limit: Sentences for the card about what the data cannot show.
        init: Weights to start from: a checkpoint, a state dict of a torchvision ResNet, or
            "default" for the bundled model; None for random ones. The head is kept if it is for
            the same classes, in any order, or has as many outputs and names no classes.
        teacher: Checkpoints of the same classes whose probabilities the network learns as well.
        teacher_weight: Weight of the teachers in the loss, in [0, 1].
        freeze_trunk: Train the head only: weights and batch statistics of all other layers stay
            those of `init`, which is needed. It is faster.
        class_weights: Draw all training images equally often, not the classes, and weight the loss
            of each image by its class instead: images / (classes x images of the class).
        twins: A CSV with the columns path and twin: two files of one film, such as encoded in two
            ways. The final network scores both, and the card has by how much its probabilities
            differ. They are not trained on, and need no label.
        foreign: A folder of images that are no frontal chest films, in a folder for each kind, such
            as hands: the checkpoint's input gate learns them. Without it the gate knows films that
            are turned, upside down or inverted, blank pictures and pages of text.
        folds: Number of folds of a cross-validation, 2 to 20: as many networks are trained, each
            tested on a fold of the images that it did not learn from. A split in the labels is
            ignored. None trains one network.
        drop_leaks: Where the labels' own split has one patient or picture in two subsets, leave
            out the files in all but one of them, and keep test before val before train. Without
            it, such a split raises LabelError.
        flip: Mirror training images at random, which puts hearts on the wrong side.
        seed: Seed of the split and of the training.
        workers: Processes that read files, or augment for a GPU; by default one per core, up to 16.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto", "fp32", "bf16" or "fp16".
        resume: Continue a training to the same output that was stopped, after its last whole
            epoch; start from the first epoch if there is none.
        progress: True shows messages and progress bars on stderr and figures on stdout; False
            shows nothing; a `Console` is used as it is.
        on_epoch: Called after each epoch, when its state and its line of metrics are written, with
            an object that has `number` (from 1), `loss`, `val_loss`, `macro_auc` and
            `learning_rate`; in the first process only, and with `folds` for each fold in turn. With
            `resume` it is called first for each epoch that was done before. An exception that it
            raises ends the training and leaves this function as it is; `resume` then continues.

    Returns:
        The paths of the files written, the checkpoint's card, and the files without an image.

    Raises:
        UsageError: The arguments contradict each other or the files that exist, or name images by
            their hash.
        LabelError: Labels and files do not match or cannot be split, or more than 5 % of the
            files have no image.
        CheckpointError: `init` or `teacher` cannot be used.
        CxrbatchError: The loss diverged, a file cannot be written, and other failures.
    """
    from cxrbatch.model.inference import choose_device, choose_precision
    from cxrbatch.results.label_files import LabelOptions
    from cxrbatch.training.distributed import local_device
    from cxrbatch.training.folds import cross_validate
    from cxrbatch.training.foreign import FurtherFiles, locate_foreign
    from cxrbatch.training.labelled_files import LabelSources
    from cxrbatch.training.pipeline import TrainingRun
    from cxrbatch.training.run_files import RunFiles
    from cxrbatch.training.trainer import TrainingOptions, checked_number
    from cxrbatch.training.twins import locate_twins

    console = progress if isinstance(progress, Console) else Console(enabled=progress)
    with nullcontext() if console is progress else naming_arguments():
        if isinstance(classes, str):
            raise UsageError(f"classes is the text {classes[:60]!r}; give a list of names")
        if on_epoch is not None and not callable(on_epoch):
            raise UsageError(f"on_epoch is {repr(on_epoch)[:60]}; give a function")
        if freeze_trunk and init is None:
            raise UsageError("--freeze-trunk keeps the trunk of --init FILE; give --init as well")
        processes = int(
            checked_number("workers", default_workers() if workers is None else workers)
        )
        chosen = local_device(choose_device(device))
        options = TrainingOptions(
            architecture=arch,
            size=size,
            geometry=geometry,
            epochs=epochs,
            patience=patience,
            draws=draws,
            batch_size=batch_size,
            learning_rate=learning_rate,
            teacher_weight=teacher_weight,
            precision=choose_precision(precision, chosen),
            freeze_trunk=bool(freeze_trunk),
            class_weights=bool(class_weights),
            flip=bool(flip),
            seed=seed,
        )
        run = TrainingRun(
            sources=LabelSources(
                data=_paths("data", data),
                roots=_paths("root", root),
                options=LabelOptions(
                    by, label_column, path_column, patient_column, dict(class_map or {})
                ),
                classes=classes,
                workers=processes,
            ),
            check_only=check_labels,
            files=RunFiles(
                output=Path(output),
                mismatches=None if mismatches is None else Path(mismatches),
                resume=resume,
                overwrite=overwrite,
                folds=None if folds is None else int(checked_number("folds", folds)),
            ),
            name=Path(output).stem if name is None else name,
            limits=[limit] if isinstance(limit, str) else limit,
            options=options.checked(),
            init=_initial_file(init),
            teachers=_paths("teacher", teacher),
            cache=None if cache is None else Path(cache),
            workers=processes,
            device=chosen,
            further=FurtherFiles(
                None if twins is None else locate_twins(Path(twins), _paths("root", root)),
                None if foreign is None else locate_foreign(Path(foreign)),
            ),
            drop_leaks=bool(drop_leaks),
            console=console,
            on_epoch=on_epoch,
        )
        return cross_validate(run) if run.files.folds else run.execute()


def _paths(name: str, given: Paths) -> list[Path]:
    try:
        return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
    except TypeError:
        raise UsageError(f"{name} is {given!r}; give a path, or several") from None


def _initial_file(init: str | Path | None) -> Path | None:
    if init == "default":  # a file of this name can be given as ./default
        from cxrbatch.model.checkpoint import bundled_checkpoint

        return bundled_checkpoint()
    return None if init is None else Path(init)
