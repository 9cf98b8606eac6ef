"""A folder of guides: what is a picture is told by content, and what is left out is named."""

import os
import sys
from pathlib import Path

import pytest
from command_line import QUICK, Run, assert_mistake
from PIL import Image

from sdedit.errors import ImageError
from sdedit.runtime.images.listing import list_pictures

HEIC = bytes(4) + b"ftypheic" + bytes(100)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def encoded(folder: Path, format_name: str) -> bytes:
    path = folder.parent / "encoded"
    Image.new("RGB", (64, 64), "tan").save(path, format_name)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("a.jfif", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.apng", "PNG"),
        ("a", "WEBP"),
        ("a.dat", "TIFF"),
        ("a.txt", "GIF"),
        ("a.PNG", "JPEG"),
        ("a.tga", "TGA"),
        ("a.BMP", "BMP"),
    ],
)
def test_a_picture_is_told_by_its_content(tmp_path: Path, name: str, format_name: str) -> None:
    folder = tmp_path / "in"
    fill(folder, {name: encoded(folder, format_name), ".a.png": b"", "._a.png": b"\0\5\x16\7"})
    listing = list_pictures(folder)
    assert ([path.name for path in listing.pictures], listing.left_out) == ([name], {})


@pytest.mark.parametrize("data", [b"", b"BMW\n", b"P5 is a paper size", b"GIF", b"RIFF....WAVE", bytes(12)])
def test_other_files_are_left_out(tmp_path: Path, data: bytes) -> None:
    fill(tmp_path / "in", {"notes": data})
    listing = list_pictures(tmp_path / "in")
    assert (listing.pictures, listing.left_out) == ([], {tmp_path / "in" / "notes": "not an image"})


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes with names")
def test_folders_and_pipes_are_left_out_and_not_waited_for(tmp_path: Path) -> None:
    fill(tmp_path / "in", {})
    (tmp_path / "in" / "deeper").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "lost.png").symlink_to("nowhere")
    reasons = {path.name: why for path, why in list_pictures(tmp_path / "in").left_out.items()}
    assert reasons == {"deeper": "a folder", "pipe.png": "not a file", "lost.png": "not a file"}


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(ImageError, match=r"folder .* cannot be listed: Permission denied"):
        list_pictures(tmp_path)


def test_every_picture_is_edited_or_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    jpeg = encoded(folder, "JPEG")
    files = {"a.png": encoded(folder, "PNG"), "b.jfif": jpeg, "c.HEIC": HEIC, "d.avif": HEIC.replace(b"heic", b"avif")}
    fill(folder, {**files, "._a.png": b"\0\5\x16\7", "Thumbs.db": b"\xd0\xcf", "e\x1b[31m.txt": b"text"})
    code, stdout, stderr = run("edit", folder, "--out", tmp_path / "made", *QUICK)
    assert code == 2
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["a.png", "b.png"]
    assert len(stdout.splitlines()) == 2
    left_out, failed = stderr.splitlines()
    assert left_out == "sdedit: left out: Thumbs.db (not an image), e\\x1b[31m.txt (not an image)"
    assert failed.startswith("sdedit: 2 of 4 guides were not edited: guide ")
    assert "c.HEIC is HEIC, which is not decoded" in failed
    assert "d.avif is AVIF, which is not decoded" in failed


def test_the_folder_of_the_results_is_not_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    fill(folder, {"a.png": encoded(folder, "PNG")})
    for _ in range(2):
        assert run("edit", folder, "--out", folder / "made", *QUICK)[::2] == (0, "")


def test_many_names_are_cut_short(run: Run, tmp_path: Path) -> None:
    fill(tmp_path / "in", {f"{index:02}.txt": b"text" for index in range(30)})
    result = run("edit", tmp_path / "in", "--out", tmp_path / "made", *QUICK)
    assert_mistake(result, "in has no images; left out: 00.txt (not an image), ")
    assert result[2].endswith("09.txt (not an image), 20 more\n")


@pytest.mark.parametrize("images", ["1000001", "4294967296"])
def test_a_million_files_at_most(run: Run, guide: Path, out: Path, tmp_path: Path, images: str) -> None:
    assert_mistake(run("edit", guide, "--out", out, "--images", images), "writes at most 1000000 files, not")
    assert_mistake(run("edit", tmp_path, "--out", tmp_path / "made", "--images", images), "at most 1000000 files")
    assert list(tmp_path.iterdir()) == [guide]
