"""sdedit demo: something to look at, with nothing at hand."""

from pathlib import Path
from typing import Any

import click

T0S = (0.3, 0.5, 0.7)
SCALE = 4
"""Each of the shipped model's small images is shown enlarged."""


@click.command(epilog="Example: sdedit demo --out demo.png --seed 2")
@click.option("--out", default="sdedit-demo.png", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def command(out: Path, seed: int) -> None:
    """Paint a few strokes, edit them with the shipped model at three t0, and show all four side by side.

    The strokes are written too, as OUT with -guide before its suffix, to be edited by hand; both are replaced.
    """
    from PIL import Image

    from sdedit.runtime import Editor
    from sdedit.runtime.images import check_output, save_png

    guide_file = out.with_name(f"{out.stem}-guide.png")
    for path in (out, guide_file):
        check_output(path)
    guide = paint()
    with Editor.open() as editor:
        images = [editor.edit(guide, t0=t0, steps=30, seed=seed).images[0].pil for t0 in T0S]
    sheet = Image.new("RGB", (len(images) * 260 + 256, 256), "white")
    for index, image in enumerate([guide, *images]):
        sheet.paste(image.resize((256, 256), Image.Resampling.BICUBIC), (260 * index, 0))
    save_png(guide, guide_file, {})
    save_png(sheet, out, {})
    click.echo(f"{click.format_filename(out)}: strokes, then what they become at t0 {', '.join(map(str, T0S))}")
    click.echo(
        f"By hand: sdedit edit {click.format_filename(guide_file)} --out result.png --t0 0.5 --steps 30 --seed {seed}"
    )


def paint() -> Any:
    """Sea, a desert coast, a strip of forest, a river's mouth: strokes of one colour each, 64x64."""
    from PIL import Image, ImageDraw

    guide = Image.new("RGB", (64, 64), (13, 34, 77))
    draw = ImageDraw.Draw(guide)
    draw.polygon([(30, 0), (36, 12), (31, 24), (40, 36), (35, 48), (44, 64), (64, 64), (64, 0)], fill=(176, 148, 104))
    draw.line([(33, 0), (38, 13), (34, 24), (43, 36), (38, 48), (47, 64)], fill=(52, 74, 40), width=6)
    draw.line([(36, 30), (50, 26), (64, 30)], fill=(46, 70, 60), width=3)
    draw.ellipse([(8, 40), (20, 50)], fill=(60, 84, 48))
    return guide
