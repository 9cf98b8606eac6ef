"""Averaged weights in the files of training scripts: they are used whole, or an error names what is odd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import Tensors, state
from command_line import Run
from diffusers_folders import save_ddpm
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sdedit.errors import CheckpointError
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.networks.ncsnpp import NCSNpp, NCSNppConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ANSWERS: dict[str, str | int] = {"prediction": "eps", "schedule": "linear", "size": 16}


def trained() -> Tensors:
    return state(patch=1)


def averages() -> Tensors:
    return {name: value + 1 for name, value in trained().items()}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def averaged_model() -> dict[str, Any]:
    """The state of torch's own wrapper: `n_averaged`, and `module.` before all names."""
    network = DDPM(DDPMConfig(size=16, width=32, width_multiples=(1, 2), blocks=1, attention=(1,), patch=1))
    network.load_state_dict(averages())
    model = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    model.update_parameters(network)
    return model.state_dict()


def lit_ema() -> dict[str, Any]:
    """A Lightning module with the LitEma of latent-diffusion: names without dots, a decay and a counter."""
    names = {f"model_ema.{name.replace('.', '')}": value for name, value in averages().items()}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return {"state_dict": {**prefixed("model.", trained()), **names, **counters}, "epoch": 3, "hyper_parameters": {}}


def same_twice() -> dict[str, Any]:
    shared = averages()
    return {"model": trained(), "best": shared, "ema": shared, "model_ema": shared}


WHOLE: dict[str, Callable[[], Any]] = {
    "official list": lambda: [prefixed("module.", trained()), {"state": {}}, 7, 7000, averages()],
    "counter": lambda: {"model": trained(), "ema": {**averages(), "num_updates": torch.tensor(5)}},
    "float counter": lambda: {"model": trained(), "ema": {**averages(), "decay": torch.tensor(0.999)}},
    "number": lambda: {"model": trained(), "ema": {**averages(), "decay": 0.999, "step": np.int64(5)}},
    "integer buffer": lambda: {
        "model": {**trained(), "norm.num_batches_tracked": torch.tensor(5)},
        "ema": {**averages(), "norm.num_batches_tracked": torch.tensor(5)},
    },
    "shadow": lambda: {"model": trained(), "ema": {"decay": 0.999, "num_updates": 5, "shadow": averages()}},
    "shadow and backup": lambda: {"model": trained(), "ema": {"shadow": averages(), "backup": trained()}},
    "shadow_params": lambda: {
        "model": trained(),
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": list(averages().values()), "collected_params": None},
    },
    "collected_params": lambda: {
        "model": trained(),
        "ema": {"shadow_params": list(averages().values()), "collected_params": list(trained().values())},
    },
    "EMAModel of diffusers": lambda: {
        "model": trained(),
        "ema": {"decay": 0.999, "optimization_step": 5, "power": 0.7, "shadow_params": list(averages().values())},
    },
    "module": lambda: {"model": trained(), "ema": prefixed("module.", averages())},
    "nested module": lambda: {"model": trained(), "ema": {"module": averages(), "updates": 5}},
    "AveragedModel": lambda: {"model": trained(), "ema": averaged_model()},
    "swa_model": lambda: {"model": trained(), "swa_model": averaged_model()},
    "ema_model_state_dict": lambda: {
        "model_state_dict": trained(),
        "ema_model_state_dict": averages(),
        "ema_decay": 0.9,
    },
    "ema_state_dict": lambda: {"state_dict": trained(), "ema_state_dict": averages(), "ema_step": torch.tensor(3)},
    "ema_0.9999": lambda: {"model": trained(), "ema_0.9999": averages(), "use_ema": True},
    "ema_params": lambda: {"params": trained(), "ema_params": averages()},
    "params_ema": lambda: {"params": trained(), "params_ema": averages()},
    "EMAModel": lambda: {"model": trained(), "EMAModel": averages()},
    "ema list of one": lambda: {"model": trained(), "emas": [averages()], "ema_rates": [0.9999]},
    "deep": lambda: {"state_dict": trained(), "callbacks": {"EMACallback": {"ema_state_dict": averages(), "step": 3}}},
    "flat beside averages": lambda: {**trained(), "ema": averages(), "step": 3},
    "only averages": lambda: {"ema": averages(), "step": 3},
    "ema_pytorch": lambda: {
        "step": 5,
        "model": trained(),
        "ema": {
            "initted": torch.tensor(True),
            "step": torch.tensor(5),
            **prefixed("online_model.", trained()),
            **prefixed("ema_model.", averages()),
        },
    },
    "flat prefixes": lambda: {**prefixed("model.", trained()), **prefixed("ema_model.module.", averages())},
    "loose beside the model": lambda: {"model": trained(), **prefixed("ema.", averages())},
    "LitEma": lit_ema,
    "Lightning's WeightAveraging": lambda: {
        "state_dict": averages(),
        "current_model_state": trained(),
        "averaging_state": {"n_averaged": torch.tensor(4)},
    },
    "one dict under two keys": lambda: same_twice(),
    "optimizer of averages": lambda: {"model": trained(), "ema": averages(), "ema_optimizer": {"state": {"a": 1}}},
}


