import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from cxrbatch import cli, options
from cxrbatch.errors import CheckpointError, UsageError

TOP = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in (TOP / "docs").glob("*.md")),
]
HEAVY = {"torch", "torchvision", "numpy", "pydicom", "pyarrow", "PIL", "scipy", "sklearn"}

Install = Callable[[Callable[..., object]], None]


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """All commands below one, each with the words that call it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, (*path, name))
    else:
        yield " ".join(path), command


def calls_in(text: str) -> list[str]:
    """Lines that call cxrbatch, continued lines joined, a prompt and a path to it taken off."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (re.match(r"\s*(?:\$ )?(?:\S*/)?(cxrbatch(?: .*)?)$", line) for line in lines)
    return [match[1] for match in found if match]


def code_blocks(text: str) -> str:
    """The fenced code of a Markdown text."""
    return "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S))


def check_call(call: str) -> None:
    """Fail where a documented call names a command, an option or a choice that is not there."""
    words = shlex.split(call, comments=True)[1:]
    command: click.Command = cli.group
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command, info_name="cxrbatch")
        below = command.get_command(context, words[0])
        assert below is not None, f"{call}: there is no command {words[0]}"
        command, words = below, words[1:]
    context = click.Context(command, info_name="cxrbatch")
    given, rest, order = command.make_parser(context).parse_args(words)
    assert not rest, f"{call}: too many words"
    if any(parameter.name in ("help", "version") for parameter in order):
        return
    for parameter in command.params:
        value = given.get(parameter.name or "")
        missing = not isinstance(value, (str, tuple, bool, int))
        assert not (parameter.required and missing), f"{call}: {parameter.name} is missing"
        if not missing and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)


