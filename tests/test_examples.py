"""The scripts in examples/: help makes nothing, and a mistake is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run_script(name: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_makes_nothing(name: str, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in EXAMPLES.parent.rglob("*.png")}
    done = run_script(name, tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in EXAMPLES.parent.rglob("*.png")} == before


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("draw_guides.py", ["nowhere.jpg"], "nowhere.jpg"),
        ("draw_guides.py", ["text.png"], "cannot identify image file"),
        ("make_ablations.py", [], "Missing argument 'PICTURE'"),
        ("make_ablations.py", ["small.png", "."], "smaller than the crop of 64x64"),
        ("make_ablations.py", ["text.png", "."], "text.png is not an image"),
        ("make_gallery.py", ["text.png"], "text.png"),
        ("make_gallery.py", ["text.png/gallery"], "Not a directory"),
        ("make_picture.py", ["nowhere/picture.png"], "nowhere"),
        ("make_picture.py", ["--out"], "No such option"),
    ],
)
def test_a_mistake_is_one_line(name: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    before = sorted(tmp_path.iterdir())
    done = run_script(name, tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert sorted(tmp_path.iterdir()) == before
