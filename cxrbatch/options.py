"""The options that several commands share, one decorator each.

A decorator passes one keyword argument on, named in its docstring. Nothing is imported here that
is not needed to print `--help`.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from cxrbatch.process import MOST_WORKERS, default_workers

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)

FILE = click.Path(path_type=Path, dir_okay=False)
"""A file to read or to write; whether it is there is for the command to see."""

SOME_UNREADABLE = 3
"""Exit code of a command that did its work but could not read some images."""

CONDITION_FAILED = 4
"""Exit code of a command that did its work, where what an option asked for does not hold."""

MAX_PIXELS = 200_000_000
MOST_IMAGES_AT_ONCE = 65_536


def finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """Return the value of an option whose callback this is, if it is a finite number.

    Raises:
        BadParameter: It is infinite or NaN (NaN passes every range of Click's).
    """
    if not math.isfinite(value):
        raise click.BadParameter("not a finite number", context, parameter)
    return value


def output_option(help: str) -> Callable[[Decorated], Decorated]:
    """Make a decorator that adds the required option `-o FILE`, or `--output FILE`, to a command.

    The command gets the keyword argument `output`, a Path.

    Args:
        help: The option's help text.
    """
    return click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help=help)


def checkpoint_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--checkpoint FILE` to a command.

    The command gets the keyword argument `checkpoint`: a Path, or None for the bundled model.
    """
    return click.option(
        "--checkpoint",
        type=FILE,
        metavar="FILE",
        help="The model, a .safetensors checkpoint.  [default: the bundled model]",
    )(command)


def overwrite_option(command: Decorated) -> Decorated:
    """Decorator: add the flag `--overwrite` to a command, which gets `overwrite`, a bool."""
    return click.option(
        "--overwrite", is_flag=True, help="Replace an output that is there already."
    )(command)


def json_option(command: Decorated) -> Decorated:
    """Decorator: add the flag `--json` to a command, which gets `as_json`, a bool."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def device_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--device` to a command.

    The command gets the keyword argument `device`: "auto" (the default), "cpu" or "cuda".
    """
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Where the model runs; auto takes a GPU where there is one.",
    )(command)


def precision_option(*, int8: bool = False) -> Callable[[Decorated], Decorated]:
    """Make a decorator that adds the option `--precision` to a command.

    The command gets the keyword argument `precision`: "auto" (the default), "fp32", "bf16" or
    "fp16".

    Args:
        int8: Whether "int8" may be chosen too.
    """
    help = "Arithmetic of the model; auto takes bf16 where the device has it natively"
    return click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", *(["int8"] if int8 else [])]),
        default="auto",
        help=f"{help}, int8 goes with --backend openvino." if int8 else f"{help}.",
    )


def backend_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--backend` to a command.

    The command gets the keyword argument `backend`: "torch" (the default) or "openvino".
    """
    return click.option(
        "--backend",
        type=click.Choice(["torch", "openvino"]),
        default="torch",
        help="What computes the model; OpenVINO on a CPU alone, with the extra cxrbatch[openvino].",
    )(command)


def batch_size_option(default: int, *, smallest: int = 1) -> Callable[[Decorated], Decorated]:
    """Make a decorator that adds the option `--batch-size` to a command.

    The command gets the keyword argument `batch_size`, an int from `smallest` to 65536.

    Args:
        default: The value if the option is not given.
        smallest: The smallest value that may be given.
    """
    return click.option(
        "--batch-size",
        type=click.IntRange(min=smallest, max=MOST_IMAGES_AT_ONCE),
        default=default,
        help="Images per forward pass.",
    )


def workers_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--workers` to a command.

    The command gets the keyword argument `workers`, an int of at least 0; by default one per core,
    at most 16.
    """
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=default_workers,
        show_default=f"one per core, at most {MOST_WORKERS}",
        help="Processes that read files; 0 reads in the main process.",
    )(command)


def max_pixels_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--max-pixels` to a command.

    The command gets the keyword argument `max_pixels`, an int of at least 1, by default 200
    million.
    """
    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        help="Refuse an image that claims more pixels, before it is decoded.",
    )(command)


