"""The examples of docs/serving.md, run against a server."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import COAST, ROOT, Served, serving, slowly
from stubs import stub_editor

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving({"earth64": stub_editor(slowly)}) as served:
        yield served


def blocks(language: str, served: Served) -> list[str]:
    """The blocks of a language, for the server of this test."""
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return [block.replace("8765", str(served.port)) for block in found]


def run_block(command: list[str], folder: Path) -> str:
    (folder / "coast.png").write_bytes(COAST)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_runs(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="openai is not installed: pip install '.[test]'")
    pytest.importorskip("webuiapi", reason="webuiapi is not installed: pip install '.[test]'")
    run_block([sys.executable, "-W", "ignore", "-c", "\n".join(blocks("python", served))], tmp_path)
    assert {"result.png", "first.png", "from-webui.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_shell_runs(served: Served, tmp_path: Path) -> None:
    run_block(["sh", "-c", "\n".join(blocks("sh", served))], tmp_path)
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_javascript_runs(served: Served, tmp_path: Path) -> None:
    (tmp_path / "example.mjs").write_text("\n".join(blocks("js", served)), encoding="utf-8")
    run_block(["node", "--no-warnings", "example.mjs"], tmp_path)
