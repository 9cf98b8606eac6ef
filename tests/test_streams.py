"""`-`: a guide from stdin and a PNG to stdout, in pipes, and streams that are closed."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import QUICK, Run, assert_mistake
from PIL import Image

from sdedit.runtime.images import sources
from sdedit.runtime.recipe import read_recipe

EDIT = [sys.executable, "-m", "sdedit", "edit"]

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """File that `run` has as its stdin."""
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
    return file


def test_a_pipe_gives_the_bytes_that_files_give(run: Run, guide: Path, out: Path) -> None:
    piped = subprocess.run(
        [*EDIT, "-", "--out", "-", *QUICK], input=guide.read_bytes(), capture_output=True, check=True
    )
    assert piped.stderr.startswith(b"-: 64x64, earth64, 3 steps of dpmpp_2m from t0 0.5, seed 0, ")
    assert piped.stderr.count(b"\n") == 1
    assert run("edit", guide, "--out", out, *QUICK)[0] == 0
    with Image.open(io.BytesIO(piped.stdout)) as through, Image.open(out) as written:
        assert through.format == "PNG"
        assert through.tobytes() == written.tobytes()
    out.write_bytes(piped.stdout)  # it ends where the PNG ends, and has its recipe
    assert read_recipe(out)["guide"]["name"] == "<stdin>"
    assert_mistake(run("replay", out), "<stdin>, which is not beside it: say --guide")
    assert run("replay", out, "--guide", guide)[:2] == (0, f"{out}: identical\n")


@unix
@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ('"$@" --out - | true; exit ${PIPESTATUS[0]}', "stdout cannot be written: Broken pipe"),
        ('"$@" --out - >&-', "--out -: stdout is closed"),
        ('"$@" --out out.png <&-', "guide -: stdin is closed"),
        ('"$@" --out out.png </dev/null', "guide <stdin> is not an image of format PNG"),
    ],
)
def test_a_stream_that_is_closed_is_one_line(guide: Path, tmp_path: Path, shell: str, message: str) -> None:
    script = f"set -o pipefail; {shell}"
    with guide.open("rb") as file:
        command = ["bash", "-c", script, "bash", *EDIT, "-", *QUICK]
        done = subprocess.run(
            command, stdin=file, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"sdedit: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_a_guide_from_stdin_goes_to_a_file(run: Run, give: io.BytesIO, guide: Path, out: Path) -> None:
    give.write(guide.read_bytes())
    give.seek(0)
    assert run("edit", "-", "--out", out, *QUICK)[0] == 0
    assert Image.open(out).size == (64, 64)


def test_a_guide_from_stdin_is_bounded(run: Run, give: io.BytesIO, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    give.write(bytes(1001))
    give.seek(0)
    assert_mistake(run("edit", "-", "--out", out, *QUICK), "guide is larger; images of at most 1000 bytes are read")
    assert not out.exists()


def test_what_does_not_go_to_stdout(run: Run, guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    assert_mistake(
        run("edit", guide, "--out", "-", "--json"), "--json and --out - both write to stdout: name an output"
    )
    assert_mistake(run("edit", guide, "--out", "-", "--images", 2), "--out - writes one image, but --images is 2")
    assert_mistake(run("edit", "in", "--out", "-"), "--out - writes one image, but in is a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guide.png", "in"]


def test_no_png_goes_to_a_terminal(run: Run, guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    assert_mistake(run("edit", guide, "--out", "-"), "--out -: stdout is a terminal, which shows no images")
