"""Run what the documents show: the Python of README, embedding.md and training.md, the commands of cli.md."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "written"),
    [("README.md", "out.png"), ("docs/embedding.md", "out.png"), ("docs/training.md", "start.safetensors")],
)
def test_the_python_of_a_document_runs(name: str, written: str, tmp_path: Path) -> None:
    """The blocks of a document run one after another, in a process and a folder of their own."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / written).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a Unix shell")
@pytest.mark.parametrize("name", ["cli.md", "gallery.md"])
def test_the_commands_of_a_document_run(name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where a line needs no shell."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    commands = re.findall(r"^    \$ (.*)$", text, re.MULTILINE)
    assert len(commands) > 12
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder)
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    for command in commands:
        if command.startswith("sdedit ") and not set(command) & set("|&;<>$`*"):
            code, _, stderr = run(*shlex.split(command)[1:])
        else:
            line = re.sub(r"^sdedit ", f"'{sys.executable}' -c 'from sdedit.cli import main; main()' ", command)
            done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, timeout=300)
            code, stderr = done.returncode, done.stderr
        assert code == 0, (command, stderr)


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)
