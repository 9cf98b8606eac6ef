"""The golden files freeze the contract: a change here is a change of the bundle's revision."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from states import same_bits, step_state

from sdedit.kernels import Twin, twin
from sdedit.kernels.layout import ROW

GOLDEN = Path(__file__).parent / "golden"
TWINS = pytest.mark.parametrize("kernels", [twin("numpy"), twin("c")], ids=lambda t: t.name)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@TWINS
def test_noise(make: ModuleType, kernels: Twin) -> None:
    golden = np.load(GOLDEN / "noise.npy")
    for key, z in zip(make.KEYS, golden, strict=True):
        ours = kernels.normal(*key, 257)
        assert isinstance(ours, np.ndarray)
        assert same_bits(ours, z)


def test_rows(make: ModuleType) -> None:
    golden = np.load(GOLDEN / "rows.npz")
    rows = make.rows()
    assert set(golden.files) == set(rows)
    for name in golden.files:
        assert np.array_equal(golden[name], rows[name]), name


@TWINS
def test_step(kernels: Twin) -> None:
    golden = np.load(GOLDEN / "step.npz")
    state = {name: golden[name] for name in golden.files}
    state["rows"] = np.ascontiguousarray(state["rows"]).view(ROW)[..., 0]
    kernels.step(step_state(state, True))
    assert same_bits(state["x"], golden["x_after"])
    assert same_bits(state["h"], golden["h_after"])


@TWINS
def test_edit(make: ModuleType, kernels: Twin) -> None:
    assert same_bits(make.edit(kernels), np.load(GOLDEN / "edit.npy"))


def test_the_files_are_small() -> None:
    assert sum(file.stat().st_size for file in GOLDEN.glob("*.np*")) <= 100_000
