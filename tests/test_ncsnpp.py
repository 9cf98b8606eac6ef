"""score_sde's checkpoints: from its own format through the loader to what its own code gives.

golden/make_score_sde.py asked its code.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from weights import normals, weight

from sdedit.errors import CheckpointError
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.checkpoints.contents import Contents
from sdedit_ref.checkpoints.ncsnpp import PUBLISHED, Shape, read_config
from sdedit_ref.networks.ncsnpp import NCSNpp, NCSNppConfig

GOLDEN = np.load(Path(__file__).parent / "golden" / "score_sde.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
LEVELS = (1, 400, 1000)

SAID: dict[str, str | int] = {"schedule": "ve", "centred": "no", "skip_rescale": "yes", "fir": "yes", "size": 16}

TOLERANCE = 2e-5
"""Largest rounding error, relative to the largest output: 50 layers round at 6e-8 and sum 1000 terms in another order:
6e-8 sqrt(50 x 1000) = 1.3e-5."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread: with more, networks this small take a hundred times as long beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sigmas(count: int = 1000) -> Tensor:
    return torch.exp(torch.linspace(np.log(50), np.log(0.01), count, dtype=torch.float64))


def state_of(case: str) -> dict[str, Tensor]:
    """Names and shapes as score_sde's own network has them."""
    lines = [line.split(" ") for line in GOLDEN[f"{case}/shapes"]]
    shapes = {name: [int(side) for side in text.split("x")] for name, text in lines}
    return {name: sigmas() if name == "sigmas" else weight(name, shape) for name, shape in shapes.items()}


def write_checkpoint(path: Path, case: str) -> Path:
    """Write the file as score_sde does: the last weights under `model`, the averages as a list without names."""
    state = state_of(case)
    trained = set(GOLDEN[f"{case}/trained"])
    model = OrderedDict((f"module.{k}", v + 1 if k in trained else v) for k, v in state.items())
    shadow = [state[name] for name in GOLDEN[f"{case}/trained"]]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    torch.save({"optimizer": optimizer, "model": model, "ema": ema, "step": 7}, path)
    return path


def said_of(case: str) -> dict[str, str | int]:
    network, schedule = case.split(" ")
    said: dict[str, str | int] = {"schedule": schedule, "size": 16}
    said["centred"] = "no" if schedule.startswith("ve") else "yes"
    said["skip_rescale"] = "no" if network == "ddpm" else "yes"
    if case in ("ncsnpp ve", "ddpmpp vp", "ddpmpp subvp"):  # else it shows
        said["fir"] = "yes" if network == "ncsnpp" else "no"
    return said


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_gives_what_its_own_code_gives(case: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "checkpoint_7.pth", case), **said_of(case))
    assert (checkpoint.prediction, checkpoint.weights) == ("eps", "EMA")
    doubled = 2 if case.split(" ")[1].startswith("ve") else 1
    for index, k in enumerate(LEVELS):
        alpha, std, score = (GOLDEN[f"{case}/{name}"][index] for name in ("alpha", "std", "score"))
        own = np.float32(0.5) * alpha + std * normals(f"x {k}", (1, 3, 16, 16))
        x = torch.from_numpy(doubled * own - (doubled - 1))
        level = checkpoint.schedule[k - 1]
        # float32 of the original: exp and its sums; 1 - alpha^2 loses digits near clean.
        assert np.allclose(level[:2], (alpha, doubled * std), rtol=3e-4)
        with torch.inference_mode():
            eps = checkpoint.network(x, torch.tensor([level[2]], dtype=torch.float32)).numpy()[..., ::2, ::2]
        expected = -std * score
        assert np.abs(eps - expected).max() < TOLERANCE * np.abs(expected).max(), k


