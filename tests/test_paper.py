"""Edits of exported networks against plain loops with the same noise: Algorithms 2 and 3, and the official code."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from weights import weights

from sdedit.export.bundle import export_bundle
from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import open_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import make_plan
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.networks.ncsnpp import NCSNpp, NCSNppConfig

SEED = 5
TOLERANCE = 1e-4 * 2
"""1e-4 of the range of data, which is [-1, 1]."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread: with more, networks this small take a hundred times as long beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(shape: tuple[int, ...], repeat: int, step: int, kind: int) -> np.ndarray:
    return normal_numpy(SEED, 0, repeat, step, kind, math.prod(shape)).reshape(shape)


def some_guide(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A guide with flat colours, and a mask whose right half may change."""
    guide = np.zeros(shape, np.float32)
    guide[0, : shape[1] // 2] = 0.6
    guide[2, shape[1] // 2 :] = -0.4
    mask = np.zeros(shape[1:], np.float32)
    mask[:, shape[2] // 2 :] = 1
    return guide, mask


def edit(bundle: Bundle, guide: np.ndarray, mask: np.ndarray, **options: object) -> np.ndarray:
    """The runtime's edit before it becomes bytes: float32 [C, H, W]."""
    plan = make_plan(bundle.schedule, bundle.prediction, clip=math.inf, **options)  # type: ignore[arg-type]
    loop = Loop(CpuDevice(open_engine(bundle, engine="onnxruntime", threads=1), bundle.inputs, 1, twin()))
    loop.admit(Task(plan, guide, mask, SEED, 0))
    while loop.busy:
        finished = loop.step()
    return finished[0][1]


# Algorithms 2 and 3: variance exploding


VE = NCSNppConfig(
    width=16,
    width_multiples=(1, 2),
    blocks=1,
    attention=(1,),
    progressive="none",
    progressive_input="residual",
    sigmas=2000,
)


def denoising(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Weights of VE with -h near 1.25 x / rms(x), a denoiser of data that noise drowns; the rest is a disturbance.

    Weights at random would leave x as large as the noise it began with, where float32 ends at 2e-4. Here conv_in's
    channels 2c and 2c + 1 are x_c and -x_c; the last block's shortcut takes them over, the norm divides them by their
    rms, and the last convolution takes 1.25 (silu(-a) - silu(a)) = -1.25 a. With 1 for 1.25 errors of the scale of x
    would neither grow nor fade.
    """
    state = weights(shapes)
    for name in state:
        if name.endswith(("Conv_1.weight", "NIN_3.W")):
            state[name] *= 0.02  # of the branches beside shortcuts, which score_sde starts at zero
    *_, block, norm, last = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("all_modules")})
    conv_in = state["all_modules.3.weight"]
    shortcut, out = state[f"all_modules.{block}.Conv_2.weight"], state[f"all_modules.{last}.weight"]
    shortcut *= 0.02
    out *= 0.02
    conv_in[:6] = 0
    for channel in range(3):
        for sign, index in ((1, 2 * channel), (-1, 2 * channel + 1)):
            conv_in[index, channel, 1, 1] = sign
            shortcut[index, :] = 0
            shortcut[index, shortcut.shape[1] - VE.width + index] = 1
            out[channel, index, 1, 1] = -1.25 * sign
    state["all_modules.3.bias"][:6] = 0
    state[f"all_modules.{norm}.weight"][:6] = 1
    state[f"all_modules.{norm}.bias"][:6] = 0
    return state


@pytest.fixture(scope="module")
def exploding(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Bundle]:
    """An NCSN++ with the noise of the largest published one, sigma 0.01 to 1348, as score_sde saves it, exported."""
    folder = tmp_path_factory.mktemp("ve")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in NCSNpp(VE).state_dict().items()}
    state = denoising(shapes)
    state["sigmas"] = torch.exp(torch.linspace(math.log(1348), math.log(0.01), VE.sigmas, dtype=torch.float64))
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "step": 1}, folder / "net.pth")
    checkpoint = load_checkpoint(folder / "net.pth", config="ve/ffhq_ncsnpp_continuous", size=16)
    bundle = export_bundle(checkpoint, folder / "ve", name="ve", licence="CC0", weights="float32")
    return checkpoint, bundle


def in_torch(checkpoint: Checkpoint, x: np.ndarray, time: float) -> np.ndarray:
    """The network's eps as float64; x and time are rounded to float32 for it."""
    with torch.inference_mode():
        out = checkpoint.network(torch.from_numpy(np.float32(x[None])), torch.tensor([time], dtype=torch.float32))
    return out[0].double().numpy()


def algorithm_3(
    checkpoint: Checkpoint, guide: np.ndarray, mask: np.ndarray, t0: float, steps: int, repeats: int
) -> np.ndarray:
    """SDEdit's Algorithm 3 (2, where the mask is all one) in float64; the last line draws no noise."""
    first = round(t0 * len(checkpoint.schedule))
    levels = [(2 * n * first + steps) // (2 * steps) for n in range(steps, 0, -1)]
    sigma = [*checkpoint.schedule[np.array(levels) - 1, 1], 0.0]
    times = checkpoint.schedule[np.array(levels) - 1, 2]
    x = np.float64(guide)
    for repeat in range(repeats):
        start = np.where(mask == 1, x, guide)
        x = start + sigma[0] * noise(guide.shape, repeat, 0, KIND_BEGIN)
        for step in range(steps):
            z = noise(guide.shape, repeat, step, KIND_STEP)
            score = -in_torch(checkpoint, x, times[step]) / sigma[step]
            e = math.sqrt(sigma[step] ** 2 - sigma[step + 1] ** 2)
            edited = x + e**2 * score + (e * z if step < steps - 1 else 0)
            x = np.where(mask == 1, edited, guide + sigma[step] * z)
    return x


@pytest.mark.parametrize(("masked", "repeats"), [(False, 1), (True, 2)], ids=["algorithm 2", "algorithm 3"])
def test_an_exploding_edit_is_the_papers(exploding: tuple[Checkpoint, Bundle], masked: bool, repeats: int) -> None:
    checkpoint, bundle = exploding
    guide, mask = some_guide(bundle.state_shape)
    mask = mask if masked else np.ones_like(mask)
    assert bundle.schedule.table[-1, 1] == pytest.approx(2 * 1348)
    steps = 500 // repeats
    options = {"t0": 1.0, "steps": steps, "sampler": "euler_maruyama", "keep": "paper", "repeats": repeats}
    found = edit(bundle, guide, mask, **options)
    expected = algorithm_3(checkpoint, guide, mask, 1.0, steps, repeats)
    assert 0.01 < expected[:, :, 8:].std() < 10  # it came down from 2696
    assert np.abs(found - expected).max() < TOLERANCE


# The official code


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Bundle]:
    """A random network of the official family, in its own format."""
    folder = tmp_path_factory.mktemp("official")
    config = DDPMConfig(size=16, width=32, width_multiples=(1, 2), blocks=1, attention=(1,))
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DDPM(config).state_dict().items()}
    torch.save(weights(shapes), folder / "church.ckpt")
    checkpoint = load_checkpoint(folder / "church.ckpt", prediction="eps", schedule="linear", size=16)
    bundle = export_bundle(checkpoint, folder / "church", name="church", licence="CC0", weights="float32", fixed=True)
    return checkpoint, bundle


def official_loop(checkpoint: Checkpoint, guide: np.ndarray, mask: np.ndarray, levels: int, repeats: int) -> np.ndarray:
    """runners/image_editing.py of github.com/ermongroup/SDEdit in float32 ("fixedsmall"); here the mask's 1 = edit."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).float()
    alphas = 1 - betas
    a = alphas.cumprod(dim=0)
    before = torch.cat([torch.ones(1), a[:-1]])
    variance = (betas * (1 - before) / (1 - a)).clamp(min=1e-20)
    x0, editable = torch.from_numpy(guide.copy()), torch.from_numpy(mask) == 1
    for repeat in range(repeats):
        e = torch.from_numpy(noise(guide.shape, repeat, 0, KIND_BEGIN))
        x = x0 * a[levels - 1].sqrt() + e * (1 - a[levels - 1]).sqrt()
        for i in reversed(range(levels)):
            eps = torch.from_numpy(np.float32(in_torch(checkpoint, x.numpy(), i)))
            z = torch.from_numpy(noise(guide.shape, repeat, levels - 1 - i, KIND_STEP))
            mean = (x - betas[i] / (1 - a[i]).sqrt() * eps) / alphas[i].sqrt()
            edited = mean + (variance[i].sqrt() * z if i > 0 else 0)
            x = torch.where(editable, edited, x0 * a[i].sqrt() + e * (1 - a[i]).sqrt())
        x0 = torch.where(editable, x, x0)
    return x.numpy()


def test_an_edit_is_that_of_the_official_code(official: tuple[Checkpoint, Bundle]) -> None:
    checkpoint, bundle = official
    guide, mask = some_guide(bundle.state_shape)
    options = {"t0": 0.05, "steps": 50, "sampler": "ancestral", "keep": "official", "repeats": 2}
    found = edit(bundle, guide, mask, **options)
    expected = official_loop(checkpoint, guide, mask, 50, 2)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(found - guide)[:, :, 8:].max() > 0.1  # it did edit
