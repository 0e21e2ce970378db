"""The command `cxrbatch outcomes`."""

import click


@click.command("outcomes")
def command() -> None:
    """List every outcome code with its meaning and remedy.

    \b
    Example:
      cxrbatch outcomes
    """
    from cxrbatch.reading.outcomes import Outcome

    for outcome in Outcome:
        click.echo(f"{outcome.value} ({outcome.kind.value})")
        click.echo(f"    {outcome.meaning}")
        if outcome.remedy:
            click.echo(f"    remedy: {outcome.remedy}")
