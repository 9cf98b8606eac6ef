"""sdedit replay: make an image again from its recipe, and compare."""

import sys
from pathlib import Path

import click

from ..errors import printable
from .options import BUNDLE


@click.command(epilog="Example: sdedit replay result.png --out again.png")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="PNG, WebP or JPEG to write.  [default: only compare]")
@click.option(
    "--guide",
    type=click.Path(path_type=Path),
    help="Guide of the edit.  [default: the file named in the recipe, in IMAGE's folder]",
)
@click.option("--mask", type=click.Path(path_type=Path), help="Mask of the edit, found like the guide.")
@click.option("--base", type=click.Path(path_type=Path), help="Base of the edit, found like the guide.")
@BUNDLE
def replay_command(
    image: Path, out: Path | None, guide: Path | None, mask: Path | None, base: Path | None, bundle: Path | None
) -> None:
    """Edit again as the recipe in IMAGE says, from the same inputs, and say whether every pixel is the same.

    Other inputs and other bundles are refused. Exit code 2 if a pixel differs; versions that differ are named. A JPEG
    does not keep exact pixels: its image is made again, and nothing is compared.
    """
    from sdedit.runtime.images import check_output
    from sdedit.runtime.replay import replay

    if out is not None:
        check_output(out)
    again = replay(image, guide=guide, mask=mask, base=base, bundle=bundle)
    if out is not None:
        check_output(out, [image, *again.inputs])
        again.image.save(out)
    for difference in again.differences:
        click.echo(f"note: {printable(difference)}", err=True)
    if again.pixels is None:
        click.echo(f"{printable(str(image))}: made again; not compared, since a JPEG keeps no exact pixels")
        return
    if again.pixels:
        click.echo(f"{printable(str(image))}: {again.pixels} pixels differ", err=True)
        sys.exit(2)
    click.echo(f"{printable(str(image))}: identical")
