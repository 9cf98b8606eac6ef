"""Run what the documents show: the Python of README, embedding.md and training.md, the commands of cli.md."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run

from sdedit import __version__
from sdedit.commands import COMMANDS
from sdedit.runtime.plan import KEEPS, SAMPLERS

ROOT = Path(__file__).parent.parent
QUICK = {"edit": ("--steps", "1"), "strokes": ("--median", "3")}
"""Options for commands of the documents that take long; the last one given counts."""


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
    """In this process, where a line needs no shell. Edits take a step or two, and brushes are small; the numbers of the
    lines are checked."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    commands = re.findall(r"^    \$ (.*)$", text, re.MULTILINE)
    assert len(commands) > 12
    assert all(1 <= int(n) <= 200 for n in re.findall(r"--steps (\S+)", "\n".join(commands)))  # of 1000 levels
    assert all(int(n) % 2 == 1 for n in re.findall(r"--median (\S+)", "\n".join(commands)))
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder)
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.commands.demo.STEPS", 2)
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    monkeypatch.chdir(folder)
    for command in commands:
        if command.startswith("sdedit ") and not set(command) & set("|&;<>$`*"):
            words = shlex.split(command)[1:]
            code, _, stderr = run(*words, *QUICK.get(words[0], ()))
        else:
            line = re.sub(r"^sdedit ", f"'{sys.executable}' -c 'from sdedit.cli import main; main()' ", command)
            done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, timeout=300)
            code, stderr = done.returncode, done.stderr
        assert code == 0, (command, stderr)


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)


def test_contributing_names_what_there_is() -> None:
    """The map of what to touch names files, and in them names that the code has."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where things are added")[2]
    map_, rest = text.split("\n## ", 1)
    paths = re.findall(r"`([\w.]+(?:/[\w.]+)*(?:/|\.\w+))`", map_)
    assert len(paths) > 40
    for path in paths:
        assert (ROOT / path).exists() or "NAME" in path, path
    for path in ("front/__init__.py", "docs/package.md", ".ci/run"):
        assert path in rest
    for name, path in re.findall(r"`([A-Za-z_]+)`(?:, `\w+`)* (?:in|of) `([\w/.]+\.py)`", map_):
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)


def test_design_has_every_name_of_a_plan() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for name in (*SAMPLERS, *KEEPS):
        assert f"`{name}`" in text, name


def test_the_command_line_has_a_section_for_each_command() -> None:
    sections = re.findall(r"^## (.*)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in COMMANDS if not any(name in section.split() for section in sections)] == []


def test_the_changelog_has_a_heading_for_each_version() -> None:
    """Unreleased changes first, then versions from the newest on; none is newer than the code."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "Unreleased"
    versions = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", heading) for heading in others]
    numbers = [tuple(map(int, version.groups())) for version in versions if version]
    assert len(numbers) == len(others)
    assert numbers == sorted(set(numbers), reverse=True)
    assert max(numbers, default=(0,)) <= tuple(map(int, re.findall(r"\d+", __version__)))


def test_an_issue_asks_for_what_doctor_says() -> None:
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [path.stem for path in templates] == ["bug", "feature"]
    for path in templates:
        assert "sdedit doctor --json" in path.read_text(encoding="utf-8")
