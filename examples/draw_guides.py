"""Draw the guides of this folder from lists of strokes: `python examples/draw_guides.py --help`."""

import math
import random
from pathlib import Path

import click
from PIL import Image, ImageDraw

from sdedit.console import run_command

HERE = Path(__file__).parent
SIZE = 512
AUSTRALIA = (4350, 1485, 5025, 2040)  # a box in bmng.jpg (5400x2700); no training crop came from it
VIEWS = {  # boxes of 256x256 pixels inside AUSTRALIA
    "view": (4769, 1716, 5025, 1972),  # New South Wales
    "cape": (4740, 1485, 4996, 1741),  # Cape York
    "gulf": (4650, 1730, 4906, 1986),  # Spencer Gulf
    "desert": (4640, 1580, 4896, 1836),  # the Simpson Desert
    "tasmania": (4769, 1784, 5025, 2040),
}
GROWN = 3  # pixels of a view by which a mask is larger than the strokes or the pasted part

DEEP, SEA, SHELF = (3, 7, 30), (14, 40, 92), (28, 74, 132)
FOREST, OLIVE, TAN, SAND = (44, 60, 22), (84, 78, 42), (160, 130, 92), (206, 168, 124)
ICE = (232, 232, 230)

Colour = tuple[int, int, int]
Point = tuple[float, float]
Stroke = tuple[Colour, int, list[Point]]  # colour, width of the brush, path; the picture is SIZE pixels wide

COAST: list[Stroke] = [
    (SEA, 70, [(330, 512), (290, 400), (230, 300), (200, 200)]),
    (DEEP, 44, [(310, 512), (270, 400), (225, 300)]),
    (DEEP, 120, [(370, 512), (470, 490)]),
    (SEA, 54, [(330, 440), (420, 425), (512, 430)]),
    (TAN, 110, [(310, 20), (330, 140), (400, 240)]),
    (TAN, 110, [(430, 260), (520, 320)]),
    (SAND, 130, [(380, 30), (500, 50)]),
    (SAND, 120, [(390, 110), (500, 170)]),
    (SAND, 60, [(430, 210), (500, 250)]),
    (TAN, 130, [(20, 40), (60, 180)]),
    (TAN, 60, [(110, 30), (150, 110)]),
    (OLIVE, 120, [(10, 260), (110, 330)]),
    (OLIVE, 100, [(90, 160), (110, 250)]),
    (FOREST, 120, [(10, 400), (110, 420)]),
    (FOREST, 110, [(40, 490), (170, 480)]),
    (OLIVE, 46, [(160, 300), (180, 380), (210, 430)]),
    (FOREST, 50, [(200, 480), (230, 440)]),
    (SAND, 50, [(20, 90), (50, 150)]),
]
ISLANDS: list[Stroke] = [
    (DEEP, 150, [(0, 300), (40, 420), (30, 512)]),
    (DEEP, 120, [(140, 500), (260, 512)]),
    (DEEP, 120, [(512, 120), (470, 200), (520, 300)]),
    (SEA, 60, [(90, 250), (130, 380), (210, 440), (330, 490)]),
    (SEA, 60, [(420, 90), (390, 200), (440, 300), (512, 370)]),
    (ICE, 150, [(0, 20), (160, 20), (300, -10)]),
    (ICE, 90, [(30, 110), (140, 100)]),
    (ICE, 70, [(300, 40), (340, 20)]),
    (OLIVE, 90, [(210, 220), (260, 260)]),
    (FOREST, 80, [(190, 260), (230, 310)]),
    (FOREST, 70, [(270, 210), (300, 260)]),
    (OLIVE, 80, [(340, 350), (400, 390)]),
    (FOREST, 70, [(370, 410), (430, 420)]),
    (FOREST, 60, [(310, 330), (340, 370)]),
    (TAN, 50, [(350, 370), (390, 390)]),
    (TAN, 40, [(230, 240), (250, 260)]),
    (FOREST, 50, [(470, 470), (500, 480)]),
]
LAKE: list[Stroke] = [
    (FOREST, 70, [(130, 250), (210, 170), (310, 160), (340, 220), (280, 280), (160, 300), (130, 250)]),
    (SHELF, 95, [(170, 250), (220, 220), (290, 190)]),
    (SHELF, 40, [(150, 280), (130, 300)]),
    (SHELF, 44, [(250, 230), (280, 270)]),
    (SEA, 40, [(200, 232), (250, 208)]),
]

