"""The function `train`: from labelled files to a checkpoint and the files beside it."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.inference import Precision, choose_device, choose_precision
from cxrbatch.model.preprocessing import MAX_SIZE, MIN_SIZE, Geometry
from cxrbatch.process import default_workers
from cxrbatch.training.console import Console
from cxrbatch.training.distributed import local_device
from cxrbatch.training.pipeline import TrainingResult, TrainingRun
from cxrbatch.training.trainer import TrainingOptions

Paths = str | Path | Sequence[str | Path]
"""One path, or several."""


def train(
    data: Paths,
    output: str | Path,
    *,
    overwrite: bool = False,
    root: Paths = (),
    cache: str | Path | None = None,
    name: str | None = None,
    classes: Sequence[str] = (),
    arch: str = "resnet18",
    size: int = 160,
    geometry: Geometry = "squeeze",
    epochs: int = 8,
    patience: int | None = None,
    draws: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    limit: str | Sequence[str] = (),
    init: str | Path | None = None,
    teacher: Paths = (),
    teacher_weight: float = 0.7,
    drop_leaks: bool = False,
    flip: bool = False,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    resume: bool = False,
    progress: bool | Console = True,
) -> TrainingResult:
    """Train a classifier on labelled radiographs, as the command `cxrbatch train` does.

    Args:
        data: Folders of class folders, and CSV or Parquet files of labels.
        output: The checkpoint to write; split, examples, curves and results are written beside it.
        overwrite: Replace these files if they exist, and delete the saved state of a training to
            the same output that was stopped. Without it, either raises UsageError, unless
            `resume` continues that training.
        root: Folders that relative paths in labels files start from; by default the folder of
            each labels file.
        cache: Folder to keep decoded images for later runs; by default for this run only.
        name: Name in the checkpoint's card; by default the stem of the output's file name.
        classes: Class names in the order of the scores; by default in alphabetical order.
        arch: "resnet18", "resnet34" or "resnet50".
        size: Edge of the square input in pixels, at least 32.
        geometry: "squeeze" or "pad" to the square.
        epochs: Number of epochs, at most.
        patience: Stop after so many epochs in a row without a better validation AUC; None never
            stops early.
        draws: Images drawn per epoch, classes equally often; by default one per training image.
        batch_size: Images per step, over all processes.
        learning_rate: Peak of the schedule, in (0, 1].
        limit: Sentences for the card about what the data cannot show.
        init: Weights to start from: a checkpoint, or a state dict of a torchvision ResNet; by
            default random ones.
        teacher: Checkpoints of the same classes whose probabilities the network learns as well.
        teacher_weight: Weight of the teachers in the loss, in [0, 1].
        drop_leaks: Where the labels' own split has one patient or picture in two subsets, leave
            out the files in all but one of them, and keep test before val before train. Without
            it, such a split raises LabelError.
        flip: Mirror half of the training images, which puts hearts on the wrong side.
        seed: Seed of the split and of the training.
        workers: Processes that read files; by default one per core, up to 16.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto", "fp32", "bf16" or "fp16".
        resume: Continue a training to the same output that was stopped, after its last whole
            epoch; start from the first epoch if there is none.
        progress: True shows messages and progress bars on stderr and figures on stdout; False
            shows nothing; a `Console` is used as it is.

    Returns:
        The paths of the files written, the checkpoint's card, and the files without an image.

    Raises:
        UsageError: The arguments contradict each other or the files that exist.
        LabelError: Labels and files do not match or cannot be split, or more than 5 % of the
            files have no image.
        CheckpointError: `init` or `teacher` cannot be used.
        CxrbatchError: The loss diverged, or a file cannot be written.
    """
    console = progress if isinstance(progress, Console) else Console(enabled=progress)
    with nullcontext() if console is progress else _naming_arguments():
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
            flip=flip,
            seed=seed,
        )
        _check_options(options)
        run = TrainingRun(
            data=_paths(data),
            roots=_paths(root),
            classes=classes,
            output=Path(output),
            name=Path(output).stem if name is None else name,
            limits=[limit] if isinstance(limit, str) else limit,
            options=options,
            init=None if init is None else Path(init),
            teachers=_paths(teacher),
            cache=None if cache is None else Path(cache),
            workers=default_workers() if workers is None else workers,
            device=chosen,
            drop_leaks=drop_leaks,
            resume=resume,
            overwrite=overwrite,
            console=console,
        )
        return run.execute()


def _paths(given: Paths) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


_RANGES: dict[str, tuple[float, float]] = {
    "size": (MIN_SIZE, MAX_SIZE),
    "epochs": (1, math.inf),
    "patience": (1, math.inf),
    "draws": (1, math.inf),
    "batch_size": (2, math.inf),
    "learning_rate": (math.ulp(0.0), 1),
    "teacher_weight": (0, 1),
    "seed": (0, math.inf),
}


def _check_options(options: TrainingOptions) -> None:
    """Refuse what the command's own types refuse, too."""
    for name, (low, high) in _RANGES.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name} is {value}; give a value from {low:g} to {high:g}")


_SWITCHES = {"--overwrite", "--resume", "--drop-leaks", "--flip"}
_FLAG = re.compile(r"(?<![\w-])(--[a-z]+(?:-[a-z]+)*|-o)(?![\w-])")


@contextmanager
def _naming_arguments() -> Iterator[None]:
    """Name arguments in place of the command's flags in the message of an error."""

    def argument(flag: re.Match[str]) -> str:
        name = "output" if flag[0] == "-o" else flag[0].removeprefix("--").replace("-", "_")
        return f"{name}=True" if flag[0] in _SWITCHES else name

    try:
        yield
    except CxrbatchError as error:
        error.args = (_FLAG.sub(argument, str(error)), *error.args[1:])
        raise
