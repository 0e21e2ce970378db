"""The command line: a group that imports a command only when it is called, and its one edge.

Errors of input, call and system end here, as one line on stderr. Exit codes: 0 done, 1 failed,
2 wrong usage, 3 done but some images could not be read, 4 done but what an option asked for does
not hold, 130 or 143 interrupted.
"""

import errno
import os
import resource
import select
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module

import click

from cxrbatch import __version__
from cxrbatch.errors import CxrbatchError, Interrupted
from cxrbatch.process import open_standard_streams

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

_PREFIX = "CXRBATCH"
# Variables of one command have half of their letters in common anyway.
_NEAR = 0.85

COMMANDS: dict[str, tuple[str, str]] = {
    "score": (
        "cxrbatch.commands.score:command",
        "Score an archive into a Parquet table, one row per file.",
    ),
    "merge": (
        "cxrbatch.commands.score:merge",
        "Join the tables of all parts of an archive into one.",
    ),
    "evaluate": (
        "cxrbatch.commands.evaluate:command",
        "Validate a model on labelled images from elsewhere: score DATA, then print the figures.",
    ),
    "inspect": (
        "cxrbatch.commands.inspect:command",
        "Show what is made of one file, from header to display image.",
    ),
    "outcomes": (
        "cxrbatch.commands.inspect:outcomes",
        "List every outcome code with its meaning and remedy.",
    ),
    "bench": (
        "cxrbatch.commands.bench:command",
        "Measure how fast this machine could score ARCHIVE, and how fast it does.",
    ),
    "models": (
        "cxrbatch.commands.models:models",
        "Show a checkpoint's card, or import weights.",
    ),
    "train": (
        "cxrbatch.training.command:command",
        "Train a model on class folders or files of labels.",
    ),
    "report": (
        "cxrbatch.reports.command:report",
        "Make one HTML page of a results table: what was scored, and how good it is.",
    ),
    "compare": (
        "cxrbatch.reports.command:compare",
        "Compare two models, or two recipes, on the same images: SECOND is held to FIRST.",
    ),
    "audit": (
        "cxrbatch.reports.audit_command:command",
        "Audit a model for shortcuts: score films without lungs, their borders alone, and so on.",
    ),
    "serve": (
        "cxrbatch.webapp.command:command",
        "Browse results tables, images and reports, and score single files, in a browser.",
    ),
    "sample": (
        "cxrbatch.commands.bench:sample",
        "Write an example archive into DIRECTORY, which must be new or empty.",
    ),
}
"""Command name -> (module and attribute, the first sentence of its help)."""

REMEDIES = {
    errno.EACCES: "check the permissions",
    errno.EAGAIN: "raise the limit of processes (ulimit -u) or use fewer --workers",
    errno.EDQUOT: "the quota is used up; free some space or choose another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or use fewer --workers",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "free some memory, raise its limit (ulimit -v) or use fewer --workers",
    errno.ENOSPC: "free some space or choose another disk",
    errno.EROFS: "choose a place that can be written",
}
"""What to do about a failure of the operating system, by its number."""

LEAST_MEMORY = 1 << 30
"""Bytes: where less may be mapped, native libraries crash or hang while they are loaded."""


