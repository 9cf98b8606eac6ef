"""A network in patches predicts the patches' pattern from x alone, at any size, in every form of the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import pattern_of, tiny_checkpoint, tiny_ddpm

from sdedit import Editor
from sdedit.benchmarks.weights import network_of
from sdedit.export.additions import extend_bundle
from sdedit.export.box.addition import box_addition
from sdedit.export.bundle import export_bundle
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.bundle.box import read_box_part
from sdedit.runtime.engines import load_engine
from sdedit_ref.sde import SCHEDULES
from sdedit_ref.training.pattern import POWER, fit_pattern, wanted_gain


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(
        tiny_checkpoint(tiny_ddpm(pattern=True)), tmp_path_factory.mktemp("out") / "tiny", name="tiny", licence="CC0"
    )


@pytest.mark.parametrize("size", [(16, 16), (4, 24)])
def test_the_layers_pattern_is_replaced_and_nothing_else(size: tuple[int, int]) -> None:
    """Float32 sums of up to 256 values near 1 round by less than 1e-5."""
    network = tiny_ddpm(pattern=True)
    plain = tiny_ddpm()
    plain.load_state_dict(network.state_dict(), strict=False)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    time = torch.tensor([1.0, 15.0])
    with torch.inference_mode():
        gain = network.pattern.gain(torch.nn.functional.silu(network.temb(time)))[:, :, None, None]
        found, layers = network(x, time), plain(x, time)
        assert (layers - pattern_of(layers) + gain * pattern_of(x) - found).abs().max() < 1e-5
    assert gain.abs().min() > 0.01
    assert pattern_of(layers).abs().max() > 0.001


def test_no_weight_learns_from_the_pattern() -> None:
    """Whatever a loss makes of the pattern, its gradients are zero, but for the rounding of sums."""
    network = tiny_ddpm(pattern=True)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = network(x, torch.tensor([1.0, 15.0]))
    pattern_of(found).square().sum().backward()
    learned = {name: value for name, value in network.named_parameters() if value.requires_grad}
    assert all(value.grad.abs().max() < 1e-5 for value in learned.values())
    assert pattern_of(found).square().sum() > 0.01


def test_a_pattern_that_is_noise_alone_is_taken_away() -> None:
    """With the gain alpha / sigma, v = alpha eps - sigma x0 says that x0 = alpha x - sigma v has none."""
    network = tiny_ddpm(pattern=True)
    alpha, sigma = 0.8, 0.6
    with torch.inference_mode():
        network.pattern.gain.weight.zero_()
        network.pattern.gain.bias.fill_(alpha / sigma)
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        x0 = alpha * x - sigma * network(x, torch.tensor([7.0]))
    assert pattern_of(x).abs().max() > 0.05
    assert pattern_of(x0).abs().max() < 1e-6


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_gain_follows_from_the_noise_levels(prediction: str) -> None:
    """The wanted one is the regression of the target on x, measured here; the fitted one is near it in x0."""
    schedule = torch.from_numpy(SCHEDULES["cosine"](1000)).float()
    alpha, sigma = schedule.double().unbind(1)[:2]
    random = torch.Generator().manual_seed(4)
    x0 = POWER**0.5 * torch.randn(1000, 20_000, generator=random, dtype=torch.float64)
    z = torch.randn(1000, 20_000, generator=random, dtype=torch.float64)
    x = alpha[:, None] * x0 + sigma[:, None] * z
    target = z if prediction == "eps" else alpha[:, None] * z - sigma[:, None] * x0
    measured = (target * x).mean(1) / x.square().mean(1)
    wanted = wanted_gain(schedule, prediction)
    assert ((measured - wanted) * sigma).abs().max() < 5 / 20_000**0.5
    network = tiny_ddpm(pattern=True)
    fit_pattern(network, schedule, prediction)
    with torch.inference_mode():
        fitted = network.pattern.gain(torch.nn.functional.silu(network.temb(torch.arange(1, 1001))))[:, 0]
    assert ((fitted - wanted) * sigma).square().mean().sqrt() < 0.1


def test_edits_of_the_shipped_model_have_no_more_of_a_pattern_than_photos() -> None:
    """Even views have 0.01 to 0.1 of 255, each; an edit that kept the noise's would have 2."""
    sea = np.full((64, 64, 3), (10, 20, 60), np.uint8)
    with Editor.open(engine="onnxruntime", threads=1) as editor:
        image = editor.edit(sea, t0=0.5, steps=6, seed=5).images[0].pil
    values = torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].astype(np.float32))
    assert 0 < pattern_of(values).square().mean().sqrt() < 0.15


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_engines_compute_it(bundle: Bundle, engine: str) -> None:
    """At another size than the bundle's own; its weights, stored in half; float32 sums round by 1e-5 of the largest."""
    x = np.random.default_rng(3).standard_normal((1, 3, 20, 12)).astype(np.float32)
    time = np.float32([9])
    out = np.empty_like(x)
    load_engine(bundle, engine, "float32", 1).bind({"x": x, "time": time}, out)()
    with torch.inference_mode():
        expected = network_of(bundle)(torch.from_numpy(x), torch.from_numpy(time)).numpy()
    assert np.abs(out - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_box_of_it_is_computed(bundle: Bundle, tmp_path: Path) -> None:
    """The whole pass keeps the rest of the pattern's means; export measures both passes against the network."""
    extend_bundle(bundle.path, tmp_path / "boxed", [box_addition()])
    part = read_box_part(read_bundle(tmp_path / "boxed"))
    assert [value.channels for value in part.kept.values() if value.kind == "mean"] == [12]
    assert max(part.errors.values()) < 1e-5