DELTA: list[Stroke] = [
    (TAN, 130, [(60, 40), (120, 200), (80, 330)]),
    (TAN, 120, [(430, 60), (420, 180), (470, 300)]),
    (SEA, 90, [(-20, 480), (130, 465), (260, 490), (400, 465), (530, 480)]),
    (SHELF, 40, [(-10, 425), (120, 410), (250, 440), (390, 410), (520, 425)]),
    (DEEP, 60, [(-10, 520), (520, 520)]),
    (FOREST, 60, [(256, 230), (200, 310), (150, 385)]),
    (FOREST, 60, [(256, 230), (310, 310), (360, 385)]),
    (FOREST, 80, [(256, 260), (256, 400)]),
    (OLIVE, 40, [(256, 280), (220, 380)]),
    (FOREST, 30, [(250, -10), (230, 60), (270, 140), (256, 230)]),
    (SEA, 12, [(250, -10), (230, 60), (270, 140), (256, 230), (290, 330), (300, 400)]),
    (SEA, 10, [(256, 230), (215, 330), (190, 400)]),
]
FJORD: list[Stroke] = [
    (ICE, 170, [(40, 40), (250, 20), (470, 60)]),
    (ICE, 90, [(70, 150), (200, 130)]),
    (ICE, 80, [(380, 150), (470, 190)]),
    (OLIVE, 50, [(0, 250), (70, 230), (110, 290)]),
    (TAN, 40, [(130, 210), (180, 250), (170, 310)]),
    (OLIVE, 45, [(250, 130), (270, 210), (240, 270)]),
    (TAN, 45, [(340, 170), (360, 250), (400, 290)]),
    (OLIVE, 50, [(440, 280), (512, 260)]),
    (SEA, 60, [(60, 400), (200, 430), (360, 400), (512, 420)]),
    (DEEP, 90, [(0, 490), (260, 500), (512, 490)]),
    (SEA, 22, [(212, 140), (215, 240), (205, 340)]),
    (SEA, 22, [(310, 120), (315, 230), (300, 340)]),
    (OLIVE, 26, [(120, 370), (150, 380)]),
    (OLIVE, 24, [(420, 350), (440, 360)]),
]
RIVER: list[Stroke] = [
    (FOREST, 60, [(-10, 150), (90, 190), (190, 170), (280, 260), (400, 300), (520, 420)]),
    (SHELF, 24, [(-10, 150), (90, 190), (190, 170), (280, 260), (400, 300), (520, 420)]),
    (SHELF, 16, [(280, 260), (300, 360), (260, 440), (270, 520)]),
]
TASMANIA: list[Stroke] = [(SEA, 60, [(235, 350), (292, 350), (292, 410), (258, 430), (235, 350)])]
FOREST_PATCH: list[Stroke] = [(FOREST, 70, [(110, 350), (160, 322), (225, 300), (235, 340), (160, 365), (110, 350)])]
INLAND_SEA: list[Stroke] = [  # in pixels of AUSTRALIA
    (OLIVE, 28, [(318, 220), (350, 207), (392, 214)]),
    (FOREST, 26, [(306, 236), (322, 268), (352, 290), (372, 322)]),
    (OLIVE, 30, [(398, 226), (428, 246), (440, 284), (434, 318)]),
    (FOREST, 22, [(420, 250), (426, 290)]),
    (SHELF, 34, [(326, 234), (356, 222), (392, 238), (408, 272), (402, 304)]),
    (SHELF, 30, [(340, 248), (372, 270), (388, 300)]),
    (SHELF, 18, [(396, 300), (410, 330), (415, 346)]),
    (SHELF, 12, [(330, 226), (312, 208), (300, 206)]),
    (SEA, 16, [(350, 236), (384, 252), (396, 280)]),
    (TAN, 9, [(366, 246), (374, 254)]),
]