def modality_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--modality CODE`, which may be repeated, to a command.

    The command gets the keyword argument `modality`: a tuple of codes in capitals, empty by
    default. They are further DICOM modalities to score, beside the usual ones.
    """
    return click.option(
        "--modality",
        multiple=True,
        metavar="CODE",
        callback=lambda context, parameter, codes: tuple(code.strip().upper() for code in codes),
        help="Score images of this DICOM modality too, beside CR, DX and RG; may be repeated.",
    )(command)


def label_options(command: Decorated) -> Decorated:
    """Decorator: add the options that say how a file of labels is read and joined to a command.

    They are `--by`, `--label-column`, `--path-column`, `--patient-column`, `--map` and
    `--check-labels`. The command, a plain function, gets the keyword arguments `label_options`, a
    `LabelOptions`, or None where none of the first five is given, and `check_labels`, a bool.
    """

    @functools.wraps(command)
    def with_options(
        *args: object,
        by: str | None,
        label_column: str | None,
        path_column: str | None,
        patient_column: str | None,
        class_map: Mapping[str, str],
        **others: object,
    ) -> object:
        given = (by, label_column, path_column, patient_column, class_map)
        options = None
        if any(value not in (None, {}) for value in given):
            # It imports pandas, which a command without labels does without.
            from cxrbatch.results.label_files import LabelOptions

            options = LabelOptions(*given)
        return command(*args, label_options=options, **others)

    changed = cast(Decorated, with_options)
    for option in (*_LABEL_OPTIONS, *_column_options()):
        changed = option(changed)
    return changed


def _column_options() -> Iterator[Callable[[Decorated], Decorated]]:
    for role, what in (
        ("patient", "an id of the patient"),
        ("path", "the path or name of the file, or with what --by says"),
        ("label", "the class"),
    ):
        help = f"The labels' column with {what}.  [default: by its usual names]"
        yield click.option(f"--{role}-column", metavar="NAME", help=help)


def _class_map(
    context: click.Context, parameter: click.Parameter, given: tuple[str | tuple[str, str], ...]
) -> dict[str, str]:
    """Take texts like 1=COVID-19 apart; pairs of text and class, of a file, are that already."""
    found: dict[str, str] = {}
    for pair in given:
        text, name = pair if isinstance(pair, tuple) else _text_and_class(pair)
        if found.setdefault(text, name) != name:
            raise click.BadParameter(f"{text!r} is given two classes; give one.")
    return found


def _text_and_class(pair: str) -> tuple[str, str]:
    text, divided, name = (part.strip() for part in pair.rpartition("="))
    if not divided or not name:
        raise click.BadParameter(
            f"{pair!r} is not like 1=COVID-19, a text of the labels and a class."
        )
    return text, name


_LABEL_OPTIONS = (
    click.option(
        "--check-labels",
        is_flag=True,
        help="Only print how the labels are read and which images they name; write nothing.",
    ),
    click.option(
        "--map",
        "class_map",
        multiple=True,
        type=click.UNPROCESSED,
        metavar="TEXT=CLASS",
        callback=_class_map,
        help="The label TEXT means CLASS, as in --map 1=COVID-19; may be repeated. Of evaluate "
        "also several classes, divided by commas.",
    ),
    click.option(
        "--by",
        type=click.Choice(["path", "name", "sop", "series", "study", "accession", "image_hash"]),
        help="What names an image in the labels; name is the file's alone.  [default: what joins "
        "most labels]",
    ),
)


def follow_links_option(command: Decorated) -> Decorated:
    """Decorator: add the flag `--follow-links` to a command, which gets `follow_links`, a bool."""
    return click.option(
        "--follow-links", is_flag=True, help="Follow symbolic links, each folder once."
    )(command)


def size_option(default: int) -> Callable[[Decorated], Decorated]:
    """Make a decorator that adds the option `--size` to a command.

    The command gets the keyword argument `size`: the edge of the network's input, 32 to 2048
    pixels.

    Args:
        default: The value if the option is not given.
    """
    return click.option(
        "--size", type=click.IntRange(32, 2048), default=default, help="Edge of the input, px."
    )


def geometry_option(command: Decorated) -> Decorated:
    """Decorator: add the option `--geometry` to a command.

    The command gets the keyword argument `geometry`: "squeeze" (the default) or "pad".
    """
    return click.option(
        "--geometry",
        type=click.Choice(["squeeze", "pad"]),
        default="squeeze",
        help="Squeeze images to a square, or pad them to one.",
    )(command)
