"""Folders of diffusers: the same network, the same levels and the same steps as the package itself."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run
from diffusers_folders import COMMON, DDPM, LEVELS, SHAPE, VE_SCHEDULE, rewrite, save, save_ddpm, save_ve
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdedit.export.bundle import export_bundle
from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import open_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import Plan, make_plan
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.checkpoints.diffusers import PRESERVING

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 7


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and the network in it."""
    return save_ddpm(tmp_path_factory.mktemp("ddpm"))


@pytest.fixture(scope="module")
def ve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return save_ve(tmp_path_factory.mktemp("ve"))


@pytest.fixture
def copied(ddpm: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(ddpm[0], tmp_path / "net"))


def some_x() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32))


# Networks


def test_a_ddpm_folder_is_its_network(ddpm: tuple[Path, Any]) -> None:
    folder, unet = ddpm
    checkpoint = load_checkpoint(folder)
    x, time = some_x(), torch.tensor([3.0, 70.0])
    with torch.inference_mode():
        assert torch.equal(checkpoint.network(x, time), unet(x, time.long()).sample)
    assert checkpoint.prediction == "v"
    assert checkpoint.shape == SHAPE
    assert checkpoint.multiple_of == 2
    assert (checkpoint.classes, checkpoint.null_label) == (0, None)


def test_a_ve_folder_predicts_noise_of_data_in_minus_one_to_one(ve: tuple[Path, Any]) -> None:
    """x = 2 u - 1 for the network's own u = u0 + sigma z, whose score is -z / sigma. x / 2 + 1 / 2 rounds by 2^-24."""
    folder, unet = ve
    checkpoint = load_checkpoint(folder)
    u, sigma = some_x(), torch.tensor([0.5, 200.0])
    with torch.inference_mode():
        eps = checkpoint.network(2 * u - 1, sigma)
        score = unet(u, sigma).sample
    assert checkpoint.prediction == "eps"
    assert (eps + sigma[:, None, None, None] * score).abs().max() < 1e-5 * eps.abs().max()


def test_a_class_conditional_folder_takes_labels(tmp_path: Path) -> None:
    unet = save(tmp_path, {**DDPM, "num_class_embeds": 4}, diffusers.DDPMScheduler())
    checkpoint = load_checkpoint(tmp_path, null_label="3")
    x, time, label = some_x(), torch.tensor([3.0, 70.0]), torch.tensor([0, 3])
    with torch.inference_mode():
        assert torch.equal(checkpoint.network(x, time, label), unet(x, time, label).sample)
    assert (checkpoint.classes, checkpoint.null_label) == (3, 3)


def test_a_learned_variance_is_left_out(tmp_path: Path) -> None:
    unet = save(tmp_path, {**DDPM, "out_channels": 6}, diffusers.DDPMScheduler(variance_type="learned_range"))
    x, time = some_x(), torch.tensor([3.0, 70.0])
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(tmp_path).network(x, time), unet(x, time).sample[:, :3])


def test_scale_shift_resnets_and_grey_images(tmp_path: Path) -> None:
    options = {
        **COMMON,
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
    }
    unet = save(tmp_path, options, diffusers.DDIMScheduler(prediction_type="sample"))
    checkpoint = load_checkpoint(tmp_path)
    x, time = some_x()[:, :1], torch.tensor([3.0, 70.0])
    with torch.inference_mode():
        assert torch.equal(checkpoint.network(x, time), unet(x, time).sample)
    assert checkpoint.prediction == "x0"
    assert checkpoint.shape == (1, 16, 16)


@pytest.mark.parametrize("form", ["bin", "bare", "fp16", "fp16 bin", "old names"])
def test_other_forms_of_the_same_folder(ddpm: tuple[Path, Any], copied: Path, form: str) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    if form == "bin":
        torch.save(tensors, weights.with_suffix(".bin"))
    elif form == "fp16":
        save_file({name: tensor.half() for name, tensor in tensors.items()}, weights.with_suffix(".fp16.safetensors"))
    elif form == "fp16 bin":
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, weights.with_suffix(".fp16.bin"))
    elif form == "old names":
        save_file({old_name(name): tensor for name, tensor in tensors.items()}, weights)
    else:
        save_file(tensors, weights)
        copied = Path(shutil.move(copied / "unet", copied / "bare"))
        shutil.copy(ddpm[0] / "scheduler" / "scheduler_config.json", copied)
    x, time = some_x(), torch.tensor([3.0, 70.0])
    with torch.inference_mode():
        out, expected = load_checkpoint(copied).network(x, time), load_checkpoint(ddpm[0]).network(x, time)
    # Half precision rounds each weight by at most 2^-11, and tens of layers add their shares.
    assert (out - expected).abs().max() <= (2e-2 if form.startswith("fp16") else 0) * expected.abs().max()


def old_name(name: str) -> str:
    if ".attentions." not in name:
        return name
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{new}.", f".{old}.")
    return name


# Schedules


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", PRESERVING)
def test_levels_are_the_schedulers(copied: Path, name: str, beta_schedule: str) -> None:
    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, beta_start=0.0002, beta_schedule=beta_schedule)
    scheduler.save_pretrained(copied / "scheduler")
    checkpoint = load_checkpoint(copied)
    squared = scheduler.alphas_cumprod.double().numpy()
    # Their product of 1000 factors is one of float32: each 1 - beta and each product rounds by 2^-24 at most.
    assert np.abs(checkpoint.schedule[:, 0] ** 2 / squared - 1).max() < 2 * 1000 * 2**-24
    assert np.array_equal(checkpoint.schedule[:, 2], np.arange(1000))
    assert checkpoint.schedule_name == beta_schedule


