"""Configuration files: options of `cxrbatch train` read from TOML, and those of a run written."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

import click
import tomli_w

from cxrbatch.errors import UsageError
from cxrbatch.files import disk_errors, writing, written_whole

MOST_CONFIG_BYTES = 1 << 20
"""Largest size of a configuration file that is read, in bytes."""

_FIRST_LINE = b"# Written by cxrbatch train"
_LONGEST_KEY = 60
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def use_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the options of a file the defaults of the command: the callback of `--config`.

    Click takes a value from the command line first, then from the environment, then from here.
    Every value is checked, also one that is not taken; whether a path exists is checked by Click
    where the path is taken.

    Args:
        context: Of the command; its `default_map` is set.
        parameter: The option `--config`.
        path: The file; None changes nothing.

    Raises:
        UsageError: The file cannot be read, is no TOML, or has an unknown key or a wrong value.
    """
    if path is not None:
        context.default_map = read_options(path, context)


def read_options(path: Path, context: click.Context) -> dict[str, object]:
    """Read values for the options and arguments of a command from a TOML file.

    A key is a long option without its dashes, or the name of an argument; - and _ are the same. An
    option that may be repeated takes a list or one value, `classes` a list or a text, and `map` a
    table or a list of texts.

    Args:
        path: The file, UTF-8, at most `MOST_CONFIG_BYTES`.
        context: Of the command.

    Returns:
        Name of the parameter, as Click has it -> value for `Context.default_map`.

    Raises:
        UsageError: It cannot be read, is no TOML, or has an unknown key or a wrong value.
    """
    known = _parameters(context.command)
    options: dict[str, object] = {}
    for key, value in _read_toml(path).items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise UsageError(f"{path}: {_unknown(key, value, known)}")
        if parameter.name in options:
            raise UsageError(f"{path}: {key} is given twice, with - and with _; keep one")
        try:
            options[parameter.name] = _checked(parameter, value, context)
        except click.BadParameter as error:
            raise UsageError(f"{path}: {key}: {error.message}") from None
    return options


def check_replaceable(path: Path) -> None:
    """Refuse to replace a configuration that a person wrote, such as a recipe.

    Raises:
        UsageError: The file exists and `write_config` did not write it, or it cannot be read.
    """
    if not path.is_file():
        return
    with (
        disk_errors(f"cannot read {path}", other="choose another -o", error=UsageError),
        path.open("rb") as file,
    ):
        is_ours = file.read(len(_FIRST_LINE)) == _FIRST_LINE
    if not is_ours:
        raise UsageError(
            f"{path} was not written by a training, and would be replaced; choose another -o"
        )


def write_config(path: Path, options: Mapping[str, object]) -> None:
    """Write a TOML file from which `read_options` reads the same options.

    Args:
        path: The file; an existing one is replaced.
        options: Key as in the file -> bool, number, text, path, sequence of these, or a mapping of
            texts. None is left out, and so is an empty mapping. Paths become absolute. A comment
            takes the place of a value that is not UTF-8, as the path of a file may be.

    Raises:
        TableError: The file cannot be written.
    """
    lines = [
        f"{_FIRST_LINE.decode()}, version {version('cxrbatch')}.",
        "# The same training again: cxrbatch train --overwrite --config FILE, where FILE is this.",
    ]
    tables: list[str] = []
    for key, value in options.items():
        if value is not None and value != {}:
            (tables if isinstance(value, Mapping) else lines).append(_entry(key, value))
    with writing(path), written_whole(path) as file:
        # In TOML, all that follows the heading of a table belongs to it.
        file.write("\n".join([*lines, *tables, ""]).encode())


def _entry(key: str, value: object) -> str:
    with suppress(UnicodeEncodeError):
        text = tomli_w.dumps({key: _written(value)}).strip("\n")
        text.encode()
        return text
    return f"# {key} is left out: it is not UTF-8."


def _written(value: object) -> object:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bool | int | float | str) or not hasattr(value, "__iter__"):
        return value
    return [_written(each) for each in value]


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """Key -> option or argument; those that the function of the command does not get are none."""
    found: dict[str, click.Parameter] = {}
    for parameter in filter(lambda p: p.expose_value, command.params):
        longs = [word[2:] for word in parameter.opts if word.startswith("--")]
        found.update(dict.fromkeys(longs or [parameter.name or ""], parameter))
    return found


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(_read_text(path))
    except UnicodeDecodeError:
        reason = "it is not UTF-8; save it as UTF-8"
    except RecursionError:
        reason = "its values are nested too deeply; write option = value on each line"
    except ValueError as error:  # TOMLDecodeError, or an integer of too many digits
        reason = f"{error}; write option = value on each line, and texts in quotes"
    raise UsageError(f"{path} is no TOML: {reason}")


def _read_text(path: Path) -> str:
    # Opening a pipe would wait for a writer.
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file; give a TOML file")
    with (
        disk_errors(f"cannot read {path}", other="give a TOML file", error=UsageError),
        path.open("rb") as file,
    ):
        content = file.read(MOST_CONFIG_BYTES + 1)
    if len(content) > MOST_CONFIG_BYTES:
        raise UsageError(f"{path} has more than {MOST_CONFIG_BYTES >> 20} MiB; give a TOML file")
    return content.decode("utf-8-sig")


def _unknown(key: str, value: object, known: Mapping[str, object]) -> str:
    shown = key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…"
    near = get_close_matches(key[:_LONGEST_KEY].lower().replace("_", "-"), known, n=1)
    if isinstance(value, dict) and not near:
        return f"there is no table {shown}; write its options without a heading in brackets"
    remedy = f"the nearest is {near[0]}" if near else "see 'cxrbatch train --help'"
    return f"there is no option {shown}; {remedy}"


def _checked(parameter: click.Parameter, value: object, context: click.Context) -> object:
    """Return the value for `default_map`.

    Raises:
        click.BadParameter: Its type is wrong, or the option refuses it.
    """
    if parameter.name == "class_map" and isinstance(value, dict):
        for text in [*value, *value.values()]:
            _check_kind(str, text)
        value = [*value.items()]
    else:
        several = parameter.multiple or parameter.nargs == -1
        values = value if isinstance(value, list) else [value]
        if not several and isinstance(value, list) and parameter.name != "classes":
            raise click.BadParameter(f"give {_KINDS[_kind(parameter)]}, not a list")
        for each in values:
            _check_kind(_kind(parameter), each)
        value = values if several else value
    if not isinstance(parameter.type, click.Path):
        parameter.process_value(context, value)
    return value


def _kind(parameter: click.Parameter) -> type:
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return bool
    for base, kind in ((click.INT, int), (click.FLOAT, float)):
        if isinstance(parameter.type, type(base)):
            return kind
    return str


def _check_kind(kind: type, value: object) -> None:
    if type(value) is not kind and (kind, type(value)) != (float, int):
        given = _KINDS.get(type(value), "a date or time")
        raise click.BadParameter(f"give {_KINDS[kind]}, not {given}")
    if isinstance(value, str) and "\0" in value:
        raise click.BadParameter("take the NUL out of the text")
