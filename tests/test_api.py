"""The public names: their reference, which pdoc makes, and what an editor can show of them."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from import_graph import ROOT

import sdedit
from sdedit.runtime.settings import OPTIONS

Build = Callable[[Path], object]

COMMAND = re.search(r"^    python (-m pdoc .*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
"""The command in CONTRIBUTING.md."""

ENTRY = re.compile(r'<(?:section|div) id="([\w.]+)"(.*?)(?=<section id=|<div id=|</main>)', re.DOTALL)
"""A name of a page, and what the page says about it."""


@pytest.fixture(scope="module")
def reference(build_once: Callable[[str, Build], Path]) -> Path:
    """The pages of the reference. A warning of pdoc is an error."""
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install '.[docs]'")
    assert COMMAND

    def build(folder: Path) -> None:
        modules = [argument.strip("'") for argument in COMMAND[1].split()]
        command = [sys.executable, "-W", "error", *modules, "-o", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")

    return build_once("reference", build)


def entries(page: Path) -> dict[str, str]:
    return dict(ENTRY.findall(page.read_text(encoding="utf-8")))


def test_the_reference_has_every_public_name(reference: Path) -> None:
    pages = {path.relative_to(reference).as_posix() for path in reference.rglob("*.html")}
    assert pages == {"index.html", "sdedit/runtime.html", "sdedit/errors.html"}
    found = entries(reference / "sdedit" / "runtime.html")
    for name in set(sdedit.__all__) - {"__version__"}:
        assert 'class="docstring"' in found[name], name
    for name, text in found.items():
        if re.search('class="attr function"', text) and not name.endswith(".__init__"):
            assert 'class="docstring"' in text, name
    for name in vars(sdedit.errors):
        if name.endswith("Error"):
            assert 'class="docstring"' in entries(reference / "sdedit" / "errors.html")[name], name


def test_the_options_of_an_edit_are_explained_where_they_are_named() -> None:
    text = sdedit.EditOptions.__doc__ or ""
    for name, option in OPTIONS.items():
        assert f"- {name}: {option.sentence} Default: " in text, name
