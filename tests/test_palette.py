"""Tests of a bundle's palette: what is read, what is refused, and how it is added and shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Run, assert_mistake
from hypothesis import given
from hypothesis import strategies as st

from sdedit.errors import BundleError
from sdedit.export.palette import MAX_BYTES, read_materials
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.bundle.palette import NAME, Material, parse_palette, read_palette
from sdedit.runtime.bundle.records import Problems

OCEAN = {"name": "Ocean", "colour": "#0e285c"}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The shipped bundle without its palette."""
    folder = tmp_path / "bare"
    shutil.copytree(SHIPPED, folder)
    shutil.rmtree(folder / "palette")
    manifest = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    del manifest["files"][NAME]
    (folder / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write(folder: Path, value: object) -> Path:
    path = folder / "materials.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_the_shipped_model_has_the_colours_of_the_examples_strokes() -> None:
    palette = read_palette(read_bundle(SHIPPED))
    readme = (Path(__file__).parent.parent / "examples" / "README.md").read_text(encoding="utf-8")
    assert [material.name for material in palette][:2] == ["Deep sea", "Ocean"]
    assert len(palette) == 8
    assert all(f"`{material.colour}`" in readme for material in palette)


def test_a_palette_is_added_and_shown(bare: Path, tmp_path: Path, run: Run) -> None:
    assert read_palette(read_bundle(bare)) == ()
    assert "palette:" not in run("inspect", str(bare))[1]
    code, out, _ = run("extend", str(bare), "--palette", str(write(tmp_path, [OCEAN])))
    assert (code, out) == (0, f"{bare}: palette: Ocean\n")
    assert read_palette(read_bundle(bare, verify_all=True)) == (Material("Ocean", "#0e285c"),)
    assert "palette: Ocean #0e285c" in run("inspect", str(bare))[1].splitlines()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "it is not a list of 1..32 materials"),
        ([], "it is not a list of 1..32 materials"),
        ([OCEAN] * 33, "it is not a list of 1..32 materials"),
        (["Ocean"], "material 0 is not an object of name and colour"),
        ([OCEAN, {**OCEAN, "width": 3}], "material 1 is not an object of name and colour"),
        ([{**OCEAN, "name": ""}], "material 0: name '' is not a text of 1..40 printable characters"),
        ([{**OCEAN, "name": "a\nb"}], "material 0: name 'a\\nb' is not a text of 1..40 printable characters"),
        ([{**OCEAN, "colour": "#0E285C"}], "material 0: colour '#0E285C' is not #rrggbb in lower case"),
        ([{**OCEAN, "colour": 7}, {**OCEAN, "colour": "red"}], "colour 7 is not #rrggbb in lower case; material 1: "),
    ],
)
def test_other_palettes_are_refused(value: object, problem: str, bare: Path, tmp_path: Path, run: Run) -> None:
    before = (bare / "bundle.json").read_bytes()
    result = run("extend", str(bare), "--palette", str(write(tmp_path, value)))
    assert_mistake(result, problem)
    assert (bare / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("data", [b"[", b"\xff", b"[" * 3000, b" " * (MAX_BYTES + 1)])
def test_damaged_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "palette.json").write_bytes(data)
    with pytest.raises(BundleError, match="palette"):
        read_materials(tmp_path / "palette.json")
    with pytest.raises(BundleError, match="is not a file"):
        read_materials(tmp_path)
    with pytest.raises(BundleError, match="cannot be read"):
        read_materials(tmp_path / "none.json")


json_values: Callable[[], st.SearchStrategy[object]] = lambda: st.recursive(  # noqa: E731
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "colour", "x"]), inner),
    max_leaves=12,
)


@given(json_values())
def test_anything_is_read_or_refused(value: object) -> None:
    problems = Problems()
    palette = parse_palette(value, problems)
    assert (palette is None) == bool(problems)
