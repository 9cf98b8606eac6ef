"""The examples of hosts without Python: each makes the self-test, and an edit with the Editor's bytes."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED

HOSTS = Path(__file__).parent.parent / "examples" / "hosts"
WAIT = 120
"""Seconds after which a host that hangs fails its test."""

STEPS, SEED = 3, 2**64 - 5


@pytest.fixture(scope="module")
def guide() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def edited(guide: np.ndarray) -> Iterator[np.ndarray]:
    """The Editor's picture."""
    with Editor.open(SHIPPED, engine="onnxruntime", threads=1) as editor:
        edit = editor.edit(guide, t0=0.5, steps=STEPS, seed=SEED)
        yield np.asarray(edit.images[0].pil)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, beside packages of npm: those in NODE_PATH, or those that node/ has."""
    folder = tmp_path_factory.mktemp("hosts")
    shutil.copytree(HOSTS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    packages = Path(os.environ.get("NODE_PATH") or HOSTS / "node" / "node_modules")
    if packages.is_dir():
        (folder / "node_modules").symlink_to(packages, target_is_directory=True)
    return folder


def node(hosts: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the Node host."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node")
    if not (hosts / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install, in examples/hosts/node")
    command = [program, str(hosts / "node" / "edit.mjs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT)


def test_node_gives_the_editors_bytes(
    hosts: Path, earth_with_graph: Path, guide: np.ndarray, edited: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(guide).save(tmp_path / "guide.ppm")
    target = tmp_path / "out.ppm"
    done = node(hosts, earth_with_graph / "graph", tmp_path / "guide.ppm", target, 0.5, STEPS, SEED)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(target) as picture:
        assert np.array_equal(np.asarray(picture), edited)


def test_node_refuses_a_build_whose_noise_is_another(hosts: Path, earth_with_graph: Path, tmp_path: Path) -> None:
    shutil.copytree(earth_with_graph / "graph", tmp_path / "graph")
    test = json.loads((tmp_path / "graph" / "selftest.json").read_text(encoding="utf-8"))
    (tmp_path / "graph" / "selftest.json").write_text(json.dumps({**test, "seed": "1"}), encoding="utf-8")
    done = node(hosts, tmp_path / "graph", tmp_path / "guide.ppm", tmp_path / "out.ppm")
    assert (done.returncode, done.stderr) == (1, "self-test: this build computes other noise\n")
    assert not (tmp_path / "out.ppm").exists()


def test_node_refuses_other_files(hosts: Path, earth_with_graph: Path, tmp_path: Path) -> None:
    (tmp_path / "guide.ppm").write_bytes(b"P5\n1 1\n255\n0")
    done = node(hosts, earth_with_graph / "graph", tmp_path / "guide.ppm", tmp_path / "out.ppm")
    assert done.returncode == 1
    assert "guide.ppm is no PPM file of 8 bits" in done.stderr
    assert node(hosts).returncode == 2


@pytest.mark.parametrize("path", sorted([*HOSTS.glob("*.mjs"), *HOSTS.glob("*/*.mjs")]), ids=lambda path: path.name)
def test_an_example_of_a_host_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