def run_fresh(*words: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own; -P keeps the working tree from shadowing what is installed."""
    return subprocess.run(
        [sys.executable, "-P", *words], capture_output=True, text=True, check=False
    )


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  +\S", shown.partition("Commands:")[2], flags=re.M) == list(
        cli.COMMANDS
    )
    assert "not a medical device" in shown


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_listed_sentence_is_that_of_the_command(name: str) -> None:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    first_sentence = command.get_short_help_str(limit=200)
    assert first_sentence.rstrip(".") == cli.COMMANDS[name][1].rstrip(".")


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_an_example_that_holds(name: str) -> None:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    for path, leaf in leaves(command, ("cxrbatch", name)):
        examples = [call for call in calls_in(leaf.help or "") if f"{call} ".startswith(f"{path} ")]
        assert examples, f"the help of {path} has no example"
        for example in examples:
            check_call(example)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_documented_call_holds(document: str) -> None:
    calls = calls_in(code_blocks((TOP / document).read_text()))
    assert calls or document != "README.md"
    for call in [*calls, *calls_in(cli.group.help or "")]:
        check_call(call)


def test_the_readme_has_a_line_for_every_command() -> None:
    named = re.findall(r"^\| `cxrbatch (\w+)` \|", (TOP / "README.md").read_text(), flags=re.M)
    assert sorted(named) == sorted(cli.COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_documented_target_is_in_the_makefile(document: str) -> None:
    targets = re.findall(r"^(\w+):.*##", (TOP / "Makefile").read_text(), flags=re.M)
    named = re.findall(r"`make (\w+)|^make (\w+)", (TOP / document).read_text(), flags=re.M)
    assert {a or b for a, b in named} <= set(targets)


@pytest.mark.parametrize(
    "call",
    ["cxrbatch score", "cxrbatch absent", "cxrbatch score a -o b --absent", "cxrbatch score a b c"],
)
def test_a_call_that_does_not_hold_is_seen(call: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check_call(call)


def test_the_help_imports_no_command_and_nothing_heavy() -> None:
    code = "import sys; from cxrbatch.cli import main; main(['-h']); print(*sys.modules, sep='\\n')"
    loaded = set(run_fresh("-c", code).stdout.split())
    assert "cxrbatch.cli" in loaded
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith(("cxrbatch.commands", "cxrbatch.t"))]


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"cxrbatch \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (CheckpointError("model.pt is no checkpoint"), "error: model.pt is no checkpoint", 1),
        (UsageError("first line\nsecond"), "error: first line second", 2),
        (UsageError("a\x1b[2Jb \udcff"), r"error: a\x1b[2Jb \udcff", 2),
        (click.FileError("a.csv", "no such file"), "error: Could not open file 'a.csv': no", 1),
        (OSError(errno.ENOSPC, "No space left on device", "r.parquet"), "left on device: r.par", 1),
        (OSError("the disk is odd"), "error: the disk is odd", 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "error: Broken pipe", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (click.Abort(), "interrupted", 130),
    ],
)
def test_an_error_is_one_line_and_a_code(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    line: str,
    code: int,
) -> None:
    def fail() -> None:
        raise error

    install(fail)
    assert cli.main(["probe"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert printed.err.count("\n") == 1


def test_a_full_disk_comes_with_its_remedy(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")

    def fill() -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    install(fill)
    assert cli.main(["probe"]) == 1
    assert "free some space" in capsys.readouterr().err


def test_the_end_of_a_worker_is_not_taken_for_an_interrupt(install: Install) -> None:
    def end() -> None:
        raise EOFError("the worker's pipe ended")

    install(end)
    with pytest.raises(EOFError):
        cli.main(["probe"])


LIBRARY_IN_THE_WAY = """
import os, sys, types
import click
from cxrbatch import cli
from cxrbatch.process import Interruption

def report():
    click.echo("interrupted", err=True)
    if "nobody reads it" in sys.argv:
        raise BrokenPipeError

def command():
    with Interruption(report) as interruption:
        interruption.arm()
        try:
            os.kill(os.getpid(), int(sys.argv[1]))
        finally:
            raise RuntimeError("of a library that ends in its own way")

sys.modules["probe"] = types.SimpleNamespace(command=click.command("probe")(command))
cli.COMMANDS["probe"] = ("probe:command", "Probe.")
sys.exit(cli.main(["probe"]))
"""


@pytest.mark.parametrize("words", [[], ["nobody reads it"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_what_ends_a_command_whatever_a_library_makes_of_it(
    number: signal.Signals, words: list[str]
) -> None:
    words = [sys.executable, "-c", LIBRARY_IN_THE_WAY, str(number.value), *words]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "interrupted\n")


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_returned_number_is_the_exit_code(install: Install, code: int | None) -> None:
    install(lambda: code)
    assert cli.main(["probe"]) == (code or 0)


@pytest.mark.parametrize("words", [["absent"], ["--absent"], ["probe", "--absent"], ["probe", "a"]])
def test_wrong_usage_is_one_line_with_the_way_to_help(
    install: Install, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    install(lambda: None)
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(r"error: .* See 'cxrbatch( probe)? --help'\.\n", message)


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cxrbatch", "--help"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(("value", "color"), [("1", False), ("", None)])
def test_no_color_is_honoured(
    install: Install, monkeypatch: pytest.MonkeyPatch, value: str, color: bool | None
) -> None:
    seen: list[bool | None] = []
    install(lambda: seen.append(click.get_current_context().color))
    monkeypatch.setenv("NO_COLOR", value)
    cli.main(["probe"])
    assert seen == [color]


def test_an_option_can_come_from_the_environment(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(options.workers_option(lambda workers: workers))
    monkeypatch.setenv("CXRBATCH_PROBE_WORKERS", "7")
    assert cli.main(["probe"]) == 7
    assert cli.main(["probe", "--workers", "2"]) == 2


def test_the_variable_of_an_option_has_the_options_name(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    install(options.json_option(lambda as_json: seen.append(as_json)))
    for value in ("1", "0", "true", "false"):
        monkeypatch.setenv("CXRBATCH_PROBE_JSON", value)
        assert cli.main(["probe"]) == 0
    assert seen == [True, False, True, False]


@pytest.mark.parametrize(
    ("variable", "warning"),
    [
        ("CXRBATCH_PROBE_WORKER", "no option of probe; did you mean CXRBATCH_PROBE_WORKERS?"),
        ("CXRBATCH_PROEB_WORKERS", "no option of probe; did you mean CXRBATCH_PROBE_WORKERS?"),
        ("CXRBATCH_PROBE_ZZZ", "no option of probe; see 'cxrbatch probe --help'"),
        ("CXRBATCH_SCORE_WORKER", None),
        ("CXRBATCH_PROBE_AS_JSON", None),
        ("CXRBATCHES", None),
    ],
)
def test_a_variable_of_no_option_is_told(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    warning: str | None,
) -> None:
    install(options.json_option(options.workers_option(lambda workers, as_json: None)))
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("CXRBATCH_PROBE_WORKERS", "5")
    assert cli.main(["probe"]) == 0
    expected = f"warning: {variable} is {warning}\n" if warning else ""
    assert capsys.readouterr().err == expected


def test_modalities_are_put_in_capitals(install: Install) -> None:
    seen: list[tuple[str, ...]] = []
    install(options.modality_option(lambda modality: seen.append(modality)))
    cli.main(["probe", "--modality", "mg", "--modality", "XA"])
    assert seen == [("MG", "XA")]


def test_the_limits_offered_are_those_of_reading(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    radiograph = pytest.importorskip("cxrbatch.reading.radiograph")
    assert radiograph.ReadingOptions().max_pixels == options.MAX_PIXELS
    install(options.modality_option(lambda modality: None))
    cli.main(["probe", "--help"])
    shown = set(re.findall(r"\b[A-Z]{2}\b", capsys.readouterr().out))
    assert radiograph.ReadingOptions().modalities == shown
