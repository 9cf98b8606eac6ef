"""Make docs/first-light.jpg, the README's picture, with the shipped model: `python examples/make_picture.py --help`."""

from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

from sdedit.console import run_command
from sdedit.runtime import Editor
from sdedit.runtime.images import check_output

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "first-light.jpg"
STROKES = ("coast.png", "islands.png")
PHOTO, MASK = "inland-sea.jpg", "inland-sea-mask.png"
T0S = (0.3, 0.5, 0.7)
PHOTO_T0 = 0.5
SEED, SIZE = 1, 256  # everything else is default
GAP, HEADER = 8, 26


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), default=PICTURE)
def command(out: Path) -> None:
    """Make the README's picture as the JPEG OUT  [default: docs/first-light.jpg]."""
    check_output(out)
    with Editor.open() as editor:
        rows = [stroke_row(editor, name) for name in STROKES] + [photo_row(editor)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    sheet.save(out, quality=90)


def stroke_row(editor: Editor, name: str) -> Image.Image:
    """A painting, and its edits from each t0."""
    guide = open_image(name).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    titled = [("strokes", guide)]
    for t0 in T0S:
        edit = editor.edit(HERE / name, t0=t0, seed=SEED, size=str(SIZE))
        titled.append((f"t0 = {t0}", edit.images[0].pil))
    return beside(titled)


def photo_row(editor: Editor) -> Image.Image:
    """A photo with strokes on it, and the edit of the strokes at the photo's own scale."""
    edit = editor.edit(HERE / PHOTO, HERE / MASK, t0=PHOTO_T0, seed=SEED)
    titled = [
        ("strokes on a photo", open_image(PHOTO)),
        (f"t0 = {PHOTO_T0}, mask around the strokes", edit.images[0].pil),
    ]
    width = (SIZE * (1 + len(T0S)) + GAP * (len(T0S) - 1)) // 2
    return beside([(title, image.resize((width, image.height * width // image.width))) for title, image in titled])


def open_image(name: str) -> Image.Image:
    with Image.open(HERE / name) as image:
        return image.convert("RGB")


def beside(titled: list[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures of one size in a row, each under its title."""
    width, height = titled[0][1].size
    row = Image.new("RGB", ((width + GAP) * len(titled) - GAP, HEADER + height), "white")
    draw = ImageDraw.Draw(row)
    for column, (title, image) in enumerate(titled):
        left = column * (width + GAP)
        draw.text((left + width // 2, HEADER // 2), title, "black", ImageFont.load_default(14), anchor="mm")
        row.paste(image, (left, HEADER))
    return row


if __name__ == "__main__":
    run_command(command, "make_picture")
