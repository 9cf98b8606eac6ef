"""Make the pictures of docs/gallery.md with the shipped model: `python examples/make_gallery.py --help`."""

from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

from sdedit.console import run_command
from sdedit.runtime import Editor
from sdedit.runtime.images import difference_mask
from sdedit.runtime.images.strokes import stroke_painting

HERE = Path(__file__).parent
T0S, SEED = (0.3, 0.5, 0.7), 1
SIZE = "256"  # of edits without a mask; with one, the photo's own scale
CELL, GAP, HEADER = 256, 6, 24


@dataclass(frozen=True)
class Entry:
    """A row of the gallery.

    name: the guide's file; with `photo` the guide is a stroke painting of that photo, in `colours` colours.
    mask, base: files that say where the guide may change.
    """

    name: str
    photo: str | None = None
    mask: str | None = None
    base: str | None = None
    colours: int = 6


ENTRIES = [
    Entry("coast"),
    Entry("islands"),
    Entry("delta"),
    Entry("fjord"),
    Entry("cape-strokes", photo="cape"),
    Entry("gulf-strokes", photo="gulf"),
    Entry("gulf-2-strokes", photo="gulf", colours=2),
    Entry("gulf-16-strokes", photo="gulf", colours=16),
    Entry("lake", mask="lake-mask"),
    Entry("river", base="desert"),
    Entry("island", mask="island-mask"),
    Entry("oasis", mask="oasis-mask"),
]


def open_image(name: str) -> Image.Image:
    with Image.open(HERE / f"{name}.png") as image:
        return image.convert("RGB")


def cells(entry: Entry, editor: Editor) -> list[tuple[str, Image.Image]]:
    """The pictures of the entry's row, each with its title."""
    found = []
    if entry.photo is not None:
        photo = open_image(entry.photo)
        found.append(("view", photo))
        guide = stroke_painting(photo, colours=entry.colours)
    else:
        guide = open_image(entry.name)
    found.append(("guide", guide))
    mask = base = None
    if entry.base is not None:
        base = open_image(entry.base)
        shown = Image.fromarray((255 * difference_mask(guide, base)).astype("uint8"))
        found.append(("mask", shown))
    if entry.mask is not None:
        mask = open_image(entry.mask).convert("L")
        found.append(("mask", mask))
    for t0 in T0S:
        edit = editor.edit(guide, mask, base=base, t0=t0, seed=SEED, size=None if mask or base else SIZE)
        found.append((f"t0 {t0}", edit.images[0].pil))
    return found


def row(shown: list[tuple[str, Image.Image]]) -> Image.Image:
    """One picture of titled pictures side by side."""
    step = CELL + GAP
    sheet = Image.new("RGB", (step * len(shown) - GAP, HEADER + CELL), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, image) in enumerate(shown):
        sheet.paste(image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (column * step, HEADER))
        place = (column * step + CELL // 2, HEADER // 2)
        draw.text(place, title, "black", ImageFont.load_default(14), anchor="mm")
    return sheet


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=HERE.parent / "docs" / "gallery")
def command(folder: Path) -> None:
    """Make the pictures of docs/gallery.md in FOLDER  [default: docs/gallery]."""
    folder.mkdir(parents=True, exist_ok=True)
    with Editor.open() as editor:
        for entry in ENTRIES:
            row(cells(entry, editor)).save(folder / f"{entry.name}.jpg", quality=90)


if __name__ == "__main__":
    run_command(command, "make_gallery")
