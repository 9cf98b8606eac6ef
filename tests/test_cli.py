"""The command line: what it writes, and that every mistake is one line on stderr, exit code 2 and no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_mistake
from PIL import Image

from sdedit import __version__
from sdedit.runtime.bundle import SHIPPED


def sdedit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `sdedit` in a process of its own."""
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


# Help


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_the_commands(run: Run, arguments: tuple[str, ...]) -> None:
    code, stdout, stderr = run(*arguments)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("Usage: sdedit ")
    assert "  edit  " in stdout
    assert "  export  " in stdout


@pytest.mark.parametrize("command", ["edit", "export"])
def test_help_of_a_command_has_an_example(run: Run, command: str) -> None:
    code, stdout, _ = run(command, "--help")
    assert code == 0
    assert f"sdedit {command} " in stdout[stdout.index("Example") :]


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"sdedit, version {__version__}\n", "")


# Edits


def test_an_edit_writes_an_image_of_the_models_size_and_says_so(guide: Path, out: Path) -> None:
    done = sdedit("edit", guide, "--out", out, "--steps", 3, "--seed", 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: 64x64, earth64, 3 steps of dpmpp_2m from t0 0.5, seed 5, ")
    assert len(done.stdout.splitlines()) == 1
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
        recipe = json.loads(image.text["sdedit"])  # type: ignore[attr-defined] # PNG alone has it
    assert (recipe["steps"], recipe["seed"], recipe["guide"]["name"]) == (3, 5, "guide.png")


def test_an_edit_with_a_mask_keeps_the_photos_size_and_what_is_black(
    run: Run, guide: Path, out: Path, tmp_path: Path
) -> None:
    mask = np.zeros((70, 90), np.uint8)
    mask[20:40, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code, stdout, _ = run("edit", guide, "--out", out, "--mask", tmp_path / "mask.png", "--steps", 3)
    assert code == 0
    assert "90x70" in stdout
    before, after = (np.asarray(Image.open(path)) for path in (guide, out))
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert (after != before).any()


def test_the_same_seed_gives_the_same_file_and_another_does_not(run: Run, guide: Path, tmp_path: Path) -> None:
    files = []
    for index, seed in enumerate([7, 7, 8]):
        path = tmp_path / f"{index}.png"
        assert run("edit", guide, "--out", path, "--steps", 3, "--seed", seed)[0] == 0
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_every_option_reaches_the_recipe(run: Run, guide: Path, out: Path) -> None:
    options = {"t0": 0.25, "steps": 2, "sampler": "ddim", "eta": 0.5, "keep": "fixed", "repeats": 2, "fit": "pad"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert run("edit", guide, "--out", out, "--seed", 2**64 - 1, *arguments)[0] == 0
    with Image.open(out) as image:
        recipe = json.loads(image.text["sdedit"])  # type: ignore[attr-defined] # PNG alone has it
    assert {name: recipe[name] for name in options} == options
    assert recipe["seed"] == 2**64 - 1


def test_an_edit_replaces_an_older_result(run: Run, guide: Path, out: Path) -> None:
    out.write_bytes(b"old")
    assert run("edit", guide, "--out", out, "--steps", 1)[0] == 0
    assert out.read_bytes().startswith(b"\x89PNG")


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--t0", "0"], "t0 0.0 is not in (0, 1]"),
        (["--t0", "1.5"], "t0 1.5 is not in (0, 1]"),
        (["--t0", "nan"], "t0 nan is not in (0, 1]"),
        (["--t0", "-inf"], "t0 -inf is not in (0, 1]"),
        (["--t0", "0.0001"], "t0 0.0001 is below the schedule's first level"),
        (["--t0", "half"], "'half' is not a valid float"),
        (["--steps", "0"], "steps 0 is not in 1..4096"),
        (["--steps", "501"], "steps 501 is not in 1..500"),
        (["--steps", "2.5"], "'2.5' is not a valid int"),
        (["--steps", "1" + "0" * 30], "is not in 1..4096"),
        (["--sampler", "heun"], "sampler 'heun' is not one of ancestral, ddim"),
        (["--keep", "all"], "keep 'all' is not one of fresh, fixed, paper, official"),
        (["--fit", "zoom"], "fit 'zoom' is not one of crop, pad, stretch"),
        (["--eta", "0.5"], "eta 0.5 belongs to sampler ddim"),
        (["--sampler", "ddim", "--eta", "1.5"], "eta 1.5 is not in [0, 1]"),
        (["--sampler", "ddim", "--eta", "nan"], "eta nan is not in [0, 1]"),
        (["--seed", "-1"], "seed -1 is not in 0..2^64-1"),
        (["--seed", str(2**64)], "seed 18446744073709551616 is not in 0..2^64-1"),
        (["--repeats", "0"], "repeats 0 is not in 1..4096"),
        (["--repeats", "200"], "steps x repeats = 5000 network evaluations exceed the 4096 that fit"),
        (["--bundle", "nowhere"], "bundle nowhere: no such folder"),
        (["--mask", "nowhere.png"], "mask nowhere.png cannot be read: No such file or directory"),
        (["--colour", "red"], "No such option"),
        (["--steps"], "requires an argument"),
        (["second.png"], "unexpected extra argument"),
    ],
)
def test_an_option_that_is_refused(run: Run, guide: Path, out: Path, options: list[str], message: str) -> None:
    assert_mistake(run("edit", guide, "--out", out, *options), message)
    assert list(guide.parent.iterdir()) == [guide]


def test_a_missing_guide(run: Run, out: Path) -> None:
    path = out.with_name("nowhere.png")
    assert_mistake(run("edit", path, "--out", out), f"guide {path} cannot be read: No such file or directory")
    assert not out.exists()


def test_a_guide_that_is_no_image(run: Run, out: Path, tmp_path: Path) -> None:
    (tmp_path / "guide.txt").write_text("not an image")
    assert_mistake(run("edit", tmp_path / "guide.txt", "--out", out), "is not an image of format PNG, JPEG")
    assert not out.exists()


def test_a_damaged_guide(run: Run, guide: Path, out: Path) -> None:
    guide.write_bytes(guide.read_bytes()[:100])
    assert_mistake(run("edit", guide, "--out", out), f"guide {guide} is damaged: ")
    assert not out.exists()


def test_a_mask_of_another_size(run: Run, guide: Path, out: Path, tmp_path: Path) -> None:
    Image.new("L", (70, 90)).save(tmp_path / "mask.png")
    result = run("edit", guide, "--out", out, "--mask", tmp_path / "mask.png")
    assert_mistake(result, "mask is 70x90 pixels, the guide 90x70: they must be equal")
    assert not out.exists()


def test_a_bundle_that_is_none(run: Run, guide: Path, out: Path) -> None:
    result = run("edit", guide, "--out", out, "--bundle", guide.parent)
    assert_mistake(result, "bundle.json cannot be read: No such file or directory")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.gif", "out.gif does not end in .png, .webp, .jpg, .jpeg"),
        ("nowhere/out.png", "there is no folder"),
        ("folder.png", "folder.png is a folder"),
        ("a" * 300 + ".png", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written(run: Run, guide: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    assert_mistake(run("edit", guide, "--out", tmp_path / name, "--steps", 1), message)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "folder.png", guide]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit"], "Missing argument 'GUIDE'."),
        (["edit", "guide.png"], "Missing option '--out'."),
        (["export"], "Missing argument 'SOURCE'."),
        (["export", "model.ckpt"], "Missing option '--out'."),
        (["paint"], "No such command 'paint'."),
        (["--seed", "1"], "No such option"),
    ],
)
def test_arguments_that_are_missing_or_unknown(run: Run, arguments: list[str], message: str) -> None:
    assert_mistake(run(*arguments), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the file does not state prediction, schedule, size: add --prediction"),
        (["--size", "big"], "the file does not state prediction, schedule: add --prediction"),
    ],
)
def test_an_export_that_is_refused(run: Run, tmp_path: Path, options: list[str], message: str) -> None:
    import torch

    source = tmp_path / "church.ckpt"
    torch.save({"temb.dense.0.weight": torch.zeros(1), "conv_in.weight": torch.zeros(1)}, source)
    assert_mistake(run("export", source, "--out", tmp_path / "church", *options), message)
    assert list(tmp_path.iterdir()) == [source]


