"""What the commands of this package share: a user's mistake is one line on stderr and exit code 2."""

import sys

import click

from sdedit.errors import SdeditError


def run_command(command: click.Command, name: str) -> None:
    """Run it as this process's command, and end the process where that fails."""
    try:
        command.main(standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (click.ClickException, SdeditError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"{name}: {' '.join(message.split())}", err=True)
        sys.exit(2)
