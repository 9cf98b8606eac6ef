"""Tests of what is packed: the source distribution, and the wheel that is built from it alone."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from import_graph import PACKAGES, ROOT

Build = Callable[[Path], object]

FOLDERS = (*PACKAGES, "docs", "examples", "tests", ".ci", ".github")
IGNORED = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/\n", "\n").split()
SOURCES_IN_C = {"_step.c", "_step.h"}

BUILD = """
import sys
from setuptools.build_meta import build_sdist, build_wheel
{"sdist": build_sdist, "wheel": build_wheel}[sys.argv[1]](sys.argv[2])
"""


def build(kind: str, source: Path, out: Path) -> None:
    """Build as pip does, without a network."""
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


def copy_small(source: str, target: str) -> str:
    """Copy a file; a large one, which takes long to compress, becomes empty."""
    if Path(source).stat().st_size > 100_000:
        Path(target).touch()
        return target
    return shutil.copy(source, target)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def packed(build_once: Callable[[str, Build], Path]) -> Path:
    """The folders copy, source (unpacked) and wheel (unpacked): each is made of the one before it."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 80:
        pytest.skip(f"setuptools {setuptools.__version__} is older than 80, which builds this project")

    def pack(folder: Path) -> None:
        ignore = shutil.ignore_patterns(*IGNORED)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, folder / "copy" / name, ignore=ignore, copy_function=copy_small)
        for path in ROOT.iterdir():
            if path.is_file() and path.name not in (".git", "PKG-INFO", "setup.cfg"):
                shutil.copy(path, folder / "copy")
        tree = folder / "tree"
        shutil.copytree(folder / "copy", tree)
        build("sdist", tree, folder)
        (sdist,) = folder.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (folder / sdist.name.removesuffix(".tar.gz")).rename(folder / "source")
        shutil.copytree(folder / "source", folder / "build")
        build("wheel", folder / "build", folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "wheel")

    return build_once("packed", pack)


@pytest.fixture(scope="module")
def metadata(packed: Path) -> Message:
    (path,) = (packed / "wheel").glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def test_the_source_distribution_holds_every_file(packed: Path) -> None:
    """Tests, documents, examples and what checks a change: whoever has it has the project."""
    made = {name for name in names(packed / "source") if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names(packed / "source") - made == names(packed / "copy")


def test_the_wheel_holds_every_module_and_data_file(packed: Path) -> None:
    """Files of the rooms, under their packages' names, and the extension where there is a compiler."""
    expected = {
        f"{package.replace('.', '/')}/{name}"
        for room, package in PACKAGES.items()
        for name in names(packed / "copy" / room)
        if name not in SOURCES_IN_C
    }
    found = {name for name in names(packed / "wheel") if ".dist-info/" not in name}
    extension = {name for name in found if re.fullmatch(r"sdedit/kernels/_step\.(abi3\.so|pyd)", name)}
    assert found - extension == expected
    assert len(extension) == 1 or not shutil.which("cc")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a compiler of Linux")
def test_the_extension_is_stripped_and_for_every_python(packed: Path) -> None:
    data = (packed / "wheel" / "sdedit" / "kernels" / "_step.abi3.so").read_bytes()
    assert b"PyInit__step" in data
    assert b".debug_info" not in data
    assert b".symtab" not in data
    assert next(packed.glob("*.whl")).name.split("-")[2:4] == ["cp311", "abi3"]


def test_metadata_is_complete(metadata: Message) -> None:
    for field in ("Author", "Keywords", "Classifier", "License-Expression", "License-File", "Project-URL", "Summary"):
        assert metadata[field], field
    assert not any(value.startswith("License ::") for value in metadata.get_all("Classifier", []))
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.search(r"Copyright \d{4} \w+", licence)
    assert "[name of copyright owner]" not in licence


def test_the_long_description_reads_well_outside_a_clone(metadata: Message) -> None:
    """An index shows it on a page of its own, where relative links and pictures lead nowhere."""
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    targets = re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))
    assert targets
    assert all(target.startswith("https://") for target in targets)
    assert f"sdedit-{metadata['Version']}-" in str(metadata.get_payload())
