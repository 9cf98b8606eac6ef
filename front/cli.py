"""The command line: `sdedit NAME` is `commands/NAME.py`, imported only when it is asked for."""

import importlib
import sys
import warnings

import click

from . import __version__
from .errors import SdeditError, printable, reason

COMMANDS = {
    "demo": "Make something to look at, with nothing at hand.",
    "edit": "Make an image of a guide, or of each in a folder.",
    "strokes": "Paint a photo in strokes, to have a guide.",
    "replay": "Make an image again from its recipe, and compare.",
    "inspect": "Show what a bundle or an image is.",
    "tune": "Measure the engines here and remember the best.",
    "doctor": "Check this installation.",
    "export": "Make a bundle of a checkpoint.",
    "extend": "Add kernels, engines or an int8 network to a bundle.",
}
"""Name -> what `sdedit --help` says of it, in that order."""


class Commands(click.Group):
    """Imports a command's module when the command is used: `--help` and completion stay quick."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".commands.{name}", __package__).command
        command.name, command.short_help = name, COMMANDS[name]
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="sdedit")
@click.pass_context
def cli(context: click.Context) -> None:
    """Edit images by noising a guide up to t0 and bringing it back to a clean image (SDEdit)."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point: every error that a user can cause is one line on stderr and exit code 2."""
    warnings.formatwarning = one_line
    try:
        cli.main(prog_name="sdedit", standalone_mode=False)
    except click.ClickException as error:
        fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SdeditError as error:
        fail(str(error))
    except OSError as error:  # what is read and written by name has errors of its own; this is stdout
        sys.stdout = None  # nothing is left to be flushed at exit
        fail(f"stdout cannot be written: {reason(error)}")


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the place in our code where it was raised."""
    return f"{message}\n"


def fail(message: str) -> None:
    click.echo(f"sdedit: {printable(' '.join(message.split()))}", err=True)
    sys.exit(2)
