"""The command `cxrbatch serve`."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

import cxrbatch.options as shared

if TYPE_CHECKING:
    from cxrbatch.results.label_files import LabelOptions

_MIN_TOKEN_LENGTH = 16


def _check_token(
    context: click.Context, parameter: click.Parameter, token: str | None
) -> str | None:
    if token is not None and (len(token) < _MIN_TOKEN_LENGTH or not token.isascii()):
        raise click.BadParameter(f"at least {_MIN_TOKEN_LENGTH} ASCII characters.")
    return token


@click.command("serve")
@click.argument(
    "folder",
    metavar="[DIR]",
    default=Path("."),
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option("--host", default="127.0.0.1", help="Address to listen at.")
@click.option("--port", default=8765, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Answer requests that name this host too, such as those that a proxy passes on; may be "
    "repeated.  [default: this machine's names]",
)
@click.option(
    "--token",
    callback=_check_token,
    metavar="TEXT",
    help="Token that every client must show; CXRBATCH_SERVE_TOKEN keeps it out of the process "
    "list.  [default: a new one, printed]",
)
@shared.checkpoint_option
@click.option(
    "--keep-uploads",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep uploaded files, and the answers to them, in this private folder.  "
    "[default: nothing is kept]",
)
@click.option(
    "--labels",
    type=shared.FILE,
    metavar="FILE",
    help="CSV, Excel or Parquet with the class of each image, or of each study; runs are evaluated "
    "with it.  [default: a table's own column truth, or class-named folders]",
)
@shared.label_options
@click.option("--browser", is_flag=True, help="Open the browser.")
def command(
    folder: Path,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    token: str | None,
    checkpoint: Path | None,
    keep_uploads: Path | None,
    labels: Path | None,
    label_options: "LabelOptions | None",
    check_labels: bool,
    browser: bool,
) -> None:
    """Browse results tables, images and reports, and score single files, in a browser.

    The tables and reports are those in DIR and up to three folders deep. The server listens on
    this machine alone unless --host says otherwise, and always asks for the token. On a network
    put a proxy with TLS in front, as the token travels unencrypted.

    Research use only: the model is not a medical device.

    \b
    Example:
      cxrbatch serve results
      cxrbatch serve results --port 9000 --checkpoint model.safetensors --browser
      cxrbatch serve results --labels labels.csv
      cxrbatch serve results --allow-host cxr.example
    """
    if check_labels:
        _show_check(folder, labels, label_options)
        return
    import secrets

    from cxrbatch.webapp.app import create_app
    from cxrbatch.webapp.security import allowed_hosts
    from cxrbatch.webapp.server import serve_app

    hosts = allowed_hosts(host, allow_host)
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
        token = token or secrets.token_urlsafe(24)
        app = create_app(
            folder,
            token=token,
            hosts=hosts,
            checkpoint=checkpoint,
            keep_uploads=keep_uploads,
            labels=labels,
            label_options=label_options,
            cookie=f"cxrbatch-{port}",
        )
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{port}/?token={quote(token, safe='')}"

        def print_address() -> None:
            click.echo(f"{address}\nCtrl-C ends it.")
            if browser:
                click.launch(address)

        serve_app(app, listener, token=token, on_ready=print_address)


def _show_check(folder: Path, labels: Path | None, options: "LabelOptions | None") -> None:
    """Print how labels are read and which images of each table they name."""
    from cxrbatch.errors import CxrbatchError, UsageError
    from cxrbatch.results.label_files import AS_USUAL
    from cxrbatch.results.label_joining import describe_labels
    from cxrbatch.webapp.library import Library

    if labels is None:
        raise UsageError("--check-labels needs --labels")
    tables = Library(folder).tables()
    if not tables:
        raise UsageError(f"{folder} has no results table to check the labels with")
    failed = 0
    for table in tables:
        click.echo(f"{'table':12} {table.name}")
        try:
            for title, text in describe_labels(table.path, labels, options or AS_USUAL):
                click.echo(f"{title:12} {text}")
        except CxrbatchError as error:
            click.echo(f"{'error':12} {error}")
            failed += 1
    if failed == len(tables):
        raise CxrbatchError(f"{labels} can be used with none of the {failed:,} tables in {folder}")


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a client can connect before the server answers."""
    from cxrbatch.errors import CxrbatchError, UsageError

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host} is no address of this machine") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise CxrbatchError(
            f"cannot listen at {host}, port {port}: {error.strerror}; try another --port"
        ) from None
    return listener
