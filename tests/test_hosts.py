"""The examples of hosts without Python: each makes the self-test, and an edit with the Editor's bytes."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED

Host = Callable[..., subprocess.CompletedProcess[str]]
HOSTS = Path(__file__).parent.parent / "examples" / "hosts"
WAIT = 120
"""Seconds after which a host that hangs fails its test."""

SOURCES = [path for pattern in ("*.mjs", "*/*.mjs", "*/*.?pp") for path in sorted(HOSTS.glob(pattern))]

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


@pytest.fixture(scope="module")
def node(hosts: Path) -> list[str]:
    """The command of the host in Node."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node")
    if not (hosts / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install, in examples/hosts/node")
    return [program, str(hosts / "node" / "edit.mjs")]


@pytest.fixture(scope="module")
def cpp(hosts: Path) -> list[str]:
    """The command of the host in C++: compiled here, and linked with the library of onnxruntime's wheel."""
    compiler, headers = shutil.which("c++"), os.environ.get("ONNXRUNTIME_INCLUDE")
    if compiler is None or headers is None:
        pytest.skip("there is no c++, or ONNXRUNTIME_INCLUDE does not name the folder of onnxruntime_cxx_api.h")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None or not Path("/usr/include/openssl/evp.h").exists():
        pytest.skip("onnxruntime's package has no library for Linux, or OpenSSL's headers are not installed")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (hosts / name).symlink_to(library)
    program = hosts / "cpp" / "edit"
    places = [f"-I{headers}", f"-I{Path(headers).parent}", f"-L{hosts}", f"-Wl,-rpath,{hosts}"]
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *strict, str(program.with_suffix(".cpp")), *places, "-lonnxruntime", "-lcrypto"]
    done = subprocess.run([*command, "-o", program], capture_output=True, text=True, check=False, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    return [str(program)]


@pytest.fixture(scope="module", params=["node", "cpp"])
def host(request: pytest.FixtureRequest) -> Host:
    """Run a host."""
    command = request.getfixturevalue(request.param)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [*command, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=WAIT)

    return run


def test_a_host_gives_the_editors_bytes(
    host: Host, earth_with_graph: Path, guide: np.ndarray, edited: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(guide).save(tmp_path / "guide.ppm")
    target = tmp_path / "out.ppm"
    done = host(earth_with_graph / "graph", tmp_path / "guide.ppm", target, 0.5, STEPS, SEED)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(target) as picture:
        assert np.array_equal(np.asarray(picture), edited)


def test_a_host_refuses_a_build_whose_noise_is_another(host: Host, earth_with_graph: Path, tmp_path: Path) -> None:
    shutil.copytree(earth_with_graph / "graph", tmp_path / "graph")
    test = json.loads((tmp_path / "graph" / "selftest.json").read_text(encoding="utf-8"))
    (tmp_path / "graph" / "selftest.json").write_text(json.dumps({**test, "seed": "1"}), encoding="utf-8")
    done = host(tmp_path / "graph", tmp_path / "guide.ppm", tmp_path / "out.ppm")
    assert (done.returncode, done.stderr) == (1, "self-test: this build computes other noise\n")
    assert not (tmp_path / "out.ppm").exists()


def test_a_host_refuses_other_files(host: Host, earth_with_graph: Path, tmp_path: Path) -> None:
    (tmp_path / "guide.ppm").write_bytes(b"P5\n1 1\n255\n0")
    done = host(earth_with_graph / "graph", tmp_path / "guide.ppm", tmp_path / "out.ppm")
    assert done.returncode == 1
    assert "guide.ppm is no PPM file of 8 bits" in done.stderr
    assert host().returncode == 2


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_an_example_of_a_host_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