@pytest.mark.parametrize("layout", WHOLE)
def test_averages_are_used_whole(layout: str, tmp_path: Path) -> None:
    torch.save(WHOLE[layout](), tmp_path / "net.ckpt")
    checkpoint = load_checkpoint(tmp_path / "net.ckpt", **ANSWERS)
    assert checkpoint.weights == "EMA"
    expected = averages()
    for name, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: value for name, value in tensors.items() if name not in names}


def with_complex() -> dict[str, Any]:
    return {"model": trained(), "ema": {**averages(), "norm_out.weight": torch.zeros(32, dtype=torch.complex64)}}


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "half": (
        lambda: {"model": trained(), "ema": dict(list(averages().items())[:9])},
        r"its averages lack '.*' and \d+ others of the trained parameters",
    ),
    "one missing": (
        lambda: {"model": trained(), "ema": without(averages(), "norm_out.bias")},
        "its averages lack 'norm_out.bias' of the trained parameters",
    ),
    "a string in place of one": (
        lambda: {"model": trained(), "ema": {**averages(), "norm_out.bias": "lost"}},
        "its averages lack 'norm_out.bias'",
    ),
    "integers in place of one": (
        lambda: {"model": trained(), "ema": {**averages(), "norm_out.bias": torch.zeros(32, dtype=torch.int64)}},
        "its averages lack 'norm_out.bias'",
    ),
    "complex": (with_complex, r"tensor 'norm_out.weight' is of type complex64"),
    "another shape": (
        lambda: {"model": trained(), "ema": {**averages(), "norm_out.bias": torch.zeros(64)}},
        r"the average of 'norm_out.bias' has the shape \[64\], the trained weight \[32\]",
    ),
    "a stranger": (
        lambda: {"model": trained(), "ema": {**averages(), "head.weight": torch.zeros(3)}},
        "Unexpected key.*head.weight",
    ),
    "several": (
        lambda: {"model": trained(), "ema_0.9999": averages(), "ema_0.999": trained()},
        r"holds several averages, ema_0\.9999, ema_0\.999: save the one to use",
    ),
    "a list of several": (
        lambda: {"model": trained(), "ema": [averages(), trained()]},
        r"holds several averages, ema\.0, ema\.1",
    ),
    "no tensors": (
        lambda: {"model": trained(), "ema": {"decay": 0.999, "num_updates": 0}},
        "ema should hold averaged weights, but has no float tensors",
    ),
    "a list with a number": (
        lambda: {"model": trained(), "ema": {"shadow_params": [*averages().values(), 3]}},
        r"entry \d+ of ema\.shadow_params is not a float tensor",
    ),
    "too short a list": (
        lambda: {"model": trained(), "ema": {"shadow_params": list(averages().values())[1:]}},
        r"\d+ averaged tensors for \d+ trained parameters",
    ),
    "a list in another order": (
        lambda: {"model": trained(), "ema": {"shadow_params": list(averages().values())[::-1]}},
        r"the average of .* has the shape",
    ),
    "a list alone": (
        lambda: {"ema": {"shadow_params": list(averages().values())}},
        r"ema\.shadow_params has averages without names, and no network beside them",
    ),
    "an odd prefix": (
        lambda: {**trained(), "ema_of_conv.weight": torch.zeros(3)},
        "'ema_of_conv.weight' seems to be an average",
    ),
    "a flat vector": (
        lambda: {"model": trained(), "ema_vector": torch.zeros(1000)},
        "'ema_vector' seems to be an average",
    ),
    "half by prefix": (
        lambda: {
            "state_dict": {**prefixed("model.", trained()), **prefixed("ema.", without(averages(), "conv_in.bias"))}
        },
        "its averages lack 'conv_in.bias'",
    ),
}


