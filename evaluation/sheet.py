"""A sheet of pictures for the eye: rows and columns with headings, and a caption under each picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 160, 320
"""Longer side at which a picture is shown, in pixels: smaller ones are enlarged, larger ones reduced."""

MARGIN, GAP, LINE = 24, 12, 24
"""Pixels around the sheet, between its cells, and of a line of text."""

PAPER, INK, FAINT = (252, 252, 250), (28, 30, 34), (110, 114, 120)


@dataclass(frozen=True)
class Cell:
    """picture: RGB or grey."""

    picture: Image.Image
    caption: str = ""


def draw_sheet(
    title: str, columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[Cell | None]]
) -> Image.Image:
    """The sheet in RGB. cells: a sequence a row; None leaves a place empty.

    All pictures are shown at the first one's scale, so those of one size stay so.
    """
    heading, text, small = (ImageFont.load_default(size) for size in (18, 15, 13))
    first = next(cell.picture for row in cells for cell in row if cell is not None)
    scale = min(max(1.0, SMALLEST / max(first.size)), LARGEST / max(first.size))
    shown = [[None if cell is None else resized(cell.picture, scale) for cell in row] for row in cells]
    pictures = [picture for row in shown for picture in row if picture is not None]
    width = max(*(p.width for p in pictures), *(int(text.getlength(name)) for name in columns))
    height = max(p.height for p in pictures)
    left = MARGIN + max(int(text.getlength(name)) for name in rows) + GAP
    top = MARGIN + 2 * LINE + GAP
    right, bottom = left + len(columns) * (width + GAP) - GAP, top + len(rows) * (height + LINE + GAP) - GAP
    right = max(right, MARGIN + int(heading.getlength(title)))
    sheet = Image.new("RGB", (right + MARGIN, bottom + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, heading)
    for x, name in enumerate(columns):
        draw.text((left + x * (width + GAP), top - GAP / 2), name, INK, text, anchor="ls")
    for y, name in enumerate(rows):
        row_top = top + y * (height + LINE + GAP)
        draw.text((MARGIN, row_top + height / 2), name, INK, text, anchor="lm")
        for x, (picture, cell) in enumerate(zip(shown[y], cells[y], strict=True)):
            if picture is not None and cell is not None:
                place = (left + x * (width + GAP), row_top)
                sheet.paste(picture, place)
                draw.text((place[0], row_top + picture.height + 5), cell.caption, FAINT, small)
    return sheet


def resized(picture: Image.Image, scale: float) -> Image.Image:
    """The picture in RGB at this scale, smooth where it is enlarged."""
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