def test_raw_weights_are_taken_where_nothing_was_averaged(tmp_path: Path) -> None:
    state = state_of("ncsnpp ve")
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "step": 1}, tmp_path / "net.pth")
    checkpoint = load_checkpoint(tmp_path / "net.pth", **SAID)
    assert checkpoint.weights == "as trained"
    named = dict(checkpoint.network.named_parameters())
    assert torch.equal(named["network.all_modules.1.weight"], state["all_modules.1.weight"])


# What is asked


def load(path: Path, **said: str | int) -> Checkpoint:
    return load_checkpoint(path, **said)


def assert_refused(path: Path, message: str, **said: str | int) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path, **said)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("score_sde") / "checkpoint_7.pth", "ncsnpp ve")


def test_all_that_shapes_do_not_tell_is_asked_for_at_once(path: Path) -> None:
    expected = (
        r"the file does not state schedule, centred, skip_rescale, fir, size: add --schedule ve\|vp\|subvp "
        r"--centred yes\|no --skip-rescale yes\|no --fir yes\|no --size PIXELS\|HEIGHTxWIDTH or, for a published net"
    )
    assert_refused(path, expected)
    assert_refused(path, "does not state size: add", **{k: v for k, v in SAID.items() if k != "size"})


def test_filters_show_in_the_names_of_resampling_convolutions(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net.pth", "ncsnpp ve-discrete")
    assert_refused(path, "does not state schedule, centred, skip_rescale, size: ")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"schedule": "cosine"}, "schedule 'cosine' is not one of ve, vp, subvp"),
        ({"schedule": "ve-discrete"}, "schedule 've-discrete' is not one of ve, vp, subvp"),
        ({"centred": "maybe"}, "centred 'maybe' is not one of yes, no"),
        ({"schedule": "vp"}, "centred 'no' does not go with schedule vp, which accepts yes"),
        ({"size": 15}, "size 15 is not a multiple of 2"),
        ({"prediction": "eps"}, "--prediction does not apply to an NCSN.. network: --schedule, --centred"),
        ({"config": "church"}, "config 'church' is not one of ve/bedroom_ncsnpp_continuous, "),
    ],
)
def test_what_is_said_wrongly(path: Path, said: dict[str, str | int], message: str) -> None:
    assert_refused(path, message, **{**SAID, **said})


def test_a_published_configuration_answers_everything(path: Path) -> None:
    checkpoint = load(path, config="ve/church_ncsnpp_continuous", size=32)
    assert checkpoint.shape == (3, 32, 32)
    told = checkpoint.facts()["answers"]
    assert told.startswith("schedule ve (from ve/church_ncsnpp_continuous), centred no (from ve/church")
    assert told.endswith("size 32 (given)")


@pytest.mark.parametrize("config", PUBLISHED)
def test_every_published_configuration_answers_every_question(config: str) -> None:
    assert PUBLISHED[config].keys() == {"schedule", "centred", "skip_rescale", "fir", "size"}


def test_outputs_of_a_ve_network_that_does_not_divide_by_sigma_are_the_score(path: Path) -> None:
    x, time = torch.from_numpy(normals("x", (2, 3, 16, 16))), torch.tensor([0.5, 40.0])
    divided, plain = (load(path, **SAID, scale_by_sigma=answer).network(x, time) for answer in ("yes", "no"))
    assert torch.allclose(plain, divided * time[:, None, None, None], rtol=1e-6)  # one rounding


# What shapes tell


def variants() -> Iterator[NCSNppConfig]:
    """Combinations that differ in names or shapes."""
    for biggan, fir, output, taken in itertools.product(
        (True, False), (True, False), ("none", "output_skip", "residual"), ("none", "input_skip", "residual")
    ):
        for index, (multiples, blocks, attention) in enumerate(
            [((1, 2), 1, (1,)), ((1, 1, 2), 2, (0, 2)), ((2, 1), 1, ()), ((1, 2, 3), 1, (0, 1, 2))]
        ):
            yield NCSNppConfig(
                channels=1 + 2 * (index % 2),
                width=16,
                width_multiples=multiples,
                blocks=blocks,
                attention=attention,
                fourier=index % 2 == 0,
                conditional=index != 3,
                biggan=biggan,
                fir=fir,
                resample_with_conv=biggan or index != 1,
                progressive=output,
                progressive_input=taken,
                combine="cat" if taken == "input_skip" and index == 2 else "sum",
                sigmas=10,
            )


