"""Training in calls of limited time whose state travels in small files, and with a compiled network."""

import math
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write_even

from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.training import train as training
from sdedit_ref.training.command import command
from sdedit_ref.training.crops import Crops
from sdedit_ref.training.hyperparameters import Hyperparameters

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = ("--size", "8", "--width", "32", "--multiples", "1", "--attention", "")
LENGTH = ("--images", "16", "--batch", "4", "--report", "1000", "--hold-out", "5")
AT_ONCE = ("--minutes", "1e-9")
"""Time for one step: the loop looks at the clock after each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_even(tmp_path_factory.mktemp("folder"))


def train(folder: Path, out: Path, *options: str) -> Result:
    result = CliRunner().invoke(command, [str(folder), "--out", str(out), *NETWORK, *LENGTH, *options])
    assert result.exit_code == 0, result.output
    return result


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out / "ema.safetensors").network.state_dict()


def test_a_run_in_calls_has_the_bits_of_one_call(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "whole")
    for call in range(1, 4):
        result = train(folder, tmp_path / "calls", *AT_ONCE)
        assert f"the time is over at image {4 * call} of 16: the same command goes on" in result.output
    assert "the time is over" not in train(folder, tmp_path / "calls", *AT_ONCE).output
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in weights(tmp_path / "calls").items())


def test_small_saves_are_a_quarter_and_go_on(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "large")
    large = (tmp_path / "large" / "state.pt").stat().st_size
    for call in range(4):
        output = train(folder, tmp_path / "small", "--small", *AT_ONCE).output
        assert re.search(rf"^\d+ parameters, from image {4 * call} on$", output, re.MULTILINE)
        state = torch.load(tmp_path / "small" / "state.pt", weights_only=True)
        assert "optimizer" not in state
        assert {value.dtype for value in state["network"].values()} == {torch.float16}
    assert (tmp_path / "small" / "state.pt").stat().st_size < large / 3  # the names weigh much in so small a network
    found, expected = weights(tmp_path / "small"), weights(tmp_path / "large")
    begun = weights_at_the_beginning(folder, tmp_path)
    far = math.sqrt(sum(float((found[name] - expected[name]).square().sum()) for name in found))
    moved = math.sqrt(sum(float((expected[name] - begun[name]).square().sum()) for name in found))
    assert far < moved  # it learnt the same, if not the same bits


def weights_at_the_beginning(folder: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
    train(folder, tmp_path / "begun", "--lr", "1e-12", *AT_ONCE)
    return weights(tmp_path / "begun")


class Compiled(torch.nn.Module):
    """A stand-in for what torch.compile returns: the same network, which counts its calls."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.network(*inputs)


def test_the_compiled_network_is_trained(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself takes minutes, so it is left out. What is saved is the plain network."""
    made: list[Compiled] = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: made.append(Compiled(network)) or made[-1])
    train(folder, tmp_path / "plain", *AT_ONCE)
    train(folder, tmp_path / "compiled", "--compile", *AT_ONCE)
    assert [network.calls for network in made] == [1]
    plain = weights(tmp_path / "plain")
    assert all(torch.equal(value, plain[name]) for name, value in weights(tmp_path / "compiled").items())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 64), st.integers(0, 3), st.lists(st.sampled_from([8, 16, 24, 32]), min_size=1, unique=True))
def test_the_crops_of_a_step_have_one_side_and_as_many_pixels(batch: int, seed: int, sides: list[int]) -> None:
    options = Hyperparameters(
        100 * batch, batch, 1e-3, 1, 0.9, "uniform", 5.0, 1, 1.0, 0, sides=[(s, 1.0) for s in sides]
    )
    crops = Crops([], 16, seed)
    steps = list(training.Steps(crops, 0, 100 * batch, options))
    assert len(steps) == 100
    assert {side for keys in steps for _, side in keys} == set(sides)
    for step, keys in enumerate(steps):
        side = keys[0][1]
        assert keys == [(step * batch + number, side) for number in range(len(keys))]
        assert len(keys) == min(batch, max(1, batch * 16**2 // side**2))
    assert list(training.Steps(crops, 30 * batch, 100 * batch, options)) == steps[30:]  # a run that goes on


def test_a_run_on_crops_of_several_sides_goes_on_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    sides = ("--sides", "4,6,10")
    train(folder, tmp_path / "whole", *sides)
    for _ in range(4):
        train(folder, tmp_path / "calls", *sides, *AT_ONCE)
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in weights(tmp_path / "calls").items())
