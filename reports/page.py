"""Renders a page that stands alone: one file, no script, no request, foreign text shown as text.

Its Content-Security-Policy allows pictures as data: URLs and the one style sheet, by its hash.
"""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxrbatch.reports import charts
from cxrbatch.results.figures import Figure
from cxrbatch.version import VERSION

_LONGEST = 300


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a page made from a template of this package, with the style sheet and policy of all.

    Args:
        template: File name of the template.
        values: Variables of the template; their texts are escaped, and cut after 300 characters.

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
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = template_of.render(
        values, style=Markup(style), policy=policy, made=made, version=VERSION
    )
    return visible(page)


def visible(page: str) -> str:
    """Replace each character that is not printable, but newlines, by its code: ‹U+202E›.

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
    """Return the number, 0 to 10, of the style sheet's shade for the share `part` / `whole`.

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
