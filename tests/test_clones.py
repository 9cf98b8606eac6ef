"""Clones: git gives every file of the shipped model as it is stored, whatever it does with line ends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import write_bundle

from sdedit.runtime.bundle import MANIFEST, NETWORK, read_bundle


def test_a_text_file_is_the_same_in_every_clone() -> None:
    """Git for Windows would write other line ends, and other hashes with them."""
    repository = Path(__file__).parent.parent
    if not (repository / ".git").exists():
        pytest.skip("not a clone")
    names = [f"runtime/models/earth64/{name}" for name in (MANIFEST, "MODEL_CARD.md", "palette/palette.json", NETWORK)]
    command = ["git", "-C", str(repository), "check-attr", "text", *names]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"{name}: text: unset" for name in names]


def test_a_clone_with_autocrlf_has_the_model_as_it_is_stored(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    attributes = Path(__file__).parent.parent / ".gitattributes"
    if not attributes.exists():
        pytest.skip("the tests were copied without .gitattributes")

    def run(*arguments: str) -> None:
        settings = ("user.name=t", "user.email=t@example.org", "core.autocrlf=true", "core.safecrlf=false")
        options = [part for setting in settings for part in ("-c", setting)]
        subprocess.run([git, *options, *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)

    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    origin = tmp_path / "origin"
    model = write_bundle(origin / "runtime" / "models" / "earth64")
    write_bundle(origin / "elsewhere")
    (origin / ".gitattributes").write_bytes(attributes.read_bytes())
    (model / "MODEL_CARD.md").write_bytes(b"line\r\nend\n")
    run("init", "-q", "origin")
    run("-C", "origin", "add", ".")
    run("-C", "origin", "commit", "-q", "-m", "model")
    (origin / ".gitattributes").unlink()
    run("-C", "origin", "commit", "-q", "-a", "-m", "without attributes")
    run("clone", "-q", "origin", "bare")
    run("clone", "-q", "origin", "clone", "--no-checkout")
    run("-C", "clone", "checkout", "-q", "HEAD~")
    cloned = tmp_path / "clone" / "runtime" / "models" / "earth64"
    assert b"\r\n" in (tmp_path / "bare" / "elsewhere" / MANIFEST).read_bytes()  # git changes line ends here
    assert {p.name: p.read_bytes() for p in cloned.iterdir()} == {p.name: p.read_bytes() for p in model.iterdir()}
    assert read_bundle(cloned, verify_all=True).sha256 == read_bundle(model).sha256
