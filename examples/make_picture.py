"""Make docs/first-light.png, the README's picture, with the shipped model: `python examples/make_picture.py --help`."""

from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

from sdedit.console import run_command
from sdedit.runtime import Editor

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "first-light.png"
EXAMPLES: list[tuple[str, str | None]] = [("coast.png", None), ("islands.png", None), ("lake.png", "lake-mask.png")]
T0S = (0.3, 0.5, 0.7)
SEED = 1  # everything else is default
CELL = 192  # the model's 64 pixels enlarged 3 times with nearest neighbour
GAP, HEADER = 8, 24


def enlarge(image: Image.Image, size: int = CELL) -> Image.Image:
    method = Image.Resampling.NEAREST if image.width <= size else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((size, size), method)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), default=PICTURE)
def command(out: Path) -> None:
    """Make the README's picture as the file OUT  [default: docs/first-light.png]."""
    editor = Editor.open()
    step = CELL + GAP
    sheet = Image.new("RGB", (GAP + step * (1 + len(T0S)), HEADER + step * len(EXAMPLES)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(["guide", *(f"t0 = {t0}" for t0 in T0S)]):
        x = GAP + column * step + CELL // 2
        draw.text((x, HEADER // 2), label, "black", ImageFont.load_default(14), anchor="mm")
    for row, (guide, mask) in enumerate(EXAMPLES):
        y = HEADER + row * step
        with Image.open(HERE / guide) as image:
            sheet.paste(enlarge(image), (GAP, y))
        if mask is not None:  # shown small, in a corner of its guide
            with Image.open(HERE / mask) as image:
                corner = (GAP + CELL - 64, y + CELL - 64)
                draw.rectangle((corner[0] - 3, corner[1] - 3, GAP + CELL, y + CELL), "white")
                sheet.paste(enlarge(image, 64), corner)
        for column, t0 in enumerate(T0S, start=1):
            edit = editor.edit(HERE / guide, mask and HERE / mask, t0=t0, seed=SEED)
            sheet.paste(enlarge(edit.images[0].pil), (GAP + column * step, y))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    run_command(command, "make_picture")
