"""The commands of `sdedit`: NAME is NAME_command in NAME.py, imported only when it is asked for."""

import importlib

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..console import run_command

COMMANDS = {
    "demo": "Make a first picture; needs no input.",
    "edit": "Turn a guide, or a folder of guides, into images.",
    "serve": "Serve edits over HTTP, and a page to paint on.",
    "page": "Write that page as static files, with the model inside.",
    "strokes": "Turn a photo into a stroke painting, a guide.",
    "evaluate": "Measure how real and how faithful edits are.",
    "replay": "Make an image again from its recipe, and compare.",
    "inspect": "Show a bundle, or the recipe of an image.",
    "tune": "Measure the engines here and remember the fastest.",
    "doctor": "Check this installation.",
    "export": "Turn a checkpoint into a bundle.",
    "extend": "Add kernels, engines or an int8 network to a bundle.",
    "push": "Upload a bundle to the Hugging Face Hub.",
}
"""Name -> its line in `sdedit --help`, in that order."""


class Commands(click.Group):
    """Imports the module of one command when that command is used; help and completion of names import none."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".{name}", __package__), f"{name}_command")
        command.name = name
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*commands, *click.Command.shell_complete(self, context, incomplete)]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="sdedit")
@click.pass_context
def sdedit(context: click.Context) -> None:
    """Edit images with SDEdit: a guide gets noise up to t0, and a score network makes a clean image of it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run `sdedit` as this process."""
    run_command(sdedit, "sdedit")
