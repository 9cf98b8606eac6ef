"""replay: the same bytes from the recipe in a PNG, and a recipe is data from outside."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdedit.errors import PlanError
from sdedit.runtime.recipe import RECIPE_KEY
from sdedit.runtime.settings import Settings


def rewritten(path: Path, change: Any, out: Path) -> Path:
    """The PNG with its recipe changed."""
    with Image.open(path) as image:
        recipe = json.loads(image.text[RECIPE_KEY])  # type: ignore[attr-defined]
        changed = change(recipe)
        info = PngInfo()
        info.add_itxt(RECIPE_KEY, changed if isinstance(changed, str) else json.dumps(recipe))
        image.save(out, pnginfo=info)
    return out


@pytest.fixture
def made(run: Run, guide: Path, out: Path) -> Path:
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask).save(guide.parent / "mask.png")
    options = ("--mask", guide.parent / "mask.png", "--images", 2, "--sampler", "ddim", "--eta", 0.5, "--clip", "inf")
    assert run("edit", guide, "--out", out, "--seed", 2**64 - 1, *options, *QUICK)[0] == 0
    return out.with_name("out-1.png")


def test_replay_makes_the_same_bytes(run: Run, made: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run("replay", made, "--out", tmp_path / "again.png")
    assert (code, stderr) == (0, "")
    assert stdout == f"{made}: identical\n"
    assert (tmp_path / "again.png").read_bytes() == made.read_bytes()


@pytest.mark.parametrize("suffix", [".webp", ".jpg"])
def test_replay_reads_the_recipe_of_every_format(run: Run, guide: Path, tmp_path: Path, suffix: str) -> None:
    """A WebP has every pixel; of a JPEG nothing is compared."""
    made = tmp_path / f"made{suffix}"
    assert run("edit", guide, "--out", made, "--seed", "random", *QUICK)[0] == 0
    seed = json.loads(run("inspect", made, "--json")[1])["seed"]
    said = {".webp": "identical", ".jpg": "made again; not compared, since a JPEG keeps no exact pixels"}[suffix]
    assert run("replay", made, "--out", tmp_path / "again.png") == (0, f"{made}: {said}\n", "")
    assert run("edit", guide, "--out", tmp_path / "png.png", "--seed", seed, *QUICK)[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "png.png").read_bytes()
    again = tmp_path / f"again{suffix}"
    assert run("replay", made, "--out", again)[0] == 0
    assert again.read_bytes() == made.read_bytes()


def test_replay_sees_a_pixel_of_a_webp_that_differs(run: Run, guide: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.webp"
    assert run("edit", guide, "--out", made, *QUICK)[0] == 0
    with Image.open(made) as image:
        changed = image.convert("RGB")
        changed.putpixel((5, 5), tuple(255 - value for value in changed.getpixel((5, 5))))  # type: ignore[union-attr,arg-type]
        changed.save(made, lossless=True, xmp=image.info["xmp"])
    code, stdout, stderr = run("replay", made)
    assert (code, stdout, stderr) == (2, "", f"{made}: 1 pixels differ\n")


def test_replay_of_one_image_makes_no_other(run: Run, made: Path, tmp_path: Path) -> None:
    last = rewritten(made, lambda r: r.update(images=2**32, image=2**32 - 1), tmp_path / "last.png")
    code, _, stderr = run("replay", last)
    assert code == 2
    assert stderr.splitlines()[-1].endswith("pixels differ")


def test_replay_writes_over_no_input(run: Run, made: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("guide.png", "mask.png", made.name):
        assert_mistake(run("replay", made, "--out", tmp_path / name), "would overwrite an input")
    assert all(path.read_bytes() == data for path, data in before.items())


def test_replay_takes_inputs_from_elsewhere_if_they_are_the_same(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    for name in ("guide.png", "mask.png"):
        (tmp_path / name).rename(tmp_path / "else" / name)
    assert_mistake(run("replay", made), "guide.png, which is not beside it: say --guide")
    moved = ("--guide", tmp_path / "else" / "guide.png", "--mask", tmp_path / "else" / "mask.png")
    assert run("replay", made, *moved)[0] == 0
    swapped = ("--guide", tmp_path / "else" / "mask.png", "--mask", tmp_path / "else" / "mask.png")
    assert_mistake(run("replay", made, *swapped), "is not what")
    assert_mistake(run("replay", made, *moved, "--base", made), "was made without a base")


def test_replay_says_how_many_pixels_differ_and_what_may_explain_it(run: Run, made: Path, tmp_path: Path) -> None:
    other = rewritten(made, lambda r: r.update(seed=5, version="0.0.1"), tmp_path / "other.png")
    code, stdout, stderr = run("replay", other)
    assert (code, stdout) == (2, "")
    assert "note: version was 0.0.1, is " in stderr
    assert stderr.splitlines()[-1].endswith("pixels differ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: "not json", "its recipe is damaged"),
        (lambda r: "[" * 10000, "its recipe is damaged"),
        (lambda r: "[1, 2]", "its recipe is damaged"),
        (lambda r: r.__delitem__("sampler"), "the recipe lacks sampler"),
        (lambda r: r.update(sampler=["ddim"]), "sampler ['ddim'] is not one of ancestral, ddim"),
        (lambda r: r.update(t0="much"), "t0 'much' is not a number"),
        (lambda r: r.update(t0="0.5"), "t0 '0.5' is not a number"),
        (lambda r: r.update(t0=True), "t0 True is not a number"),
        (lambda r: r.update(seed=True), "seed True is not an integer"),
        (lambda r: r["engine"].update(threads=2**40), "the recipe's 1099511627776 threads are more than the"),
        (lambda r: r["engine"].update(threads=1024), "the recipe's 1024 threads are more than the"),
        (lambda r: r["engine"].update(batch=10**9), "the recipe's batch 1000000000 is not 1, which device cpu runs"),
        (lambda r: r["guide"].update(name="a" * 300), "which is not beside it: say --guide"),
        (lambda r: r["guide"].update(name="\ud800\x1b[31m"), "\\ud800\\x1b[31m, which is not beside it"),
        (lambda r: r.update(seed=1.5), "seed 1.5 is not an integer"),
        (lambda r: r.update(image=2), "image 2 is not in 0..1"),
        (lambda r: r.update(image=True), "image True is not in 0..1"),
        (lambda r: r.update(engine=None), "the recipe does not say engine"),
        (lambda r: r["engine"].update(threads="two"), "threads 'two' is no number that device cpu takes"),
        (lambda r: r["engine"].update(name="caffe"), "engine 'caffe' is not one of"),
        (lambda r: r["bundle"].update(sha256="0" * 64), "was made with another bundle, sha256 000000000000"),
        (lambda r: r.update(guide=None), "the recipe names no guide"),
        (lambda r: r.update(guide={"name": "../guide.png", "sha256": "0"}), "its guide was no file: say --guide"),
        (lambda r: r.update(guide="guide.png"), "its guide was no file: say --guide"),
        (lambda r: r["guide"].update(sha256="0" * 64), "is not what"),
        (lambda r: r.update(steps=10**9), "steps"),
    ],
)
def test_a_recipe_is_data_from_outside(run: Run, made: Path, tmp_path: Path, change: Any, message: str) -> None:
    bad = rewritten(made, change, tmp_path / "bad.png")
    assert_mistake(run("replay", bad, "--out", tmp_path / "again.png"), message)
    assert not (tmp_path / "again.png").exists()


def test_settings_survive_their_recipe() -> None:
    for settings in (Settings(), Settings(sampler="ddim", eta=0.25, clip=float("inf"), seed=2**64 - 1, fit="pad")):
        back = Settings.from_recipe(json.loads(json.dumps(settings.recipe())))
        assert dataclasses.replace(back, eta=settings.eta) == settings
    with pytest.raises(PlanError, match="lacks t0, steps"):
        Settings.from_recipe({})
