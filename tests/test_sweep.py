"""edit --sweep: a sheet, images with recipes, and each mistake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_mistake
from PIL import Image
from tiny import write_bundle

from sdedit.commands.sweep import parse_sweep
from sdedit.evaluation.sheet import GAP, LINE, MARGIN, PAPER, Cell, draw_sheet
from sdedit.runtime.recipe import read_recipe


@pytest.fixture
def arguments(guide: Path, out: Path, tmp_path: Path) -> list[object]:
    return ["edit", guide, "--out", out, "--bundle", write_bundle(tmp_path / "bundle"), "--threads", 1]


def test_a_sheet_shows_every_edit_and_each_is_that_of_the_plain_command(
    run: Run, arguments: list[object], guide: Path, out: Path, tmp_path: Path
) -> None:
    options = ("--steps", 2, "--images", 2)
    code, stdout, stderr = run(*arguments, "--sweep", "t0=0.2:0.8:3", *options)
    assert (code, stderr) == (0, "")
    assert stdout == f"{out}: 6 edits by t0; images with recipes: {tmp_path / 'out'}\n"
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == [f"t0-{t0}-{image}.png" for t0 in ("0.2", "0.5", "0.8") for image in (0, 1)]
    assert read_recipe(tmp_path / "out" / "t0-0.8-1.png")["t0"] == 0.8
    sheet = Image.open(out)
    assert sheet.width > 4 * 160  # the guide and three edits, enlarged from 8x8
    assert sheet.height > 2 * 160
    shutil.move(tmp_path / "out" / "t0-0.5-1.png", tmp_path / "swept.png")
    assert run(*arguments, "--t0", 0.5, *options)[0] == 0
    swept, plain = (np.asarray(Image.open(tmp_path / name)) for name in ("swept.png", "out-1.png"))
    assert np.array_equal(swept, plain)


def test_steps_and_samplers_are_swept_under_a_mask_too(
    run: Run, arguments: list[object], guide: Path, out: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.png"
    pixels = np.zeros((70, 90), np.uint8)
    pixels[20:50, 20:50] = 255
    Image.fromarray(pixels).save(mask)
    code, stdout, _ = run(*arguments, "--sweep", "sampler=euler,ddim", "--steps", 2, "--mask", mask, "--json")
    assert code == 0
    edits = json.loads(stdout)["edits"]
    assert [edit["recipe"]["sampler"] for edit in edits] == ["euler", "ddim"]
    assert Image.open(edits[0]["out"][0]).size == (90, 70)
    assert run(*arguments, "--sweep", "steps=1:3:3", "--mask", mask)[0] == 0
    assert {path.name for path in (tmp_path / "out").glob("steps*")} == {f"steps-{n}.png" for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("t0=0.2:0.8:7", ("t0", [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])),
        ("t0=0.5,0.3,0.5", ("t0", [0.5, 0.3])),
        ("steps=4:8:9", ("steps", [4, 5, 6, 7, 8])),  # 4.5 is 4, 5.5 is 6: no value twice
        ("sampler=ddim, euler", ("sampler", ["ddim", "euler"])),
    ],
)
def test_values_are_read(text: str, found: tuple[str, list[object]]) -> None:
    assert parse_sweep(text) == found


def test_mistakes_are_one_line_and_nothing_is_edited(
    run: Run, arguments: list[object], guide: Path, out: Path, tmp_path: Path
) -> None:
    def mistake(message: str, *options: object) -> None:
        assert_mistake(run(*arguments, *options), message)
        assert not out.exists()
        assert not (tmp_path / "out").exists()

    mistake("sweep 'seed=1,2' is not t0=FIRST:LAST:NUMBER or VALUE,VALUE,...", "--sweep", "seed=1,2")
    mistake("'0.2:0.8' is not FIRST:LAST:NUMBER", "--sweep", "t0=0.2:0.8")
    mistake("its number 99 is not in 2..50", "--sweep", "t0=0.2:0.8:99")
    mistake("t0 1.5 is not in (0, 1]", "--sweep", "t0=0.5,1.5", "--steps", 2)
    mistake("sampler 'plms' is not one of", "--sweep", "sampler=ddim,plms", "--steps", 2)
    mistake("steps 21 is not in 1..10", "--sweep", "steps=2,21")
    mistake("--t0 and --sweep t0 exclude each other", "--sweep", "t0=0.2,0.3", "--t0", 0.5)
    mistake("--sweep takes a file as GUIDE", "--sweep", "t0=0.2,0.3", "--out", "-")


def test_a_sheet_shows_each_picture_where_it_belongs() -> None:
    colours = [[(200, 0, 0), (0, 200, 0)], [None, (0, 0, 200)]]
    cells = [[colour and Cell(Image.new("RGB", (200, 100), colour), "L2") for colour in row] for row in colours]
    sheet = np.asarray(draw_sheet("title", ["a", "b"], ["", ""], cells))
    middle = MARGIN + 2 * LINE + GAP + 50
    for y, row in enumerate(colours):
        for x, colour in enumerate(row):
            place = (middle + y * (100 + LINE + GAP), MARGIN + GAP + 100 + x * (200 + GAP))
            assert tuple(sheet[place]) == (colour or PAPER)
