"""Fixtures for several files. No test reads or writes the user's cache of `sdedit tune`."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from fake_driver import FakeDriver, build
from PIL import Image

from sdedit.cli import main
from sdedit.runtime.bundle import Bundle


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("SDEDIT_CACHE")
    os.environ["SDEDIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SDEDIT_CACHE"]
    else:
        os.environ["SDEDIT_CACHE"] = before


def has_a_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The fake driver, which stays loaded for the rest of the process; without a FakeDriver it finds no GPU."""
    for module, cure in (("cuda.core", "pip install 'sdedit[cuda]'"), ("triton", "it is for Linux, and has cuda.h")):
        pytest.importorskip(module, reason=f"{module} is not installed: {cure}")
    if has_a_driver():
        pytest.skip("this machine has a driver of its own, which the fake one cannot replace: see tests/test_gpu.py")
    return build(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def bundle_with_kernels(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, with kernels for GPUs."""
    from tiny import write_bundle

    from sdedit.export.additions import extend_bundle
    from sdedit.export.triton_kernels import kernels_addition

    folder = tmp_path_factory.mktemp("bundle")
    return extend_bundle(write_bundle(folder / "plain"), folder / "with-kernels", [kernels_addition(("sm89",))])


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
