"""Write the tables of options in a document, from the commands themselves: `python -m sdedit.reference docs/cli.md`.

A table stands between the lines `<!-- options: NAME -->` and `<!-- end -->`, NAME being a command.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.reference")
    raise SystemExit

import re
from pathlib import Path

import click

from .commands import sdedit
from .console import run_command

TABLE = re.compile(r"(?<=<!-- options: )(\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


@click.command()
@click.argument("document", type=click.Path(path_type=Path))
def reference_command(document: Path) -> None:
    """Write the tables of DOCUMENT anew."""
    text = document.read_text(encoding="utf-8")
    document.write_text(with_tables(text), encoding="utf-8", newline="\n")


def with_tables(text: str) -> str:
    """The document with every table as it must be."""
    return TABLE.sub(lambda found: f"{found[1]} -->\n\n{table(found[1])}\n\n", text)


def table(name: str) -> str:
    """The options of a command, grouped as its help groups them."""
    context = click.Context(sdedit)
    command = sdedit.get_command(context, name)
    if command is None:
        raise click.UsageError(f"sdedit has no command {name!r}")
    lines, group = ["| option | |", "|---|---|"], ""
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        heading = getattr(option, "group", "")
        if heading != group:
            group = heading
            lines.append(f"| **{heading}** | |")
        lines.append(f"| {', '.join(f'`{flag}`' for flag in option.opts)} | {meaning(option)} |")
    return "\n".join(lines)


def meaning(option: click.Option) -> str:
    """The option's help and default, as Markdown."""
    text, _, default = (option.help or "").partition("  [default: ")
    default = default.removesuffix("]")
    if option.show_default:
        default = f"`{option.default:g}`" if isinstance(option.default, float) else f"`{option.default}`"
    return text.replace("|", "\\|") + (f" Default: {default}." if default else "")


def main() -> None:
    """Run the command as this process."""
    run_command(reference_command, "sdedit.reference")