class LazyGroup(click.Group):
    """A Click group that lists its commands from the table `COMMANDS`, without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command and return the command.

        Args:
            ctx: Not used.
            cmd_name: The command's name, a key of `COMMANDS`.

        Returns:
            The command; None if `COMMANDS` has no such name.

        Raises:
            CxrbatchError: A limit (ulimit) lets this process map less memory than 1 GiB.
            ImportError: The module cannot be imported.
        """
        if cmd_name not in COMMANDS:
            return None
        if (limit := _memory_limit()) is not None and limit < LEAST_MEMORY:
            raise CxrbatchError(_too_low(limit))
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as Click does; warn on stderr of variables that are none of its options.

        Those are environment variables that start with CXRBATCH_ and belong to no other command.
        The command found is changed: each long option reads the variable of its own name too, where
        Click names it by another, as CXRBATCH_SCORE_SHARD is --shard of score.

        Returns:
            The command's name, the command, and the words after its name.

        Raises:
            click.UsageError: There is no command of this name.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            _warn_of_variables(name, set(_variables(command, f"{_PREFIX}_{name.upper()}")))
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text's section "Commands": each name in `COMMANDS` and its summary."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": _PREFIX,
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.version_option(__version__, "--version", "-V", message="%(prog)s %(version)s")
def group() -> None:
    """Score archives of chest radiographs, DICOM, PNG and JPEG, a row per file.

    Research use only: cxrbatch is not a medical device, and no score of it may guide the care of
    a patient.

    \b
    Examples:
      cxrbatch sample archive
      cxrbatch score archive -o results.parquet

    Each option can come from the environment too: CXRBATCH_SCORE_WORKERS=4 is the option --workers
    of score.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; print an error that its input or the system causes as one line on stderr.

    Click's own `main` is passed by: it takes any broken pipe for a closed terminal and any
    EOFError for Ctrl-D, while here both may come from a worker process that died.

    Args:
        args: The words after `cxrbatch`; those of the process by default.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 done but some images could not be read,
        4 done but what an option such as --fail-if-none asked for does not hold, 130 or 143
        interrupted.

    Raises:
        Exception: An error in the program itself, so that Python prints its traceback.
    """
    try:
        open_standard_streams()
        code = _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except Interrupted as end:
        return end.exit_code
    except CxrbatchError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return WRONG_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "cxrbatch"
        return _fail(f"{error.format_message()} See '{path} --help'.", WRONG_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        if message := _of_a_limit(error):
            return _fail(message, FAILED)
        if isinstance(error, OSError):
            return _fail_of_system(error)
        raise
    return code


def _run(args: Sequence[str]) -> int:
    """The exit code that a command returns, 0 where it returns none."""
    # Click knows nothing of NO_COLOR; None leaves the choice to whether there is a terminal.
    color = False if os.environ.get("NO_COLOR") else None
    try:
        with group.make_context("cxrbatch", list(args), color=color, obj=tuple(args)) as context:
            code = group.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else 0


def _variables(command: click.Command, prefix: str) -> Iterator[str]:
    """Name the variables of the environment that a command and its subcommands read."""
    for option in command.params:
        if isinstance(option, click.Option) and option.name is not None:
            longs = (word[2:].replace("-", "_") for word in option.opts if word.startswith("--"))
            names = [f"{prefix}_{name.upper()}" for name in (option.name, *longs)]
            option.envvar = option.envvar or names[1:]
            yield from names
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _variables(inner, f"{prefix}_{name.upper()}")


def _warn_of_variables(command: str, known: Collection[str]) -> None:
    """Warn of each variable that belongs to this command, or to none, and is not in `known`."""
    others = tuple(f"{_PREFIX}_{name.upper()}_" for name in COMMANDS if name != command)
    for variable in sorted(os.environ):
        if variable.startswith(f"{_PREFIX}_") and not variable.startswith(others):
            if variable in known:
                continue
            from difflib import get_close_matches

            near = get_close_matches(variable, known, n=1, cutoff=_NEAR)
            remedy = f"; did you mean {near[0]}?" if near else f"; see 'cxrbatch {command} --help'"
            message = f"warning: {variable} is no option of {command}{remedy}"
            click.echo(_one_line(message), err=True)


def _fail(message: str, code: int) -> int:
    click.echo(f"error: {_one_line(message)}", err=True)
    return code


def _fail_of_system(error: OSError) -> int:
    """Report a full disk and its like; end quietly where nobody reads the output any more."""
    if error.errno == errno.EPIPE and (unread := _unread_outputs()):
        # Python flushes once more at its exit and would complain there.
        for descriptor in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return FAILED
    message = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        message += f": {os.fsdecode(error.filename)}"
    remedy = REMEDIES.get(error.errno or 0)
    return _fail(f"{message} ({remedy})" if remedy else message, FAILED)


def _of_a_limit(error: Exception) -> str | None:
    """What to say of an error that a limit of memory or threads explains; None for any other.

    Where the address space is limited, native libraries cannot be loaded, and their packages raise
    whatever they make of that.
    """
    reason = str(error) or "memory ran out"
    limit = _memory_limit()
    # A thread that Python cannot start, or memory that PyTorch cannot have, is a RuntimeError.
    lacks_memory = isinstance(error, MemoryError) or "allocate memory" in reason
    lacks_thread = "can't start new thread" in reason
    if limit is not None and (lacks_memory or lacks_thread or _is_of_import(error)):
        return f"{reason}: {_too_low(limit)}"
    if lacks_memory or lacks_thread:
        return f"{reason}; {REMEDIES[errno.ENOMEM if lacks_memory else errno.EAGAIN]}"
    return None


def _is_of_import(error: Exception) -> bool:
    """Whether it was raised while a module was loaded."""
    names = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, ImportError) or "<module>" in names


def _memory_limit() -> int | None:
    """Bytes of memory that this process may map; None where nothing limits it."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def _too_low(limit: int) -> str:
    return f"memory is limited to {limit >> 20} MiB; raise the limit (ulimit -v or -d)"


def _unread_outputs() -> list[int]:
    """Those of stdout and stderr that are pipes and were closed at the other end."""
    watched = select.poll()
    for descriptor in (1, 2):
        watched.register(descriptor, 0)
    return [descriptor for descriptor, event in watched.poll(0) if event & select.POLLERR]


def _one_line(text: str) -> str:
    """Join lines, and escape what a file's name could do to a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
