"""Training that begins with other weights, and training of some parts of a network alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from pictures import write_even
from tiny import TINY, pattern_of

from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.training.command import command
from sdedit_ref.training.run import new_run, resume, save, start_from

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = ("--size", "8", "--width", "32", "--multiples", "1", "--attention", "")
LENGTH = ("--images", "16", "--batch", "4", "--report", "1000", "--hold-out", "5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_even(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as a run left them."""
    out = tmp_path_factory.mktemp("first")
    assert train(folder, out).exit_code == 0
    return out / "ema.safetensors"


def train(folder: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(command, [str(folder), "--out", str(out), *NETWORK, *LENGTH, *options])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).network.state_dict()


def test_weights_from_before_there_were_patterns_begin_a_run(tmp_path: Path) -> None:
    """All but the pattern is predicted as before."""
    before = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    save(before, tmp_path, {})
    run = new_run(dataclasses.replace(TINY, pattern=True), "v", "cosine", torch.float32, "cpu", 1)
    start_from(run, tmp_path / "ema.safetensors", {})
    x = torch.randn(2, 3, TINY.size, TINY.size, generator=torch.Generator().manual_seed(2))
    time = torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        expected = before.network(x, time)
        for network in (run.network, run.ema):
            found = network(x, time)
            assert torch.allclose(found - pattern_of(found), expected - pattern_of(expected), rtol=0, atol=1e-5)


def test_a_run_from_before_there_were_patterns_goes_on(tmp_path: Path) -> None:
    """With its optimizer's moments, which are of the learned parameters."""
    before = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    before.network(torch.zeros(1, 3, 8, 8), torch.zeros(1)).square().sum().backward()
    before.optimizer.step()
    save(before, tmp_path, {})
    run = new_run(dataclasses.replace(TINY, pattern=True), "v", "cosine", torch.float32, "cpu", 1)
    resume(run, tmp_path, {})
    weights = before.network.state_dict()
    assert all(torch.equal(value, run.network.state_dict()[name]) for name, value in weights.items())
    moments = [state["exp_avg"] for state in run.optimizer.state.values()]
    assert len(moments) == len(list(before.network.parameters()))
    assert all(map(torch.equal, moments, [state["exp_avg"] for state in before.optimizer.state.values()]))


def test_training_one_part_leaves_the_rest(folder: Path, first: Path, tmp_path: Path) -> None:
    result = train(folder, tmp_path, "--start", str(first), "--only", "conv_out")
    assert result.exit_code == 0, result.output
    before, after = weights(first), weights(tmp_path / "ema.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved == {"conv_out.weight", "conv_out.bias"}


def test_a_run_of_some_parts_goes_on_to_the_same_bits(folder: Path, first: Path, tmp_path: Path) -> None:
    options = ("--start", str(first), "--only", "up.0,norm_out")
    assert train(folder, tmp_path / "whole", *options).exit_code == 0
    for _ in range(4):
        assert train(folder, tmp_path / "calls", *options, "--minutes", "1e-9").exit_code == 0
    whole = weights(tmp_path / "whole" / "ema.safetensors")
    calls = weights(tmp_path / "calls" / "ema.safetensors")
    assert all(torch.equal(value, calls[name]) for name, value in whole.items())


@pytest.mark.parametrize("only", ["", "foot", "pattern", "up,", "conv"])
def test_no_such_part(folder: Path, tmp_path: Path, only: str) -> None:
    result = train(folder, tmp_path / "run", "--only", only)
    part = only.split(",")[-1]
    assert f"only {part!r} is no part of the network; it has temb, conv_in, down, mid, up," in str(result.exception)
    assert not (tmp_path / "run").exists()