def shape_of(config: NCSNppConfig) -> Shape:
    with torch.device("meta"):
        return read_config(Contents(Path("net.pth"), NCSNpp(config).state_dict()))


@pytest.mark.parametrize("config", list(variants()), ids=lambda config: str(config)[13:])
def test_the_shape_of_a_network_is_read_from_its_parts(config: NCSNppConfig) -> None:
    found = shape_of(config)
    visible = found.fir is not None
    assert found.config == NCSNppConfig(**{**vars(config), "fir": True})
    assert not visible or found.fir == ("yes" if config.fir else "no")


def test_the_largest_published_networks_have_their_parameters() -> None:
    """score_sde's own code builds as many for ve/church_ncsnpp_continuous and ve/ffhq_ncsnpp_continuous."""
    ffhq = NCSNppConfig(width=16, width_multiples=(1, 2, 4, 8, 16, 32, 32, 32), blocks=1, attention=(6,))
    with torch.device("meta"):
        counts = [sum(p.numel() for p in NCSNpp(config).parameters()) for config in (NCSNppConfig(), ffhq)]
    assert counts == [65_574_549, 105_785_896]


def test_a_network_of_one_level_resamples_nothing() -> None:
    found = shape_of(
        NCSNppConfig(width=16, width_multiples=(1,), blocks=1, attention=(), sigmas=10, progressive="none")
    )
    assert (found.fir, found.config.width_multiples, found.config.progressive_input) == ("no", (1,), "none")


def change(state: dict[str, Any], key: str, *shape: int) -> None:
    state[key] = torch.zeros(shape)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("sigmas", None, "its sigmas are missing or no list"),
        ("sigmas", (3, 3), "its sigmas are missing or no list"),
        ("sigmas", (10,), "its sigmas do not fall"),
        ("all_modules.3.weight", (16, 3, 3), "damaged: its all_modules form no NCSN"),
        ("all_modules.3.weight", (18, 3, 3, 3), "no convolution to a multiple of 4"),
        ("all_modules.3.weight", (0, 3, 3, 3), "a convolution has a weight of shape"),
        ("all_modules.99999999.weight", (1,), "it has a part 99999999"),
        ("all_modules.4.Conv_0.weight", None, "a block lacks Conv_0.weight"),
        ("all_modules.4.Conv_0.weight", (16, 24, 3, 3), "damaged: its all_modules form no NCSN"),
        ("all_modules.4.Conv_1.weight", (16, 24, 3, 3), "does not fit the NCSN.. network that its keys describe"),
        ("all_modules.5.strange", (1,), "does not fit"),
        ("all_modules.0.W", (), "damaged: its all_modules form no NCSN"),
    ],
)
def test_tensors_that_form_no_network(tmp_path: Path, key: str, shape: tuple[int, ...] | None, message: str) -> None:
    state: dict[str, Tensor] = state_of("ncsnpp ve")
    if shape is None:
        del state[key]
    else:
        change(state, key, *shape)
    torch.save(state, tmp_path / "net.pth")
    assert_refused(tmp_path / "net.pth", message, **SAID)


def test_averages_of_another_network(tmp_path: Path) -> None:
    state = state_of("ncsnpp ve")
    torch.save({"model": state, "ema": {"shadow_params": [torch.zeros(3)]}}, tmp_path / "net.pth")
    assert_refused(tmp_path / "net.pth", "does not fit .*: 1 averaged tensors for 160 trained parameters", **SAID)
