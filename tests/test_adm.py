"""ADM networks: the arithmetic and the key names of guided-diffusion and improved-diffusion."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sdedit_ref.networks.adm import ADM, ADMConfig

GOLDEN = Path(__file__).parent / "golden"
ROUNDING = 2e-5
"""Relative to the largest output. A convolution of 9 x 64 products rounds by about sqrt(576) 2^-24 = 1.4e-6, twenty
layers by sqrt(20) of that, 6.4e-6; other orders of the sums do it anew. Measured with the golden file: 1.4e-6."""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make_adm", GOLDEN / "make_adm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_script()
SMALL: dict[str, ADMConfig] = make.small()
RELEASED: dict[str, ADMConfig] = make.RELEASED


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    return dict(zip(SMALL, np.load(GOLDEN / "adm.npz")["outputs"], strict=True))


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return dict(zip([*SMALL, *RELEASED], np.load(GOLDEN / "adm.npz")["keys"].astype(str), strict=True))


def difference(out: np.ndarray, golden: np.ndarray) -> float:
    return float(np.abs(out.ravel()[:: make.THIRD] - golden).max() / np.abs(golden).max())


@pytest.mark.parametrize("name", SMALL)
def test_the_network_returns_what_the_original_does(outputs: dict[str, np.ndarray], name: str) -> None:
    assert difference(make.run(ADM(SMALL[name]), SMALL[name]), outputs[name]) < ROUNDING


@pytest.mark.parametrize("name", [*SMALL, *RELEASED])
def test_keys_and_shapes_are_the_originals(keys: dict[str, str], name: str) -> None:
    assert make.digest(make.shapes_on_paper((SMALL | RELEASED)[name])) == keys[name]


@pytest.mark.parametrize("change", [{"attention_order": "new"}, {"heads": 1}, {"head_channels": 8}])
def test_what_shapes_do_not_tell_matters(outputs: dict[str, np.ndarray], change: dict[str, str | int]) -> None:
    name, config = next(
        (name, config) for name, config in SMALL.items() if name.startswith("improved") and config.heads > 1
    )
    wrong = dataclasses.replace(config, **change)  # type: ignore[arg-type] # of either type
    assert make.shapes_on_paper(wrong) == make.shapes_on_paper(config)
    assert difference(make.run(ADM(wrong), config), outputs[name]) > 100 * ROUNDING


def test_a_label_changes_the_output() -> None:
    config = next(config for config in SMALL.values() if config.classes)
    network = ADM(config)
    network.load_state_dict(make.random_state(make.shapes_of(network)))
    x, time, label = make.inputs(config)
    with torch.no_grad():
        first, second = network(x, time, label), network(x, time, label + 1)
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 100 * ROUNDING