@pytest.mark.parametrize("layout", ODD)
def test_odd_averages_are_an_error_that_names_them(layout: str, tmp_path: Path) -> None:
    content, message = ODD[layout]
    torch.save(content(), tmp_path / "net.ckpt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path / "net.ckpt", **ANSWERS)
    assert len(str(caught.value).splitlines()) == 1
    assert "net.ckpt" in str(caught.value)


@pytest.mark.parametrize("nothing", [None, {}, [], False, 0.999])
def test_a_file_without_averages_is_as_trained(nothing: object, tmp_path: Path) -> None:
    torch.save({"model": trained(), "ema": nothing, "ema_rate": "0.9999"}, tmp_path / "net.ckpt")
    checkpoint = load_checkpoint(tmp_path / "net.ckpt", **ANSWERS)
    assert checkpoint.weights == "as trained"
    assert torch.equal(checkpoint.network.state_dict()["conv_in.bias"], trained()["conv_in.bias"])


def test_the_dry_run_says_which_weights_are_used(tmp_path: Path, run: Run) -> None:
    answers = ["--prediction", "eps", "--schedule", "linear", "--size", "16"]
    for name, content, weights in (
        ("ema", {"model": trained(), "ema": averages()}, "EMA"),
        ("trained", {"model": trained()}, "as trained"),
        ("alone", trained(), "as saved"),
        ("counted", averaged_model(), "EMA"),
    ):
        torch.save(content, tmp_path / f"{name}.ckpt")
        code, out, err = run("export", "--dry-run", tmp_path / f"{name}.ckpt", *answers)
        assert (code, err) == (0, "")
        assert f"weights: {weights}\n" in out


def test_averages_in_safetensors_by_their_prefix(tmp_path: Path) -> None:
    save_file({**prefixed("model.", trained()), **prefixed("ema.", averages())}, tmp_path / "net.safetensors")
    checkpoint = load_checkpoint(tmp_path / "net.safetensors", **ANSWERS)
    assert checkpoint.weights == "EMA"
    assert torch.equal(checkpoint.network.state_dict()["conv_in.bias"], averages()["conv_in.bias"])


def test_buffers_and_fixed_frequencies_come_from_the_trained_network(tmp_path: Path) -> None:
    """score_sde averages trained parameters alone, by name or in a list."""
    config = NCSNppConfig(width=8, width_multiples=(1, 1), blocks=1, attention=(1,), sigmas=10)
    network = NCSNpp(config)
    network.sigmas.copy_(torch.exp(torch.linspace(3, -3, 10)))
    parameters = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}
    assert parameters.keys() < network.state_dict().keys()
    answers: dict[str, str | int] = {"schedule": "ve", "centred": "no", "skip_rescale": "yes", "fir": "yes", "size": 16}
    for ema in ({n: p + 1 for n, p in parameters.items()}, {"shadow_params": [p + 1 for p in parameters.values()]}):
        torch.save({"model": prefixed("module.", network.state_dict()), "ema": ema}, tmp_path / "net.pth")
        loaded = load_checkpoint(tmp_path / "net.pth", **answers)
        assert loaded.weights == "EMA"
        assert isinstance(loaded.network, nn.Module)
        for name, value in loaded.network.state_dict().items():
            bare = name.removeprefix("network.")
            expected = network.state_dict()[bare] + (1 if bare in parameters else 0)
            assert torch.equal(value, expected), name


def test_a_diffusers_folder_with_unet_ema_is_averaged(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.training_utils import EMAModel

    folder, network = save_ddpm(tmp_path / "net")
    ema = EMAModel(network.parameters(), model_cls=diffusers.UNet2DModel, model_config=network.config)
    ema.shadow_params = [tensor + 1 for tensor in ema.shadow_params]
    ema.save_pretrained(folder / "unet_ema")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.weights == "EMA"
    found = dict(checkpoint.network.named_parameters())["unet.conv_in.bias"]
    assert torch.equal(found, network.conv_in.bias.detach() + 1)
