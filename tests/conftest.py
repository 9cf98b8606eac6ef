"""Fixtures of several files, and one thread for each worker of pytest-xdist.

No test reads or writes a cache of the user: neither what `sdedit tune` remembered nor what triton compiled.
"""

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""gw0, gw1, ...; empty where tests run in one process."""

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read when numpy and torch are imported

import numpy as np
import pytest
from command_line import Run
from fake_driver import FakeDriver, build
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from sdedit.cli import main
from sdedit.runtime.bundle import Bundle, read_bundle

settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("tests")


Build = Callable[[Path], object]
"""Writes files into the given folder, which is there and empty; they must not say where they are."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave the million objects of imported packages and tests out of Python's search for garbage, now and later.

    That search took a quarter of the time in which tests are imported.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let packages be finalised at exit as usual."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Build], Path]:
    """build_once(name, build): the folder that `build` filled, once for all workers. Tests must not change it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if WORKER else root

    def once(name: str, build: Build) -> Path:
        folder, unfinished = root / f"built-{name}", root / f"building-{name}"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                unfinished.mkdir()
                build(unfinished)
                unfinished.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def has_a_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The fake driver, which stays loaded for the rest of the process; without a FakeDriver it finds no GPU."""
    for module, cure in (("cuda.core", "pip install '.[cuda]'"), ("triton", "it is for Linux, and has cuda.h")):
        pytest.importorskip(module, reason=f"{module} is not installed: {cure}")
    if has_a_driver():
        pytest.skip("this machine has a driver of its own, which the fake one cannot replace: see tests/test_gpu.py")
    return build(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def exported_kernels(build_once: Callable[[str, Build], Path]) -> Path:
    """A folder with the PTX and cubins of every kernel for every target, and their manifest."""
    pytest.importorskip("triton")
    from sdedit.export.triton_kernels import export_kernels

    return build_once("kernels", export_kernels)


@pytest.fixture(scope="session")
def bundle_with_kernels(build_once: Callable[[str, Build], Path]) -> Bundle:
    """The tiny bundle, with kernels for GPUs."""
    from tiny import write_bundle

    from sdedit.export.additions import extend_bundle
    from sdedit.export.triton_kernels import kernels_addition

    def extend(folder: Path) -> None:
        extend_bundle(write_bundle(folder / "plain"), folder / "with-kernels", [kernels_addition(("sm89",))])

    return read_bundle(build_once("with-kernels", extend) / "with-kernels")


@pytest.fixture(scope="session")
def exported_ddpm(build_once: Callable[[str, Build], Path]) -> Path:
    """tiny.safetensors: the tiny DDPM; bundle/: the same exported, for images of any size, with weights in half."""
    from checkpoint_files import METADATA, state
    from safetensors.torch import save_file

    from sdedit.export.bundle import export_bundle
    from sdedit_ref.checkpoints import load_checkpoint

    def export(folder: Path) -> None:
        save_file(state(), folder / "tiny.safetensors", METADATA)
        export_bundle(load_checkpoint(folder / "tiny.safetensors"), folder / "bundle", name="tiny", licence="CC0")

    return build_once("exported-ddpm", export)


@pytest.fixture(scope="session")
def earth_with_graph(build_once: Callable[[str, Build], Path]) -> Path:
    """The shipped model with graph/."""
    from sdedit.export.additions import extend_bundle
    from sdedit.export.graph.addition import graph_addition
    from sdedit.runtime.bundle import SHIPPED

    def extend(folder: Path) -> None:
        extend_bundle(SHIPPED, folder / "earth", [graph_addition()], lambda line: None)

    return build_once("graph", extend) / "earth"


@pytest.fixture
def fake(fake_library: ctypes.CDLL, bundle_with_kernels: Bundle) -> Iterator[FakeDriver]:
    fake = FakeDriver(fake_library, bundle_with_kernels.path / "kernels")
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: with more, networks this small take a hundred times as long beside other processes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `sdedit` in this process."""

    def in_process(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sdedit", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return in_process


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Our warnings reach the handler, whatever level another library gave the root logger earlier in this process."""
    caplog.set_level(logging.WARNING, "sdedit")
    logger = logging.getLogger("sdedit")
    assert logger.isEnabledFor(logging.WARNING), (logger.disabled, logging.root.manager.disable)
    return caplog


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let contenders that take turns follow each other at once."""
    monkeypatch.setattr("sdedit.runtime.checks.turns.REST", 0.0)


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    strokes = np.zeros((70, 90, 3), np.uint8)
    strokes[:35] = (20, 60, 130)
    strokes[35:] = (150, 120, 75)
    path = tmp_path / "guide.png"
    Image.fromarray(strokes).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.png"
