"""The command sdedit strokes: turn a photo into a stroke painting, a guide to try things with."""

from pathlib import Path

import click

from ..errors import printable


@click.command(epilog="Example: sdedit strokes photo.jpg --out guide.png && sdedit edit guide.png --out result.png")
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG, WebP or JPEG to write.")
@click.option(
    "--median", default=23, show_default=True, help="Size of the brush: odd, 1 to 255 pixels for a shorter side of 256."
)
@click.option(
    "--colours",
    "--colors",
    default=6,
    show_default=True,
    help="Number of flat colours, 2 to 256: 2 is crude, 16 is faithful.",
)
def strokes_command(photo: Path, out: Path, median: int, colours: int) -> None:
    """Turn PHOTO into a stroke painting.

    The paper simulates users' paintings this way: a median filter, then a palette of few colours.
    """
    from sdedit.runtime.images import check_output, open_picture, save_image
    from sdedit.runtime.images.strokes import stroke_painting

    check_output(out, [photo])
    painting = stroke_painting(open_picture(photo, "photo").image, median, colours)
    save_image(painting, out, {})
    used = len(painting.getcolors(256) or ())
    click.echo(f"{printable(str(out))}: {painting.width}x{painting.height}, {used} colour{'s' * (used != 1)}")
