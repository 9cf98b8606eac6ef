"""Messages that tell the cause of a mistake that people really make, and its cure."""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from import_graph import PACKAGES, ROOT, files
from PIL import Image
from tiny import write_bundle

from sdedit.errors import BundleError, ImageError, install_hint
from sdedit.runtime.bundle import MANIFEST, NETWORK, SHIPPED, read_bundle, read_kernels, staged
from sdedit.runtime.bundle.parts import extend_command
from sdedit.runtime.images import open_picture

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 454\n"
"""File that lies in a clone in place of one of Git LFS that was not downloaded."""

CURE = "it is a pointer of Git LFS, whose file was not downloaded; run `git lfs pull` in its repository"


# Packages that are missing


def test_a_hint_to_install_is_right_without_an_index() -> None:
    assert install_hint("cpu") == "pip install 'PATH[cpu]', where PATH is sdedit's clone or wheel file"


@pytest.mark.parametrize("room", PACKAGES)
def test_every_hint_names_an_extra_and_comes_from_one_place(room: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in files(room):
        text = path.read_text(encoding="utf-8")
        assert "install 'sdedit[" not in text, path.name
        assert set(re.findall(r"install_hint\(['\"](.+?)['\"]\)", text)) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("document", [ROOT / "README.md", *ROOT.glob("docs/*.md")], ids=lambda path: path.stem)
def test_no_document_installs_from_an_index(document: Path) -> None:
    for line in document.read_text(encoding="utf-8").splitlines():
        assert not re.search(r"pip install [^&#;]*\bsdedit\b(?!-[\d.]+-\S+\.whl)", line), line


# Files that were not downloaded


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
def test_a_checkpoint_that_is_a_pointer(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    assert_mistake(run("export", tmp_path / name, "--dry-run"), f"neither a safetensors nor a torch file: {CURE}")


def test_a_config_that_is_a_pointer(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_bytes(POINTER)
    assert_mistake(run("export", tmp_path, "--dry-run"), CURE)


@pytest.mark.parametrize("name", [NETWORK, MANIFEST])
def test_a_bundle_with_a_pointer(tmp_path: Path, name: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / name).write_bytes(POINTER)
    with pytest.raises(BundleError, match=CURE):
        read_bundle(bundle)


def test_a_guide_that_is_a_pointer(run: Run, tmp_path: Path) -> None:
    (tmp_path / "guide.png").write_bytes(POINTER)
    result = run("edit", tmp_path / "guide.png", "--out", tmp_path / "out.png", *QUICK)
    assert_mistake(result, f"guide.png is not an image: {CURE}")
    with pytest.raises(ImageError, match=CURE):
        open_picture(POINTER, "guide")


# Names of the Hugging Face Hub


def test_a_name_of_the_hub_is_not_a_path(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "name it hf:google/ddpm-church-256"
    assert_mistake(run("export", "google/ddpm-church-256", "--dry-run"), message)


@pytest.mark.parametrize("name", ["nowhere.pt", "there/model", "/nowhere/model", "a/b/c", "../model"])
def test_other_names_are_paths(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    code, _, stderr = run("export", name, "--dry-run")
    assert (code, stderr) == (2, f"sdedit: {name} cannot be read: No such file or directory\n")


# Names that are not UTF-8, or do not print


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are Unicode")
def test_safetensors_opens_only_utf8(run: Run, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "w")
    path = (tmp_path / "w").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    assert_mistake(
        run("export", path, "--dry-run"), "\\udcff.safetensors: safetensors opens only paths in UTF-8: rename"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="such names do not exist there")
def test_names_that_do_not_print_are_escaped_everywhere(run: Run, guide: Path, tmp_path: Path) -> None:
    odd = guide.rename(tmp_path / "a\x1b[31m\nb.png")
    for arguments in (
        ["edit", odd, "--out", tmp_path / "e\nf.png", *QUICK],
        ["strokes", odd, "--out", tmp_path / "s\nf.png"],
        ["replay", tmp_path / "e\nf.png"],
        ["edit", tmp_path / "nowhere\n.png", "--out", odd, *QUICK],
        ["edit", odd, "--out", tmp_path / "e\n.jpg"],
        ["edit", guide, "--bundle", odd, "--out", tmp_path / "x.png"],
        ["export", odd, "--dry-run"],
        ["extend", odd, "--cubins", "ptx"],
        ["inspect", odd],
        ["inspect", tmp_path / "e\nf.png"],
        ["tune", "--bundle", odd],
        ["doctor", "--bundle", odd],
    ):
        _, stdout, stderr = run(*arguments)
        assert "\x1b" not in stdout + stderr
        assert len((stdout + stderr).splitlines()) == 1 or arguments[0] == "inspect"


# What is not replaced


def test_demo_replaces_only_its_own_files(run: Run, tmp_path: Path) -> None:
    out, strange = tmp_path / "demo.png", tmp_path / "demo-guide.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(strange)
    before = strange.read_bytes()
    assert_mistake(run("demo", "--out", out), f"output {strange} exists and is not of `sdedit demo`")
    assert (strange.read_bytes(), out.exists()) == (before, False)
    strange.write_bytes(b"no image at all")
    assert_mistake(run("demo", "--out", out), "is not of `sdedit demo`")
    strange.unlink()
    for seed in (0, 1):
        assert run("demo", "--out", out, "--seed", seed, "--size", 64)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_to_a_bundle_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    with staged(tmp_path / "link") as folder:
        write_bundle(folder / "inner")
        for path in (folder / "inner").iterdir():
            path.rename(folder / path.name)
        (folder / "inner").rmdir()
    assert (tmp_path / "link").is_symlink()
    assert read_bundle(tmp_path / "real").sha256 == read_bundle(tmp_path / "link").sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_read_only_bundle_is_not_replaced(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / MANIFEST).chmod(0o444)
    with pytest.raises(BundleError, match="is read-only: it is not replaced"), staged(bundle):
        pytest.fail("the work was begun")
    read_bundle(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize(
    "path", ["model", "models", "models/earth64", "models/new", "models/earth64/inside", "folder/../models/earth64"]
)
def test_nothing_is_written_among_the_installed_models(
    run: Run, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(SHIPPED)
    (tmp_path / "models").symlink_to(SHIPPED.parent)
    (tmp_path / "folder").mkdir()
    message = f"{path} is the installed model, which is never changed: give --out FOLDER"
    for command in (["extend", path, "--cubins", "ptx"], ["export", "x.ckpt", "--out", path]):
        assert_mistake(run(*command), message)
    with pytest.raises(BundleError, match="is the installed model"), staged(Path(path)):
        pytest.fail("the work was begun")


def test_a_circle_of_links_is_not_the_installed_model(run: Run, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("links need a privilege there")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert_mistake(run("extend", tmp_path / "a", "--cubins", "ptx"), str(tmp_path / "a"))


def test_a_model_in_a_clone_is_the_users_own_while_another_copy_is_installed(run: Run, tmp_path: Path) -> None:
    clone = tmp_path / "clone" / "runtime" / "models" / "earth64"
    shutil.copytree(SHIPPED, clone)
    assert extend_command(read_bundle(clone), "--int8") == f"sdedit extend {clone} --int8"
    assert extend_command(read_bundle(SHIPPED), "--int8") == f"sdedit extend {SHIPPED} --int8 --out NEW"
    code, stdout, stderr = run("extend", clone, "--cubins", "ptx")
    assert (code, stdout, stderr) == (0, f"{clone}: earth64, kernels as PTX\n", "")
    assert read_kernels(read_bundle(clone))
