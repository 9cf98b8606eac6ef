"""How commands end: one line for a mistake, whatever the streams are and whoever is to blame."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake, end
from import_graph import PACKAGES, ROOT, files, parse
from PIL import Image

from sdedit.console import mistake, run_command, to_json
from sdedit.errors import ImageError

MAIN = [sys.executable, "-m", "sdedit"]

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImageError("guide a\nb.png is damaged"), "guide a\\nb.png is damaged"),
        (ImageError("guide \x1b[31m.png"), "guide \\x1b[31m.png"),
        (ImageError("guide a  b.png"), "guide a  b.png"),
        (click.UsageError("No such option:\n\t--x"), "No such option: --x"),
        (FileNotFoundError(2, "No such file or directory", "run.json"), "run.json: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 8 GiB"), "not enough memory: Unable to allocate 8 GiB"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_a_mistake_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise error

    assert end(command, monkeypatch) == 2
    assert capsys.readouterr() == ("", f"test: {line}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["test"])
    assert mistake(ZeroDivisionError()) is None
    with pytest.raises(ZeroDivisionError):
        run_command(command, "test")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([*MAIN, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("sdedit, version ")


# Streams


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_text_that_a_stream_cannot_encode_is_escaped(guide: Path, tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "guides"
    folder.mkdir()
    for name in ("結果.png", "z.png"):
        (folder / name).write_bytes(guide.read_bytes())
    command = [*MAIN, "edit", folder, "--out", tmp_path / "made", *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["z.png", "結果.png"]
    assert b"\\u7d50\\u679c.png: 64x64" in done.stdout or "結果.png: 64x64".encode() in done.stdout


@unix
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_an_edit_needs_no_streams(guide: Path, out: Path, closed: str) -> None:
    line = f"'{sys.executable}' -m sdedit edit '{guide}' --out '{out}' --steps 1 --threads 1 {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Image.open(out).size == (64, 64)


@unix
def test_a_mistake_without_stderr_still_has_its_exit_code(out: Path) -> None:
    line = f"'{sys.executable}' -m sdedit edit nowhere.png --out '{out}' 2>&-"
    assert subprocess.run(line, shell=True, capture_output=True, check=False).returncode == 2


@unix
@pytest.mark.parametrize("arguments", ["inspect", "--help", "edit --help", "inspect --json", "--version"])
def test_only_stdout_is_blamed_for_stdout(arguments: str) -> None:
    line = f"'{sys.executable}' -m sdedit {arguments} >/dev/full"
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "sdedit: stdout cannot be written: No space left on device\n")


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", f"{LONG}.png", "--out", "x.png"], f"guide {LONG}.png cannot be read: File name too long"),
        (["edit", "guide.png", "--mask", f"{LONG}.png", "--out", "x.png"], f"mask {LONG}.png cannot be read"),
        (["edit", "guide.png", "--base", f"{LONG}.png", "--out", "x.png"], f"base {LONG}.png cannot be read"),
        (["edit", "guide.png", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (
            ["edit", "guide.png", "--out", "x.png", "--bundle", LONG],
            f"bundle {LONG} cannot be read",
        ),
        (["edit", ".", "--out", LONG], f"output {LONG} cannot be made: File name too long"),
        (["edit", ".", "--out", f"{LONG}/b"], f"output {LONG}/b cannot be made: File name too long"),
        (["strokes", f"{LONG}.png", "--out", "x.png"], f"photo {LONG}.png cannot be read: File name too long"),
        (["replay", f"{LONG}.png"], f"image {LONG}.png cannot be read: File name too long"),
        (["replay", "guide.png", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (["inspect", LONG], f"{LONG}"),
        (["export", LONG, "--dry-run"], f"{LONG}"),
        (["export", LONG, "--out", "y"], f"{LONG}"),
        (["extend", LONG, "--cubins", "ptx"], f"{LONG}"),
        (["demo", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (["tune", "--bundle", LONG], f"{LONG}"),
        (["doctor", "--bundle", LONG], f"{LONG}"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="names are limited in another way")
def test_a_name_that_is_too_long_is_to_blame(
    run: Run, guide: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(guide.parent)
    result = run(*arguments)
    assert_mistake(result, message)
    assert "stdout" not in result[2]
    assert list(guide.parent.iterdir()) == [guide]


# JSON


def refuse(constant: str) -> float:
    raise AssertionError(constant)


def test_json_has_no_number_that_is_not_finite() -> None:
    value = {"a": [math.nan, (math.inf, 1.5)], "b": {"c": np.float64("-inf"), "d": 2**70, "e": "NaN", "f": None}}
    expected = {"a": [None, [None, 1.5]], "b": {"c": None, "d": 2**70, "e": "NaN", "f": None}}
    for indent in (2, None):
        assert json.loads(to_json(value, indent=indent), parse_constant=refuse) == expected


@pytest.mark.parametrize("room", [*PACKAGES, "examples"])
def test_nothing_but_valid_json_is_ever_written(room: str) -> None:
    """Python writes NaN and Infinity, which other readers refuse, unless it is told not to."""
    lax = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(room)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("dump", "dumps")
        if ast.unparse(node.func.value) == "json" and "allow_nan=False" not in map(ast.unparse, node.keywords)
    ]
    assert lax == []


# What is said about a picture


@pytest.mark.parametrize("by", ["command", "library"])
def test_warnings_of_the_logger_reach_stderr(tmp_path: Path, by: str) -> None:
    """Nobody has configured logging in these processes."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / "a\x1b.gif", save_all=True, append_images=frames[1:])
    library = "from sdedit import Editor\nwith Editor.open(threads=1) as e: e.edit('a\\x1b.gif', steps=1)"
    commands = {
        "command": [*MAIN, "edit", "a\x1b.gif", "--out", "out.png", *QUICK],
        "library": [sys.executable, "-c", library],
    }
    done = subprocess.run(commands[by], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr == "guide a\\x1b.gif has 2 frames or pages: the first is used\n"