def test_trained_betas_are_a_schedule(copied: Path) -> None:
    betas = np.linspace(0.001, 0.3, 30)
    rewrite(copied / "scheduler" / "scheduler_config.json", trained_betas=betas.tolist(), num_train_timesteps=30)
    checkpoint = load_checkpoint(copied)
    assert np.abs(checkpoint.schedule[:, 0] ** 2 / np.cumprod(1 - betas) - 1).max() < 30 * 2**-24
    assert checkpoint.schedule_name == "trained_betas"


def test_sigmas_are_the_schedulers_for_data_of_twice_the_range(ve: tuple[Path, Any]) -> None:
    """diffusers takes the exponential in float32, of up to log 348 = 5.9, which is rounded by 2^-22."""
    schedule = load_checkpoint(ve[0]).schedule
    sigmas = diffusers.ScoreSdeVeScheduler(**VE_SCHEDULE).discrete_sigmas.double().numpy()
    assert np.abs(schedule[:, 2] / sigmas - 1).max() < 4 * 2**-22
    assert np.array_equal(schedule[:, 1], 2 * schedule[:, 2])
    assert (schedule[:, 0] == 1).all()


# Edits


def export(folder: Path, out: Path) -> Bundle:
    return export_bundle(load_checkpoint(folder), out, name="tiny", licence="CC0", weights="float32")


def edit(bundle: Bundle, plan: Plan, guide: np.ndarray) -> np.ndarray:
    """The runtime's loop; float32 [C, H, W]"""
    loop = Loop(CpuDevice(open_engine(bundle), bundle.inputs, 1, twin("numpy")))
    loop.admit(Task(plan, guide, np.ones(SHAPE[1:], np.float32), SEED, 0))
    while True:
        for _, result in loop.step():
            return result


def normal(step: int, kind: int) -> Tensor:
    z = normal_numpy(SEED, 0, 0, step, kind, math.prod(SHAPE))
    return torch.from_numpy(z.reshape(1, *SHAPE))


GUIDE = np.linspace(-1, 1, math.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
RANGE = 2
TOLERANCE = 1e-4 * RANGE


def test_an_edit_is_ddims_own(ddpm: tuple[Path, Any], tmp_path: Path) -> None:
    """From level 50 of 100 in five steps, without a clamp; their steps are the levels', ten apart."""
    folder, unet = ddpm
    bundle = export(folder, tmp_path / "bundle")
    plan = make_plan(bundle.schedule, bundle.prediction, t0=0.5, steps=5, sampler="ddim", clip=math.inf)
    scheduler = diffusers.DDIMScheduler(LEVELS, beta_end=0.1, prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(10)
    x = scheduler.add_noise(torch.from_numpy(GUIDE)[None], normal(0, KIND_BEGIN), torch.tensor([49]))
    with torch.inference_mode():
        for t in (49, 39, 29, 19, 9):
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    assert np.abs(edit(bundle, plan, GUIDE) - x[0].numpy()).max() < TOLERANCE


def test_an_edit_is_score_sdes_own(ve: tuple[Path, Any], tmp_path: Path) -> None:
    """Every level of 30, so that their neighbours are the levels; theirs is of data in [0, 1], half as far apart."""
    folder, unet = ve
    bundle = export(folder, tmp_path / "bundle")
    plan = make_plan(bundle.schedule, "eps", t0=0.6, steps=30, sampler="euler_maruyama", clip=math.inf)
    scheduler = diffusers.ScoreSdeVeScheduler(**VE_SCHEDULE)
    sigmas = scheduler.discrete_sigmas
    scheduler.timesteps = torch.linspace(0, 1, len(sigmas))
    u = (torch.from_numpy(GUIDE)[None] + 1) / 2 + sigmas[29] * normal(0, KIND_BEGIN)
    with torch.inference_mode():
        for step, k in enumerate(range(29, -1, -1)):
            predicted = scheduler.step_pred(unet(u, sigmas[k]).sample, (k + 0.5) / (len(sigmas) - 1), u)
            last = sigmas[k - 1] if k else torch.tensor(0.0)
            noise = (sigmas[k] ** 2 - last**2).sqrt() * normal(step, KIND_STEP) if k else 0
            u = predicted.prev_sample_mean + noise
    assert np.abs(edit(bundle, plan, GUIDE) - (2 * u[0] - 1).numpy()).max() < TOLERANCE


def test_the_command_line_says_what_was_recognised(ve: tuple[Path, Any], run: Run) -> None:
    code, stdout, stderr = run("export", ve[0], "--dry-run", "--size", "32x16")
    assert (code, stderr) == (0, "")
    for fact in (
        "family: diffusers UNet2DModel of ScoreSdeVeScheduler\n",
        "image: 3x32x16, sides are multiples of 2\n",
        "prediction: eps\n",
        "schedule: ve, 50 levels, sigma 0.02 to 696\n",
        "answers: size 32x16 (given), prediction eps (from the file)\n",
    ):
        assert fact in stdout
