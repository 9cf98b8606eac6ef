"""sdedit demo: a first picture, with no input."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ImageError
from .outputs import progress, shown

if TYPE_CHECKING:
    from PIL import Image

T0S = (0.3, 0.5, 0.7)
STEPS = 12
SHOWN = 256
"""Pixels at which each image is shown at the least."""
GAP = 4
"""White pixels between two of them."""

MADE_BY = "sdedit demo"
"""Text chunk `Software` of the files; only files with it are replaced."""


@click.command(epilog="Example: sdedit demo --out demo.png --seed 2")
@click.option(
    "--out", default="sdedit-demo.png", show_default=True, type=click.Path(path_type=Path), help="PNG to write."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--size",
    default=256,
    show_default=True,
    type=click.IntRange(16, 1024),
    help="Height and width of an edit, in pixels.",
)
def demo_command(out: Path, seed: int, size: int) -> None:
    """Paint strokes, edit them with the shipped model from three t0, and show all four pictures side by side.

    The strokes are written too, for edits by hand: if OUT is demo.png, as demo-guide.png. Earlier files of this
    command are replaced, others are not.
    """
    from sdedit.runtime import Editor
    from sdedit.runtime.images import save_image

    guide_file = out.with_name(f"{out.stem}-guide.png")
    for path in (out, guide_file):
        check_own(path)
    guide = paint(size)
    images = []
    with Editor.open() as editor:
        for t0 in T0S:
            with progress(f"t0 {t0}") as on_step:
                edit = editor.edit(guide, t0=t0, steps=STEPS, seed=seed, size=str(size), on_step=on_step)
            images.append(edit.images[0].pil)
    texts = {"Software": MADE_BY}
    save_image(guide, guide_file, texts)
    save_image(side_by_side([guide, *images]), out, texts)
    click.echo(f"{shown(out)}: strokes, then what they become at t0 {', '.join(map(str, T0S))}")
    click.echo(
        f"By hand: sdedit edit {shown(guide_file)} --out result.png --size {size} --t0 {T0S[1]} --steps {STEPS} "
        f"--seed {seed}"
    )


def check_own(path: Path) -> None:
    """Raise ImageError unless a PNG can be written there and an earlier file there is this command's."""
    from PIL import Image

    from sdedit.runtime.images import check_output

    if path.suffix.lower() != ".png":
        raise ImageError(f"output {path} does not end in .png")
    check_output(path)
    if not path.exists():
        return
    try:
        with Image.open(path, formats=("PNG",)) as image:
            own = image.info.get("Software") == MADE_BY
    except Exception:  # Pillow raises many types for damaged files
        own = False
    if not own:
        raise ImageError(f"output {path} exists and is not of `{MADE_BY}`: it is not replaced; choose another --out")


def side_by_side(images: "list[Image.Image]") -> "Image.Image":
    """The square images in one row, small ones enlarged."""
    from PIL import Image

    side = max(SHOWN, images[0].width)
    sheet = Image.new("RGB", (len(images) * (side + GAP) - GAP, side), "white")
    for index, image in enumerate(images):
        sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), ((side + GAP) * index, 0))
    return sheet


def paint(size: int) -> "Image.Image":
    """A guide of size x size pixels: sea, a desert coast, a strip of forest and a river's mouth, one colour each."""
    from PIL import Image, ImageDraw

    unit = size / 64

    def scaled(*points: tuple[int, int]) -> list[tuple[float, float]]:
        return [(x * unit, y * unit) for x, y in points]

    def line(colour: tuple[int, int, int], width: int, *points: tuple[int, int]) -> None:
        draw.line(scaled(*points), fill=colour, width=round(width * unit), joint="curve")

    guide = Image.new("RGB", (size, size), (13, 34, 77))
    draw = ImageDraw.Draw(guide)
    land = scaled((30, 0), (36, 12), (31, 24), (40, 36), (35, 48), (44, 64), (64, 64), (64, 0))
    draw.polygon(land, fill=(176, 148, 104))
    line((52, 74, 40), 6, (33, 0), (38, 13), (34, 24), (43, 36), (38, 48), (47, 64))
    line((46, 70, 60), 3, (36, 30), (50, 26), (64, 30))
    draw.ellipse(scaled((8, 40), (20, 50)), fill=(60, 84, 48))
    return guide