def test_an_export_without_torch_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sdedit.export.bundle", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run("export", tmp_path / "church.ckpt", "--out", tmp_path / "church")
    assert_mistake(result, "export needs the package onnx: pip install 'PATH[export]'")


def test_a_mistake_in_a_process_of_its_own_has_no_traceback(guide: Path, out: Path) -> None:
    done = sdedit("edit", guide, "--out", out, "--t0", "2")
    assert_mistake((done.returncode, done.stdout, done.stderr), "t0 2.0 is not in (0, 1]")
    assert not out.exists()


def test_an_interrupt_ends_without_a_traceback(
    run: Run, guide: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdedit.runtime.editor.Editor.open", interrupt)
    code, stdout, stderr = run("edit", guide, "--out", out)
    assert (code, stdout, stderr.strip()) == (130, "", "")


def test_names_need_not_be_unicode(run: Run, guide: Path) -> None:
    odd = guide.rename(os.fsdecode(os.fsencode(guide.parent) + b"/\xff.png"))
    out = os.fsdecode(os.fsencode(guide.parent) + b"/\xfe.png")
    code, stdout, stderr = run("edit", odd, "--out", out, "--steps", 1)
    assert (code, stderr) == (0, "")
    assert "\\udcfe.png: 64x64" in stdout
    assert_mistake(run("edit", odd, "--out", odd), "\\udcff.png would overwrite an input")


def test_kernels_go_into_a_copy_of_a_bundle(run: Run, tmp_path: Path) -> None:
    code, stdout, stderr = run("extend", SHIPPED, "--cubins", "sm90", "--out", tmp_path / "with")
    assert (code, stderr) == (0, "")
    assert stdout == f"{tmp_path / 'with'}: earth64, kernels as PTX, sm90\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to add: give --cubins, --tensorrt, --int8, --graph, --box or --palette"),
        (("--cubins", "all", "--size", 64), "No such option"),
        (("--cubins", "sm70"), "cubin target 'sm70' is not one of sm80, sm86, sm89, sm90, sm100, sm120"),
    ],
)
def test_what_cannot_be_added_to_a_bundle(run: Run, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    assert_mistake(run("extend", SHIPPED, *options, "--out", tmp_path / "with"), message)
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_bundle_names_the_command_that_adds_to_it(run: Run, tmp_path: Path) -> None:
    for options in (["--out", tmp_path / "out", "--cubins", "all"], ["--dry-run"]):
        assert_mistake(run("export", SHIPPED, *options), f"is a bundle already: `sdedit extend {SHIPPED}` adds parts")
    assert list(tmp_path.iterdir()) == []


def test_the_installed_model_is_never_written_to(run: Run) -> None:
    for command in (["extend", SHIPPED, "--cubins", "ptx"], ["export", "x.ckpt", "--out", SHIPPED]):
        assert_mistake(run(*command), "is the installed model, which is never changed: give --out FOLDER")


def test_without_the_extension_one_line_says_so_and_the_image_is_the_same(guide: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['sdedit.kernels._step'] = None; from sdedit.cli import main; main()"
    results = []
    for name, script in (("c.png", "from sdedit.cli import main; main()"), ("numpy.png", hidden)):
        command = [sys.executable, "-c", script, "edit", guide, "--out", tmp_path / name, "--steps", "3"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append((done.stderr, np.asarray(Image.open(tmp_path / name))))
    assert results[0][0] == ""
    assert results[1][0] == "sdedit: the C extension is not built; the numpy twin is used (same bits, slower)\n"
    assert np.array_equal(results[0][1], results[1][1])
