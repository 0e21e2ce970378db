"""The command `cxrbatch outcomes`."""

import click


@click.command("outcomes")
def command() -> None:
    """List every outcome code with its meaning and remedy.

    The flags of images that were read come after them.

    \b
    Example:
      cxrbatch outcomes
    """
    from cxrbatch.reading.outcomes import Flag, Outcome

    for outcome in Outcome:
        click.echo(f"{outcome.value} ({outcome.kind.value})")
        click.echo(f"    {outcome.meaning}")
        click.echo(f"    remedy: {outcome.remedy}")
    click.echo()
    for flag in Flag:
        click.echo(f"{flag.value} (flag)")
        click.echo(f"    {flag.meaning}")
