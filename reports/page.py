"""Renders a page that stands alone, writes it with its figures, and warns of what it lacks.

A page is one file without script and request, and shows foreign text as text. Its
Content-Security-Policy allows pictures as data: URLs and the one style sheet, by its hash.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxrbatch import __version__
from cxrbatch.errors import UsageError
from cxrbatch.files import check_output, written_whole
from cxrbatch.reports import charts
from cxrbatch.reports.gallery import WITHHELD, GalleryImage
from cxrbatch.results.counting import ImageCounts
from cxrbatch.results.figures import Figure

_LONGEST = 300


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a page made from a template of this package, with the style sheet and policy of all.

    Args:
        template: File name of the template.
        values: Variables of the template; their texts are escaped, and cut after 300 characters.
            `made` says when the page was made, now by default; empty leaves that out.

    Returns:
        The HTML text, with invisible characters replaced (see `visible`).
    """
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    template_of = _environment().get_template(template)
    made = values.get("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    page = template_of.render(
        {**values, "made": made}, style=Markup(style), policy=policy, version=__version__
    )
    return visible(page)


def visible(page: str) -> str:
    """Replace each character that is not printable by its code, such as ‹U+202E›; keep newlines.

    Some of these are invisible or turn the text after them around.
    """
    unseen = {c for c in set(page) if not c.isprintable()} - {"\n"}
    return page.translate({ord(c): f"‹U+{ord(c):04X}›" for c in unseen})


def shortened(value: object) -> object:
    """Cut a text after 300 characters and append "…"; return markup and other values unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup) or len(value) <= _LONGEST:
        return value
    return f"{value[:_LONGEST]}…"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` decimals; None as "–"."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(figure: Figure, digits: int = 3) -> str:
    """Format the interval of a figure as "0.912–0.934"; "" where it has none.

    Args:
        figure: The figure.
        digits: Number of decimals.
    """
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:.{digits}f}–{figure.high:.{digits}f}"


def count(value: int) -> str:
    """Format a count with commas between thousands."""
    return f"{value:,}"


def percent(part: int, whole: int) -> str:
    """Format the share `part` / `whole` as "12.3 %"; "–" where `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def shade(part: int, whole: int) -> int:
    """Return the share `part` / `whole` in tenths, 0 to 10: which shade of the style sheet to use.

    0 where `whole` is 0.
    """
    return round(10 * part / whole) if whole else 0


@lru_cache(maxsize=1)
def _style() -> str:
    return files(__package__).joinpath("templates", "style.css").read_text("utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cxrbatch.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shortened,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    for function in (number, interval, count, percent, shade):
        environment.filters[function.__name__] = function
    environment.globals["charts"] = charts
    return environment


OnStep = Callable[[str], None]
"""Called with the name of each step, such as "evaluating", before the step begins."""


def no_steps(step: str) -> None:
    """Do nothing: the `OnStep` for callers that show no progress."""


def as_text(value: object) -> object:
    """Convert a value of a table's provenance, of any type, to texts that JSON can hold.

    A dict becomes a dict of texts and a list a list of texts; None stays None; all else is a text.
    """
    if isinstance(value, dict):
        return {str(name): str(part) for name, part in value.items()}
    if isinstance(value, list):
        return [str(part) for part in value]
    return None if value is None else str(value)


def check_outputs(
    outputs: Sequence[Path | None], sources: Sequence[Path | None], *, overwrite: bool
) -> None:
    """Raise if an output cannot be written; call it before any work is done.

    None among `outputs` or `sources` stands for no file.

    Args:
        outputs: The files to write.
        sources: The files that are read.
        overwrite: Whether an existing output is allowed. A source never is.

    Raises:
        UsageError: An output exists and may not be replaced, is a source, a folder or no regular
            file, its folder is missing, or two outputs are one file.
    """
    targets = [target for target in outputs if target is not None]
    for target in targets:
        for source in filter(None, sources):
            check_output(target, overwrite=overwrite, source=source)
    if len({target.resolve() for target in targets}) < len(targets):
        raise UsageError("--json and --output name one file; choose two")


def write_outputs(
    page: bytes, output: Path | None, figures: Mapping[str, Any], json_file: Path | None
) -> None:
    """Write a page and its figures to files, each whole or not at all; existing files are replaced.

    Args:
        page: The HTML page.
        output: The file for the page; None to write none.
        figures: What the JSON file holds.
        json_file: The file for the figures; None to write none.

    Raises:
        OSError: A file cannot be written.
    """
    if output is not None:
        with written_whole(output) as file:
            file.write(page)
    if json_file is not None:
        with written_whole(json_file) as file:
            file.write(json.dumps(figures, indent=1, allow_nan=False).encode())


def warnings_of(counts: ImageCounts, images: Iterable[GalleryImage]) -> tuple[str, ...]:
    """Return lines that say what is wrong with the archive or its labels, and what to do.

    At most three lines, each with a count: groups of equal images with several true classes; images
    that share a SOP Instance UID with another picture; pictures that could not be read from the
    archive. Pictures withheld because text may be burned into them are not among the latter.

    Args:
        counts: The images that the page is about.
        images: The images that the page wants to show.
    """
    return (*_counting_warnings(counts), *_picture_warnings(images))


def _counting_warnings(counts: ImageCounts) -> Iterator[str]:
    if counts.contradictions:
        yield (
            f"groups of equal images with several true classes: {counts.contradictions:,}; correct "
            "the labels: of each group the first image counts, unless --keep-copies is given"
        )
    if counts.shared_uids:
        yield (
            "images that share a SOP Instance UID with another picture: "
            f"{counts.shared_uids:,}; if they are different films, correct the UIDs or give "
            "--keep-copies"
        )


def _picture_warnings(images: Iterable[GalleryImage]) -> Iterator[str]:
    wanted = [image.picture.absence for image in images]
    absent = Counter(why for why in wanted if why and why != WITHHELD)
    if absent:
        reasons = ", ".join(f"{why} ({n:,})" for why, n in absent.most_common())
        yield (
            f"{absent.total():,} of {len(wanted):,} wanted pictures are not shown: {reasons}; "
            "name the folder where the archive is now by --archive"
        )
