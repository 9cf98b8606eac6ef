"""Draw the guides of this folder: python examples/draw_guides.py [bmng.jpg], the picture only to cut view.png anew."""

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
SIZE = 512
VIEW_BOX = (4880, 1780, 5008, 1908)  # in bmng.jpg, 5400x2700: the coast of New South Wales, held out of training
GROWN = 3  # pixels of the view that the mask reaches beyond the strokes

DEEP, SEA, SHELF = (3, 7, 30), (14, 40, 92), (28, 74, 132)
FOREST, OLIVE, TAN, SAND = (44, 60, 22), (84, 78, 42), (160, 130, 92), (206, 168, 124)
ICE = (232, 232, 230)

Colour = tuple[int, int, int]
Point = tuple[float, float]
Stroke = tuple[Colour, int, list[Point]]  # colour, width of the brush, where it goes; SIZE pixels are the whole width

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


def curve(points: list[Point]) -> list[Point]:
    """Close points on the smooth line (Catmull-Rom) through `points`."""
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
    """Lay the strokes on `picture` as overlapping dabs of an unsteady hand, `grow` pixels wider on each side."""
    draw = ImageDraw.Draw(picture)
    hand = random.Random(1)
    for colour, width, points in strokes:
        for x, y in curve(points):
            x, y = x + hand.uniform(-0.07, 0.07) * width, y + hand.uniform(-0.07, 0.07) * width
            radius = width / 2 * hand.uniform(0.82, 1) + grow
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour if picture.mode == "RGB" else 255)
    return picture


def main() -> None:
    paint(Image.new("RGB", (SIZE, SIZE), SHELF), COAST).save(HERE / "coast.png", optimize=True)
    paint(Image.new("RGB", (SIZE, SIZE), SHELF), ISLANDS).save(HERE / "islands.png", optimize=True)

    if len(sys.argv) > 1:
        earth = Image.open(sys.argv[1]).convert("RGB").crop(VIEW_BOX)
        earth.resize((64, 64), Image.Resampling.BOX).save(HERE / "view.png", optimize=True)
    view = Image.open(HERE / "view.png").convert("RGB")
    large = view.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    paint(large, LAKE).resize(view.size, Image.Resampling.BOX).save(HERE / "lake.png", optimize=True)
    mask = paint(Image.new("L", (SIZE, SIZE)), LAKE, grow=GROWN * SIZE / view.width)
    mask.resize(view.size, Image.Resampling.NEAREST).save(HERE / "lake-mask.png", optimize=True)


if __name__ == "__main__":
    main()
