"""demo, replay, inspect, tune, doctor, folders, several images, JSON, completion: each used, and each mistake."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_mistake
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdedit.errors import PlanError
from sdedit.runtime import doctor, tuned
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.editor import RECIPE_KEY, Editor
from sdedit.runtime.settings import Settings

QUICK = ("--steps", "3", "--threads", "1")


def rewritten(path: Path, change: Any, out: Path) -> Path:
    """The PNG with its recipe changed."""
    with Image.open(path) as image:
        recipe = json.loads(image.text[RECIPE_KEY])  # type: ignore[attr-defined]
        changed = change(recipe)
        info = PngInfo()
        info.add_itxt(RECIPE_KEY, changed if isinstance(changed, str) else json.dumps(recipe))
        image.save(out, pnginfo=info)
    return out


# edit: several images, folders, base, JSON


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
    assert (code, stderr) == (0, "")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["a.png", "b.png"]
    run("edit", guide, "--out", tmp_path / "alone.png", *QUICK)
    alone, within = (np.asarray(Image.open(p)) for p in (tmp_path / "alone.png", tmp_path / "made" / "b.png"))
    assert np.array_equal(alone, within)


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
        ([], [], "has no images; looked for .png"),
        (["a.png"], ["--mask", "m.png"], "go with one guide, not with a folder"),
        (["a.png", "a.jpg"], [], "would be both a.jpg's and a.png's: rename one"),
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
    assert_mistake(run("edit", tmp_path / "in", "--out", guide, *QUICK), "is no folder")
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
        (["--engine", "onnxruntime", "--precision", "bfloat16"], "engine onnxruntime runs: float32"),
        (["--threads", "0"], "threads 0 is not in 1..1024"),
        (["--threads", "5000"], "threads 5000 is not in 1..1024"),
        (["--slots", "0"], "slots 0 is not at least 1"),
        (["--images", "0"], "images 0 is not in 1..2^32"),
        (["--clip", "-1"], "clip -1.0 is not above 0"),
        (["--clip", "nan"], "clip nan is not above 0"),
        (["--context", "nan"], "context nan is not at least 0"),
    ],
)
def test_options_that_are_refused(run: Run, guide: Path, out: Path, options: list[str], message: str) -> None:
    assert_mistake(run("edit", guide, "--out", out, *options), message)
    assert not out.exists()


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


# demo, inspect


def test_demo_paints_edits_and_shows(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run("demo", "--seed", 3)
    assert (code, stderr) == (0, "")
    assert Image.open("sdedit-demo.png").size == (1036, 256)
    command = stdout.splitlines()[1].removeprefix("By hand: sdedit ").split()
    assert run(*command)[0] == 0
    panel = np.asarray(Image.open("sdedit-demo.png").crop((520, 0, 776, 256)))
    by_hand = np.asarray(Image.open("result.png").resize((256, 256), Image.Resampling.BICUBIC))
    assert np.array_equal(panel, by_hand)
    assert_mistake(run("demo", "--out", "no/where.png"), "there is no folder no")


def test_inspect_shows_bundles_and_recipes(run: Run, guide: Path, out: Path) -> None:
    code, stdout, _ = run("inspect")
    assert code == 0
    assert "name: earth64" in stdout.splitlines()
    assert f"sha256: {read_bundle(SHIPPED).sha256}" in stdout.splitlines()
    assert "samplers: ancestral, ddim," in stdout
    manifest = json.loads(run("inspect", SHIPPED, "--json")[1])
    assert manifest["prediction"] == "v"
    run("edit", guide, "--out", out, "--seed", 7, *QUICK)
    assert "seed: 7" in run("inspect", out)[1].splitlines()
    assert json.loads(run("inspect", out, "--json")[1])["seed"] == 7
    assert_mistake(run("inspect", guide), "carries no recipe")
    assert_mistake(run("inspect", guide.parent / "nothing"), "nothing")


# replay


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_stdout_that_is_full_is_one_line() -> None:
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "inspect"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "sdedit: stdout cannot be written: No space left on device\n")


def test_options_are_checked_before_a_folder_is_made(run: Run, guide: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(guide, tmp_path / "in" / "a.png")
    assert_mistake(run("edit", tmp_path / "in", "--out", tmp_path / "made", "--t0", "7"), "t0 7.0 is not in (0, 1]")
    assert not (tmp_path / "made").exists()


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
        (lambda r: r.__delitem__("sampler"), "the recipe does not say sampler"),
        (lambda r: r.update(sampler=["ddim"]), "sampler ['ddim'] is not a name"),
        (lambda r: r.update(t0="much"), "t0 'much' is not a number"),
        (lambda r: r.update(t0="0.5"), "t0 '0.5' is not a number"),
        (lambda r: r.update(t0=True), "t0 True is not a number"),
        (lambda r: r.update(seed=True), "seed True is not an integer"),
        (lambda r: r["engine"].update(threads=2**40), "threads 1099511627776 is not in 1..1024"),
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
    with pytest.raises(PlanError, match="does not say t0, steps"):
        Settings.from_recipe({})


# tune


def test_tune_measures_remembers_and_auto_takes_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.runtime.tune.SECONDS", 0.1)
    code, stdout, stderr = run("tune", "--threads", 1, "--json")
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert {m["engine"] for m in report["measured"]} == {"onnxruntime", "openvino"}
    assert all(m["error"] <= 1e-4 and m["threads"] == 1 for m in report["measured"] if m["precision"] == "float32")
    medians = [m["median_ms"] for m in report["measured"]]
    assert medians == sorted(medians)
    best = next(m for m in report["measured"] if m["precision"] == "float32")
    with Editor.open() as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == (best["engine"], 1)
    with Editor.open(engine="onnxruntime", threads=2) as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == ("onnxruntime", 2)
    assert "measured by sdedit tune" in run("doctor")[1]


def test_tune_prints_a_table(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.runtime.tune.SECONDS", 0.1)
    code, stdout, _ = run("tune", "--threads", 1)
    assert code == 0
    assert "onnxruntime  float32     1 threads" in stdout
    assert "remembered in " in stdout.splitlines()[-1]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"key": 1}', "[" * 10**5, "\0\1"])
def test_a_damaged_memory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    tuned.cache_file(bundle).write_text(text)
    assert tuned.remembered(bundle) == []


def test_a_memory_of_other_versions_or_nonsense_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    good = tuned.Measured("onnxruntime", "float32", 1, 1e-6, 5.0, 4.0, 6.0)
    file = tuned.remember(bundle, [good])
    assert file is not None
    assert tuned.remembered(bundle) == [good]
    stored = json.loads(file.read_text())
    for change in (
        {"engine": "rm -rf"},
        {"threads": True},
        {"threads": 0},
        {"median_ms": "5"},
        {"error": float("nan")},
    ):
        file.write_text(json.dumps({**stored, "measured": [{**stored["measured"][0], **change}]}))
        assert tuned.remembered(bundle) == [], change
    file.write_text(json.dumps({**stored, "key": {**stored["key"], "processor": "another"}}))
    assert tuned.remembered(bundle) == []


def test_a_cache_that_cannot_be_written_is_a_warning(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("sdedit.runtime.tune.SECONDS", 0.1)
    with pytest.warns(UserWarning, match="cannot be written, nothing is remembered"):
        code, stdout, _ = run("tune", "--threads", 1)
    assert code == 0
    assert stdout.splitlines()[-1].endswith("not remembered")


def test_tune_refuses_no_threads(run: Run) -> None:
    assert_mistake(run("tune", "--threads", "0"), "threads 0 is not at least 1")


# doctor


def test_doctor_finds_this_installation_sound(run: Run) -> None:
    code, stdout, stderr = run("doctor", "--json")
    assert (code, stderr) == (0, "")
    findings = {finding["what"]: finding for finding in json.loads(stdout)}
    for what in ("versions", "processor", "kernels in c", "kernels in numpy", "engine onnxruntime", "engine openvino"):
        assert findings[what]["verdict"] == "ok", findings[what]
    assert findings["GPU kernels"]["verdict"] == "warning"
    assert len(run("doctor")[1].splitlines()) == len(findings)


def test_doctor_sees_wrong_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = doctor.twin("numpy")
    wrong = kernels._replace(normal=lambda *a: kernels.normal(*a) + np.float32(1e-7))  # type: ignore[operator]
    monkeypatch.setattr(doctor, "twin", lambda name: wrong)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "wrong   kernels in c: noise " in stdout


def test_doctor_sees_an_engine_that_errs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_error", lambda bundle, engine: 0.5)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "wrong   engine onnxruntime: " in stdout


def test_doctor_names_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_engines", lambda: ["onnxruntime"])

    def no_extension(name: str) -> Any:
        if name == "c":
            raise ImportError
        return real(name)

    real = doctor.twin
    monkeypatch.setattr(doctor, "twin", no_extension)
    code, stdout, _ = run("doctor")
    assert code == 0
    assert "warning engine openvino: not installed" in stdout
    assert "warning kernels in c: the extension was not built" in stdout


def test_doctor_refuses_two_onnxruntimes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr(doctor, "installed_versions", lambda: both)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "pip uninstall onnxruntime onnxruntime-gpu, then install one" in stdout


# completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sdedit ", {"demo", "edit", "strokes", "replay", "inspect", "tune", "doctor", "export"}),
        ("sdedit edit --sampler d", {"ddim", "dpmpp_2m", "dpmpp_2m_sde"}),
        ("sdedit edit --keep f", {"fresh", "fixed"}),
        ("sdedit edit --engine ", {"onnxruntime", "openvino"}),
        ("sdedit edit --fit p", {"pad"}),
    ],
)
def test_a_shell_completes_names(words: str, expected: set[str]) -> None:
    environment = {
        **os.environ,
        "_SDEDIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    script = "import sys; sys.argv = ['sdedit']; from sdedit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert {line.split(",")[1] for line in done.stdout.splitlines()} == expected, done.stderr


@pytest.mark.parametrize("command", ["demo", "edit", "replay", "inspect", "tune", "doctor", "export"])
def test_help_of_every_command_has_an_example_and_imports_no_numpy(command: str) -> None:
    script = (
        "import sys; sys.argv = ['sdedit', sys.argv[1], '--help']\n"
        "from sdedit.cli import main\n"
        "try: main()\n"
        "finally: print('numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True, check=True)
    assert "Example" in done.stdout
    assert done.stderr == "False\n"
