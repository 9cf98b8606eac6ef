"""Images: PNG and WebP keep pixels, all formats keep texts and profiles, and saving is all or nothing."""

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import RGB
from PIL import Image
from refusals import refusal

from sdedit.errors import ImageError
from sdedit.runtime.images import check_output, save_image


def test_a_png_keeps_pixels_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "out.PNG"
    recipe = json.dumps({"guide": "żółw.png", "long": "x" * 10_000})
    save_image(Image.fromarray(RGB), path, {"sdedit": recipe})
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), RGB)
        assert image.text == {"sdedit": recipe}  # type: ignore[attr-defined] # PNG alone has it
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_has_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    save_image(Image.fromarray(RGB), tmp_path / "out.png", {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".png")
    save_image(Image.fromarray(RGB), path, {})
    assert path.is_file()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(self: Path, target: Path) -> None:
        assert self.stat().st_size > 0
        raise error

    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        save_image(Image.fromarray(RGB), path, {})
    assert str(caught.value) in (f"output {path} cannot be written: No space left on device", "")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.gif", "out", "out.png.txt", ".png"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    message = refusal(save_image, Image.fromarray(RGB), tmp_path / name, {})
    expected = "does not end in .png, .webp, .jpg, .jpeg: these formats keep the recipe"
    assert message == f"output {tmp_path / name} {expected}"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "out.png"
    assert refusal(check_output, path) == f"output {path}: there is no folder {path.parent}"


def test_a_folder_as_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.mkdir()
    assert refusal(check_output, path) == f"output {path} is a folder"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / "out.png"
    assert refusal(check_output, path) == f"output {path}: the folder {tmp_path} is not writable"


links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


@links
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "target.png", tmp_path / "link.png"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(Path("real") / "target.png")
    save_image(Image.fromarray(RGB), link, {})
    assert link.is_symlink()
    with Image.open(target) as image:
        assert np.array_equal(np.asarray(image), RGB)
    assert list(tmp_path.rglob("*.png")) == [link, target]


@links
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    circle, lost, guide = tmp_path / "circle.png", tmp_path / "lost.png", tmp_path / "guide.png"
    circle.symlink_to(circle)
    lost.symlink_to(tmp_path / "nowhere" / "x.png")
    guide.write_bytes(b"guide")
    (tmp_path / "link.png").symlink_to(guide)
    assert "cannot be written" in refusal(check_output, circle)
    assert refusal(check_output, lost) == f"output {lost}: there is no folder {tmp_path / 'nowhere'}"
    assert "would overwrite an input" in refusal(check_output, tmp_path / "link.png", [guide])


@pytest.mark.parametrize("how", ["file", "link"])
def test_a_write_protected_file_is_not_replaced(tmp_path: Path, how: str) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    path.chmod(0o444)
    if how == "link":
        (tmp_path / "link.png").symlink_to(path)
    output = path if how == "file" else tmp_path / "link.png"
    expected = f"output {output} is read-only"
    assert refusal(save_image, Image.fromarray(RGB), output, {}) == expected
    assert path.read_bytes() == b"old"


@links
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    path.chmod(0o640)
    save_image(Image.fromarray(RGB), path, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@links
def test_a_pipe_as_the_output(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    assert refusal(save_image, Image.fromarray(RGB), path, {}) == f"output {path} is not a regular file"