def curve(points: list[Point]) -> list[Point]:
    """Dense points on the smooth curve (Catmull-Rom) through `points`."""
    line = []
    ends = [points[0], *points, points[-1]]
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        count = math.ceil(math.dist(b, c) / 4)
        for t in (n / count for n in range(count + 1)):
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            x, y = (sum(w * p[axis] for w, p in zip(weights, (a, b, c, d), strict=True)) / 2 for axis in (0, 1))
            line.append((x, y))
    return line


def paint(picture: Image.Image, strokes: list[Stroke], grow: float = 0) -> Image.Image:
    """Paint strokes on `picture` as overlapping dabs of an unsteady hand, `grow` pixels wider on each side."""
    draw = ImageDraw.Draw(picture)
    hand = random.Random(1)
    for colour, width, points in strokes:
        for x, y in curve(points):
            x, y = x + hand.uniform(-0.07, 0.07) * width, y + hand.uniform(-0.07, 0.07) * width
            radius = width / 2 * hand.uniform(0.82, 1) + grow
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour if picture.mode == "RGB" else 255)
    return picture


def save(image: Image.Image, name: str) -> None:
    image.save(HERE / f"{name}.png", optimize=True)


def open_view(name: str) -> Image.Image:
    with Image.open(HERE / f"{name}.png") as image:
        return image.convert("RGB")


def stroke_mask(strokes: list[Stroke], size: tuple[int, int]) -> Image.Image:
    """Mask of `size` that covers the strokes and GROWN pixels around them."""
    mask = paint(Image.new("L", (SIZE, SIZE)), strokes, grow=GROWN * SIZE / size[0])
    return mask.resize(size, Image.Resampling.NEAREST)


def over_view(strokes: list[Stroke], name: str) -> Image.Image:
    """The view with strokes painted on it."""
    view = open_view(name)
    large = view.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    return paint(large, strokes).resize(view.size, Image.Resampling.BOX)


def composite(onto: str, of: str, shift: tuple[int, int], strokes: list[Stroke]) -> tuple[Image.Image, Image.Image]:
    """Paste the part of view `of` that `strokes` cover onto view `onto`, moved by `shift`; returns picture and mask."""
    ground, piece = open_view(onto), open_view(of)
    shape = paint(Image.new("L", (SIZE, SIZE)), strokes).resize(ground.size, Image.Resampling.NEAREST)
    ground.paste(piece, shift, shape)
    mask = Image.new("L", ground.size)
    mask.paste(stroke_mask(strokes, ground.size), shift)
    return ground, mask


def cut_views(picture: Path) -> None:
    """Cut all views from the map and save them: as PNG, and the photo of Australia as JPEG."""
    with Image.open(picture) as earth:
        rgb = earth.convert("RGB")
    for name, box in VIEWS.items():
        save(rgb.crop(box), name)
    rgb.crop(AUSTRALIA).save(HERE / "australia.jpg", quality=92)


def paint_photo() -> None:
    """Paint INLAND_SEA on the photo of Australia; save the mask too."""
    with Image.open(HERE / "australia.jpg") as photo:
        painted = paint(photo.convert("RGB"), INLAND_SEA)
    painted.save(HERE / "inland-sea.jpg", quality=92)
    save(paint(Image.new("L", painted.size), INLAND_SEA, grow=GROWN), "inland-sea-mask")


@click.command()
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
def command(picture: Path | None) -> None:
    """Draw the guides of this folder again. With PICTURE, the map bmng.jpg, cut the views again first."""
    if picture is not None:
        cut_views(picture)
    for name, ground, strokes in (
        ("coast", SHELF, COAST),
        ("islands", SHELF, ISLANDS),
        ("delta", SAND, DELTA),
        ("fjord", SHELF, FJORD),
    ):
        save(paint(Image.new("RGB", (SIZE, SIZE), ground), strokes), name)
    save(over_view(LAKE, "view"), "lake")
    save(stroke_mask(LAKE, open_view("view").size), "lake-mask")
    save(over_view(RIVER, "desert"), "river")
    for name, onto, of, shift, strokes in (
        ("island", "cape", "tasmania", (72, -128), TASMANIA),
        ("oasis", "desert", "view", (40, -40), FOREST_PATCH),
    ):
        image, mask = composite(onto, of, shift, strokes)
        save(image, name)
        save(mask, f"{name}-mask")
    paint_photo()


if __name__ == "__main__":
    run_command(command, "draw_guides")
