"""edit: several images, folders, a base, JSON, a bar on a terminal, and each mistake."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from PIL import Image

from sdedit.runtime.recipe import RECIPE_KEY, read_recipe


def test_several_images_are_numbered(run: Run, guide: Path, out: Path, tmp_path: Path) -> None:
    code, stdout, _ = run("edit", guide, "--out", out, "--images", 11, "--slots", 3, "--steps", 1)
    assert code == 0
    names = [f"out-{index:02}.png" for index in range(11)]
    assert sorted(p.name for p in tmp_path.glob("out*")) == names
    assert [line.split(":")[0] for line in stdout.splitlines()] == [str(tmp_path / name) for name in names]
    assert len({(tmp_path / name).read_bytes() for name in names}) == 11


def test_a_folder_becomes_a_folder(run: Run, guide: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.PNG"):
        shutil.copy(guide, tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    code, _stdout, stderr = run("edit", tmp_path / "in", "--out", tmp_path / "made", *QUICK)
    assert (code, stderr) == (0, "sdedit: left out: notes.txt (not an image)\n")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["a.png", "b.png"]
    run("edit", guide, "--out", tmp_path / "alone.png", *QUICK)
    alone, within = (np.asarray(Image.open(p)) for p in (tmp_path / "alone.png", tmp_path / "made" / "b.png"))
    assert np.array_equal(alone, within)


def test_each_guide_of_a_folder_has_a_random_seed_of_its_own(run: Run, guide: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(guide, tmp_path / "in" / name)
    code, stdout, _ = run("edit", tmp_path / "in", "--out", tmp_path / "made", "--seed", "random", *QUICK)
    assert code == 0
    seeds = [read_recipe(tmp_path / "made" / name)["seed"] for name in ("a.png", "b.png")]
    assert seeds[0] != seeds[1]
    assert [line.rpartition("seed ")[2].split(",")[0] for line in stdout.splitlines()] == list(map(str, seeds))
    made = tmp_path / "made" / "a.png"
    assert run("replay", made, "--guide", guide)[:2] == (0, f"{made}: identical\n")


def test_of_a_folder_the_good_ones_are_written_and_the_bad_ones_named(run: Run, guide: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(guide, tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_text("no image")
    code, _stdout, stderr = run("edit", tmp_path / "in", "--out", tmp_path / "made", *QUICK)
    assert code == 2
    assert stderr.startswith("sdedit: 1 of 2 guides were not edited: guide ")
    assert stderr.count("\n") == 1
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["good.png"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], [], "/in has no images"),
        (["a.png"], ["--mask", "m.png"], "go with one guide, not with a folder"),
        (["a.png", "a.jpg"], [], "would be written for both a.jpg and a.png: rename one"),
    ],
)
def test_a_folder_that_is_refused(
    run: Run, guide: Path, tmp_path: Path, files: list[str], options: list[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in files:
        shutil.copy(guide, tmp_path / "in" / name)
    assert_mistake(run("edit", tmp_path / "in", "--out", tmp_path / "made", *options), message)
    assert not (tmp_path / "made").exists()


def test_inputs_are_never_overwritten(run: Run, guide: Path, tmp_path: Path) -> None:
    before = guide.read_bytes()
    assert_mistake(run("edit", guide, "--out", guide, *QUICK), "would overwrite an input")
    (tmp_path / "in").mkdir()
    shutil.copy(guide, tmp_path / "in" / "a.png")
    assert_mistake(run("edit", tmp_path / "in", "--out", tmp_path / "in", *QUICK), "would overwrite an input")
    assert guide.read_bytes() == (tmp_path / "in" / "a.png").read_bytes() == before
    assert_mistake(run("edit", tmp_path / "in", "--out", guide, *QUICK), "is not a folder")
    assert_mistake(run("edit", tmp_path / "in", "--out", tmp_path / "no" / "where", *QUICK), "cannot be made")


def test_base_says_where_strokes_were_painted(run: Run, guide: Path, out: Path, tmp_path: Path) -> None:
    photo = np.asarray(Image.open(guide)).copy()
    painted = photo.copy()
    painted[20:30, 40:60] = (200, 0, 0)
    painted[5, 5] += 5  # less than what JPEG does
    Image.fromarray(painted).save(tmp_path / "painted.png")
    code, _, _ = run("edit", tmp_path / "painted.png", "--base", guide, "--out", out, *QUICK)
    assert code == 0
    result = np.asarray(Image.open(out))
    changed = np.zeros(photo.shape[:2], bool)
    changed[16:34, 36:64] = True  # grown by 4
    assert np.array_equal(result[~changed], painted[~changed])
    assert (result[changed] != painted[changed]).any(axis=1).mean() > 0.9
    recipe = json.loads(Image.open(out).text[RECIPE_KEY])  # type: ignore[attr-defined]
    assert recipe["mask"] is None
    assert recipe["base"]["name"] == "guide.png"


def test_a_base_that_is_no_use(run: Run, guide: Path, out: Path, tmp_path: Path) -> None:
    assert_mistake(run("edit", guide, "--base", guide, "--out", out), "differ nowhere by more than 12 of 255")
    Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
    assert_mistake(run("edit", guide, "--base", tmp_path / "small.png", "--out", out), "base is 5x5 pixels, the guide")
    assert_mistake(run("edit", guide, "--base", guide, "--mask", guide, "--out", out), "mask and base are both given")
    assert not out.exists()


@pytest.mark.parametrize(
    ("brand", "name"), [(b"heic", "HEIC"), (b"heix", "HEIC"), (b"mif1", "HEIC"), (b"hevc", "HEIC"), (b"avif", "AVIF")]
)
def test_formats_of_phones_are_refused_by_name(run: Run, out: Path, tmp_path: Path, brand: bytes, name: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x20ftyp" + brand + b"\0" * 100)
    assert_mistake(run("edit", tmp_path / "photo.jpg", "--out", out), f"is {name}, which is not decoded: convert it")


def test_json_says_what_was_written(run: Run, guide: Path, out: Path) -> None:
    code, stdout, stderr = run("edit", guide, "--out", out, "--json", *QUICK)
    assert (code, stderr) == (0, "")
    (entry,) = json.loads(stdout)
    assert entry["out"] == [str(out)]
    assert entry["recipe"]["steps"] == 3
    assert entry["timings"]["evaluations"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "caffe"], "engine 'caffe' is not one of auto, onnxruntime, openvino"),
        (["--precision", "int4"], "precision 'int4' is not one of auto, float32, bfloat16, int8"),
        (
            ["--engine", "onnxruntime", "--precision", "bfloat16"],
            "is not one of auto, float32, which engine onnxruntime on device cpu has",
        ),
        (["--threads", "0"], "threads 0 is not "),
        (["--threads", "5000"], "threads 5000 is not in 1..1024"),
        (["--slots", "0"], "slots 0 is not in 1..2147483647"),
        (["--images", "0"], "images 0 is not in 1..2^32"),
        (["--seed", "rand"], "Invalid value for '--seed': 'rand' is not an integer or random"),
        (["--clip", "-1"], "clip -1.0 is not above 0"),
        (["--clip", "nan"], "clip nan is not above 0"),
        (["--context", "nan"], "context nan is not at least 0"),
    ],
)
def test_options_that_are_refused(run: Run, guide: Path, out: Path, options: list[str], message: str) -> None:
    assert_mistake(run("edit", guide, "--out", out, *options), message)
    assert not out.exists()


def test_options_are_checked_before_a_folder_is_made(run: Run, guide: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(guide, tmp_path / "in" / "a.png")
    assert_mistake(run("edit", tmp_path / "in", "--out", tmp_path / "made", "--t0", "7"), "t0 7.0 is not in (0, 1]")
    assert not (tmp_path / "made").exists()


def test_a_full_disk_leaves_what_was_there(
    run: Run, guide: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_bytes(b"the one before")
    before = sorted(p.name for p in tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert_mistake(run("edit", guide, "--out", out, *QUICK), "cannot be written: No space left on device")
    assert out.read_bytes() == b"the one before"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_there_is_a_bar_on_a_terminal_and_silence_in_a_pipe(guide: Path, out: Path) -> None:
    import pty

    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "edit", guide, "--out", out, *QUICK]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stderr == b""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def drain() -> None:
        try:
            while part := os.read(ours, 1024):
                shown.extend(part)
        except OSError:  # Linux's end of a terminal
            pass

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    reader.join(10)
    assert b"guide.png" in shown
    assert b"100%" in shown
