"""The options that several commands share, one decorator each.

A decorator passes one keyword argument on, named in its docstring. Nothing is imported here that
is not needed to print `--help`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cxrbatch.process import MOST_WORKERS, default_workers

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)

FILE = click.Path(path_type=Path, dir_okay=False)
"""A file to read or to write; whether it is there is for the command to see."""

SOME_UNREADABLE = 3
"""Exit code of a command that did its work but could not read some images."""

MAX_PIXELS = 200_000_000
MOST_IMAGES_AT_ONCE = 65_536


def output_option(help: str) -> Callable[[Decorated], Decorated]:
    """`-o`, `--output`: passes `output`, a Path; required."""
    return click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help=help)


def checkpoint_option(command: Decorated) -> Decorated:
    """`--checkpoint`: passes `checkpoint`, a Path, or None for the bundled model."""
    return click.option(
        "--checkpoint",
        type=FILE,
        metavar="FILE",
        help="The model, a .safetensors checkpoint.  [default: the bundled model]",
    )(command)


def overwrite_option(command: Decorated) -> Decorated:
    """`--overwrite`: passes `overwrite`, a bool."""
    return click.option(
        "--overwrite", is_flag=True, help="Replace an output that is there already."
    )(command)


def json_option(command: Decorated) -> Decorated:
    """`--json`: passes `as_json`, a bool."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def device_option(command: Decorated) -> Decorated:
    """`--device`: passes `device`, one of "auto", "cpu", "cuda"."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Where the model runs; auto takes a GPU where there is one.",
    )(command)


def precision_option(*, int8: bool = False) -> Callable[[Decorated], Decorated]:
    """`--precision`: passes `precision`: "auto", "fp32", "bf16", "fp16" or, if so, "int8"."""
    help = "Arithmetic of the model; auto takes bf16 where the device has it natively"
    return click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", *(["int8"] if int8 else [])]),
        default="auto",
        help=f"{help}, int8 goes with --backend openvino." if int8 else f"{help}.",
    )


def backend_option(command: Decorated) -> Decorated:
    """`--backend`: passes `backend`, one of "torch", "openvino"."""
    return click.option(
        "--backend",
        type=click.Choice(["torch", "openvino"]),
        default="torch",
        help="What computes the model; OpenVINO on a CPU alone, with the extra cxrbatch[openvino].",
    )(command)


def batch_size_option(default: int, *, smallest: int = 1) -> Callable[[Decorated], Decorated]:
    """`--batch-size`: passes `batch_size`, an int of at least `smallest`."""
    return click.option(
        "--batch-size",
        type=click.IntRange(min=smallest, max=MOST_IMAGES_AT_ONCE),
        default=default,
        help="Images per forward pass.",
    )


def workers_option(command: Decorated) -> Decorated:
    """`--workers`: passes `workers`, an int of at least 0."""
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=default_workers,
        show_default=f"one per core, at most {MOST_WORKERS}",
        help="Processes that read files; 0 reads in the main process.",
    )(command)


def max_pixels_option(command: Decorated) -> Decorated:
    """`--max-pixels`: passes `max_pixels`, an int of at least 1."""
    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        help="Refuse an image that claims more pixels, before it is decoded.",
    )(command)


def modality_option(command: Decorated) -> Decorated:
    """`--modality`: passes `modality`, a tuple of codes in capitals, to add to the usual ones."""
    return click.option(
        "--modality",
        multiple=True,
        metavar="CODE",
        callback=lambda context, parameter, codes: tuple(code.strip().upper() for code in codes),
        help="Score images of this DICOM modality too, beside CR, DX and RG; may be repeated.",
    )(command)


def follow_links_option(command: Decorated) -> Decorated:
    """`--follow-links`: passes `follow_links`, a bool."""
    return click.option(
        "--follow-links", is_flag=True, help="Follow symbolic links, each folder once."
    )(command)


def size_option(default: int) -> Callable[[Decorated], Decorated]:
    """`--size`: passes `size`, an int."""
    return click.option(
        "--size", type=click.IntRange(32, 2048), default=default, help="Edge of the input, px."
    )


def geometry_option(command: Decorated) -> Decorated:
    """`--geometry`: passes `geometry`, one of "squeeze", "pad"."""
    return click.option(
        "--geometry",
        type=click.Choice(["squeeze", "pad"]),
        default="squeeze",
        help="Squeeze images to a square, or pad them to one.",
    )(command)
