"""sdedit demo: a first picture, with no input."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ImageError
from .outputs import shown

if TYPE_CHECKING:
    from PIL import Image

T0S = (0.3, 0.5, 0.7)
STEPS = 30
SIDE = 256
"""Pixels at which each of the model's small images is shown."""
GAP = 4
"""White pixels between two of them."""

MADE_BY = "sdedit demo"
"""Text chunk `Software` of the files; only files with it are replaced."""


@click.command(epilog="Example: sdedit demo --out demo.png --seed 2")
@click.option(
    "--out", default="sdedit-demo.png", show_default=True, type=click.Path(path_type=Path), help="PNG to write."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the noise.")
def demo_command(out: Path, seed: int) -> None:
    """Paint strokes, edit them with the shipped model from three t0, and show all four pictures side by side.

    The strokes are written too, for edits by hand: if OUT is demo.png, as demo-guide.png. Earlier files of this
    command are replaced, others are not.
    """
    from sdedit.runtime import Editor
    from sdedit.runtime.images import save_image

    guide_file = out.with_name(f"{out.stem}-guide.png")
    for path in (out, guide_file):
        check_own(path)
    guide = paint()
    with Editor.open() as editor:
        images = [editor.edit(guide, t0=t0, steps=STEPS, seed=seed).images[0].pil for t0 in T0S]
    texts = {"Software": MADE_BY}
    save_image(guide, guide_file, texts)
    save_image(side_by_side([guide, *images]), out, texts)
    click.echo(f"{shown(out)}: strokes, then what they become at t0 {', '.join(map(str, T0S))}")
    click.echo(f"By hand: sdedit edit {shown(guide_file)} --out result.png --t0 {T0S[1]} --steps {STEPS} --seed {seed}")


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
    """The images in one row, enlarged."""
    from PIL import Image

    sheet = Image.new("RGB", (len(images) * (SIDE + GAP) - GAP, SIDE), "white")
    for index, image in enumerate(images):
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), ((SIDE + GAP) * index, 0))
    return sheet


def paint() -> "Image.Image":
    """A guide of 64x64 pixels: sea, a desert coast, a strip of forest and a river's mouth, one colour each."""
    from PIL import Image, ImageDraw

    guide = Image.new("RGB", (64, 64), (13, 34, 77))
    draw = ImageDraw.Draw(guide)
    draw.polygon([(30, 0), (36, 12), (31, 24), (40, 36), (35, 48), (44, 64), (64, 64), (64, 0)], fill=(176, 148, 104))
    draw.line([(33, 0), (38, 13), (34, 24), (43, 36), (38, 48), (47, 64)], fill=(52, 74, 40), width=6)
    draw.line([(36, 30), (50, 26), (64, 30)], fill=(46, 70, 60), width=3)
    draw.ellipse([(8, 40), (20, 50)], fill=(60, 84, 48))
    return guide
