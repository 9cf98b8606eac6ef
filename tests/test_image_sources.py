"""Sources: paths, bytes and file objects alike; pipes, devices and what is too large are refused without waiting."""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_mistake
from encoded_images import GREY, encoded, png
from pictures import random_photo
from PIL import Image
from refusals import refusal

from sdedit.errors import ImageError
from sdedit.runtime.images import (
    check_output,
    difference_mask,
    file_sha256,
    load_result,
    masked_canvas,
    open_mask,
    open_picture,
    save_image,
    sources,
)
from sdedit.runtime.images.strokes import stroke_painting

DATA = encoded(random_photo(9, 7), "PNG")


class Slow(io.RawIOBase):
    """A raw binary file that gives three bytes at a time."""

    def __init__(self) -> None:
        self._data = io.BytesIO(DATA)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data.read(min(3, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


class Named:
    """A path that is neither str nor Path."""

    def __init__(self, path: Path | bytes) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path if isinstance(self._path, bytes) else str(self._path)


def test_every_kind_of_source_is_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "guide.png"
    path.write_bytes(DATA)
    expected = open_picture(path, "guide")
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        named = [str(path), Named(path), Named(bytes(path)), file, raw]
        unnamed = [DATA, bytearray(DATA), memoryview(DATA), io.BytesIO(DATA), Slow()]
        for source, name in [(one, "guide.png") for one in named] + [(one, None) for one in unnamed]:
            picture = open_picture(source, "guide")  # type: ignore[arg-type] # Slow and Named are file and path by duck
            assert picture.image.tobytes() == expected.image.tobytes()
            assert picture.identity == {"name": name, "sha256": expected.sha256}
        assert not file.closed
        assert not raw.closed
    assert file_sha256(path, "guide") == expected.sha256


def test_a_file_object_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"header" + DATA)
    file.seek(6)
    assert open_picture(file, "guide").image.size == (9, 7)
    assert file.tell() == len(DATA) + 6
    assert "is not an image of format" in refusal(open_picture, file, "guide")


def test_a_mask_may_be_any_source() -> None:
    mask = Image.new("L", (9, 7), 51)
    for source in (encoded(mask, "PNG"), io.BytesIO(encoded(mask, "BMP"))):
        assert np.array_equal(open_mask(source, (9, 7))[0], np.full((7, 9), np.float32(0.2)))


@pytest.mark.parametrize(
    "source", [None, 3, 2.5, [], {}, (0, 1), [[0, 1]], Image, int, True], ids=lambda source: type(source).__name__
)
def test_what_is_no_source(source: Any) -> None:
    expected = (
        f"guide is of type {type(source).__name__}; "
        "accepted are a path, bytes, a binary file object, a PIL image or a NumPy array"
    )
    assert refusal(open_picture, source, "guide") == expected
    assert "is of type" in refusal(open_mask, source, (9, 7))


def test_file_objects_that_give_no_bytes(tmp_path: Path) -> None:
    closed = io.BytesIO(DATA)
    closed.close()
    assert refusal(open_picture, closed, "guide") == "guide cannot be read: I/O operation on closed file."
    assert (
        refusal(open_picture, io.StringIO("x"), "guide")
        == "guide is a file object that gives str: open it in mode 'rb'"
    )
    path = tmp_path / "text"
    path.write_text("x")
    with path.open() as text, path.open("wb") as output:
        assert "gives str: open it in mode 'rb'" in refusal(open_picture, text, "guide")
        assert "guide text cannot be read" in refusal(open_picture, output, "guide")


# Files that are no files, or never end


def special_files(folder: Path) -> dict[str, Path]:
    pipe, listener, link = folder / "pipe", folder / "socket", folder / "link"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(listener))
    link.symlink_to(pipe)
    return {"a pipe": pipe, "a socket": listener, "a device": Path("/dev/zero"), "a pipe ": link}


@pytest.mark.skipif(sys.platform == "win32", reason="has none of them")
def test_special_files_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    for kind, path in special_files(tmp_path).items():
        expected = f" {path} is {kind.strip()}; accepted are regular files"
        assert refusal(open_picture, path, "guide") == "guide" + expected
        assert refusal(open_mask, str(path), (1, 1)) == "mask" + expected
        assert refusal(load_result, path) == "image" + expected
        assert refusal(file_sha256, path, "base") == "base" + expected


@pytest.mark.skipif(sys.platform == "win32", reason="has none of them")
def test_commands_do_not_wait_for_a_pipe(run: Run, tmp_path: Path, guide: Path, out: Path) -> None:
    pipe = special_files(tmp_path)["a pipe"]
    message = "is a pipe; accepted are regular files"
    assert_mistake(run("strokes", pipe, "--out", out), message)
    assert_mistake(run("edit", pipe, "--out", out), message)
    assert_mistake(run("edit", guide, "--mask", pipe, "--out", out), message)
    assert_mistake(run("edit", guide, "--base", pipe, "--out", out), message)
    assert_mistake(run("replay", pipe, "--out", out), message)
    assert not out.exists()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    expected = f"guide {path} is 21474836480 bytes; images of at most 1073741824 bytes are read"
    assert refusal(open_picture, path, "guide") == expected


def test_a_file_that_grows_while_it_is_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1 << 20)
    assert "larger; images of at most 1048576 bytes are read" in refusal(open_picture, Endless(), "guide")


# Memory

LIMITED = """
import resource, sys
from sdedit.cli import main
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv[1:] = sys.argv[2:]
main()
"""

PEAK = """
import resource, sys
from sdedit.runtime.images import open_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_picture(sys.argv[1], "guide")
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_out_of_memory_is_not_damage(tmp_path: Path) -> None:
    path, out = tmp_path / "large.png", tmp_path / "out.png"
    Image.new("RGB", (9000, 9000)).save(path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(450 << 20), "strokes", path, "--out", out],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "not enough memory for " in done.stderr
    assert "9000x9000 pixels: about 324 MB wanted" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory as Linux counts them")
def test_a_small_file_of_16_bits_takes_no_more_than_its_pixels_need(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(16, GREY, np.zeros((6000, 6000), np.uint16)))
    assert path.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 6000 * 6000  # RGB in PIL takes 4 bytes a pixel, the file's 16 bits 2


@pytest.mark.parametrize(
    "action",
    [
        lambda photo, mask: open_picture(photo, "guide"),
        lambda photo, mask: open_mask(photo, photo.size),
        lambda photo, mask: difference_mask(photo, Image.new("RGB", photo.size)),
        lambda photo, mask: masked_canvas(photo, mask, (8, 8), 0.25, 0.5),
        lambda photo, mask: stroke_painting(photo, 5, 3),
    ],
    ids=["open_picture", "open_mask", "difference_mask", "masked_canvas", "stroke_painting"],
)
def test_every_door_says_that_memory_is_short(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    photo, mask = random_photo(30, 20), np.ones((20, 30), np.float32)
    for name in ("copy", "convert", "filter", "crop", "resize"):
        monkeypatch.setattr(Image.Image, name, fail)
    monkeypatch.setattr("PIL.ImageChops.difference", fail)
    with pytest.raises(ImageError, match=r"not enough memory for .*30x20 pixels: about 1 MB wanted"):
        action(photo, mask)


def test_saving_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    check_output(tmp_path / "out.png")
    save_image(random_photo(4, 4), tmp_path / "out.png", {})
    assert open_picture(tmp_path / "out.png", "guide").image.size == (4, 4)
