"""sdedit push: a bundle goes to the Hugging Face Hub."""

from pathlib import Path

import click

from .outputs import shown

EXAMPLE = "Example: sdedit push church hf:me/church"


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("name")
def push_command(bundle: Path, name: str) -> None:
    """Upload BUNDLE to the Hub as NAME, hf:OWNER/NAME, in one commit.

    A model that does not exist there is made, and it is private; its page on the Hub makes it public. Every file is
    verified first. Log in with `hf auth login`, or set HF_TOKEN. `--bundle hf:OWNER/NAME` uses it from then on.
    """
    from sdedit.runtime.bundle import MANIFEST, read_bundle
    from sdedit.runtime.hub import push

    opened = read_bundle(bundle, verify_all=True)
    address = push(opened.path, [MANIFEST, *opened.manifest.files], name)
    click.echo(f"{shown(bundle)}: {address}")
