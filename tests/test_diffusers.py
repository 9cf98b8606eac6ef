"""Folders of diffusers: the same network, the same levels and the same steps as the package itself."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, assert_mistake
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdedit.errors import CheckpointError
from sdedit.export.bundle import export_bundle
from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import open_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import Plan, make_plan
from sdedit_ref.checkpoint import load_checkpoint
from sdedit_ref.families.diffusers import PRESERVING

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

SHAPE = (3, 16, 16)
LEVELS = 100
SEED = 7
COMMON: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
DDPM = {
    **COMMON,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
"""As google/ddpm-ema-* have it."""
VE = {
    **COMMON,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "block_out_channels": (32, 64),
    "time_embedding_type": "fourier",
    "center_input_sample": True,
    "mid_block_scale_factor": math.sqrt(2),
}
"""As google/ncsnpp-* have it."""
VE_SCHEDULE = {"num_train_timesteps": 50, "sigma_min": 0.01, "sigma_max": 348.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More cost a hundred times as much for networks this small, where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(folder: Path, options: dict[str, Any], scheduler: Any) -> Any:
    """A folder as pipelines save it, of a network of random weights; returns the network."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**options).eval()
    pipeline = diffusers.ScoreSdeVePipeline if options is VE else diffusers.DDPMPipeline
    pipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return unet


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder, and the network in it."""
    folder = tmp_path_factory.mktemp("ddpm")
    scheduler = diffusers.DDPMScheduler(LEVELS, beta_end=0.1, prediction_type="v_prediction")
    return folder, save(folder, DDPM, scheduler)


@pytest.fixture(scope="module")
def ve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("ve")
    return folder, save(folder, VE, diffusers.ScoreSdeVeScheduler(**VE_SCHEDULE))


@pytest.fixture
def copied(ddpm: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(ddpm[0], tmp_path / "net"))


def rewrite(path: Path, **changes: Any) -> None:
    """None: taken out."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


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


@pytest.mark.parametrize("form", ["bin", "bare", "fp16", "old names"])
def test_other_forms_of_the_same_folder(ddpm: tuple[Path, Any], copied: Path, form: str) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    if form == "bin":
        torch.save(tensors, weights.with_suffix(".bin"))
    elif form == "fp16":
        save_file({name: tensor.half() for name, tensor in tensors.items()}, weights.with_suffix(".fp16.safetensors"))
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
    assert (out - expected).abs().max() <= (2e-2 if form == "fp16" else 0) * expected.abs().max()


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
    """They take the exponential in float32, of up to log 348 = 5.9, which is rounded by 2^-22."""
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
    loop = Loop(CpuDevice(open_engine(bundle), SHAPE, 1, twin("numpy")))
    loop.admit(Task(plan, guide, np.ones(SHAPE[1:], np.float32), SEED, 0))
    while True:
        for _, result in loop.step():
            return result


def normal(step: int, kind: int) -> Tensor:
    z = normal_numpy(SEED, 0, 0, step, kind, math.prod(SHAPE))
    return torch.from_numpy(z.reshape(1, *SHAPE))


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
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
        "answers: size 32x16 (said), prediction eps (of the file)\n",
    ):
        assert fact in stdout


# Folders of something else


def assert_refused(folder: Path, message: str, **said: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder, **said)
    assert len(str(caught.value).splitlines()) == 1
    assert str(folder) in str(caught.value)


def test_a_folder_that_is_none_of_diffusers(tmp_path: Path, run: Run) -> None:
    assert_refused(tmp_path, r"no config\.json in it, but nothing; accepted is a folder of diffusers' UNet2DModel")
    (tmp_path / "me.jpg").touch()
    assert_refused(tmp_path, r"no config\.json in it, but 'me\.jpg'; accepted is")
    assert_mistake(run("export", tmp_path, "--out", tmp_path / "out"), "no config.json in it, but 'me.jpg'")
    assert_mistake(run("export", tmp_path, "--dry-run"), "no config.json in it")


@pytest.mark.parametrize("options", [("--dry-run",), ("--out", "out")])
def test_a_name_that_is_too_long(run: Run, options: tuple[str, ...]) -> None:
    assert_mistake(run("export", "a" * 5000, *options), "cannot be read: File name too long")


def test_a_folder_that_cannot_be_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)  # the superuser can read every folder
    assert_refused(copied, "cannot be read: Permission denied")


def test_a_latent_network(copied: Path) -> None:
    (copied / "vqvae").mkdir()
    assert_refused(copied, "holds vqvae: its network works on an autoencoder's output, not on pixels")


def test_a_file_of_a_folder(copied: Path) -> None:
    assert_refused(copied / WEIGHTS, "a file of a diffusers folder, which is taken as a whole")


def test_times_that_are_no_levels(copied: Path) -> None:
    file = copied / "scheduler" / "scheduler_config.json"
    diffusers.EulerDiscreteScheduler(timestep_type="continuous").save_pretrained(file.parent)
    assert_refused(copied, "timestep_type 'continuous' is not 'discrete'")


def test_a_network_without_scheduler(copied: Path) -> None:
    assert_refused(copied / "unet", r"no scheduler_config\.json in it, but 'config\.json', 'diffusion_pytorch_model")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "unet",
            {"_class_name": "UNet2DConditionModel"},
            "_class_name 'UNet2DConditionModel' is not one of UNet2DModel",
        ),
        ("unet", {"_class_name": None}, "_class_name None is not one of UNet2DModel"),
        ("unet", {"in_channels": 4}, "in_channels 4 is not 1 or 3"),
        ("unet", {"out_channels": 6}, "out_channels 6 is not 3"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type 'fourier' is not positional"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep' is not None"),
        ("unet", {"new_option": 1}, "'new_option' is an option that this diffusers would ignore"),
        ("unet", {"layers_per_block": 10**9}, r"layers_per_block 1000000000 is not a number in 1\.\.64"),
        ("unet", {"num_class_embeds": "all"}, "num_class_embeds 'all' is not a number"),
        ("unet", {"down_block_types": "DownBlock2D" * 9}, "down_block_types is not a list"),
        ("unet", {"down_block_types": ["NoBlock", "NoBlock"]}, "does not fit .* NoBlock does not exist"),
        ("unet", {"block_out_channels": [16, 64]}, "does not fit .*size mismatch"),
        ("unet", {"block_out_channels": [10**12, "a"]}, "does not fit"),
        ("unet", {"layers_per_block": 2}, "does not fit .*Missing key"),
        ("unet", {"norm_num_groups": 7}, "does not fit .*divisible"),
        ("unet", {"sample_size": 17}, "size 17 is not a multiple of 2"),
        ("unet", {"sample_size": [16, 17]}, "size 16x17 is not a multiple of 2"),
        ("unet", {"sample_size": None}, r"do not tell size: say --size PIXELS\|HEIGHTxWIDTH"),
        ("unet", {"sample_size": "x"}, "size 'x' is neither PIXELS nor HEIGHTxWIDTH"),
        (
            "scheduler",
            {"_class_name": "KarrasVeScheduler"},
            "'KarrasVeScheduler' is not one of DDPMScheduler, ",
        ),
        ("scheduler", {"_class_name": "ScoreSdeVeScheduler"}, "time_embedding_type 'positional' is not fourier"),
        (
            "scheduler",
            {"prediction_type": "flow"},
            "prediction_type 'flow' is not one of epsilon, ",
        ),
        ("scheduler", {"beta_schedule": "steep"}, "makes no schedule: steep is not implemented"),
        ("scheduler", {"beta_start": "low"}, "makes no schedule"),
        ("scheduler", {"beta_end": 1.5}, "its betas are not all between 0 and 1"),
        ("scheduler", {"num_train_timesteps": 10**12}, "num_train_timesteps 1000000000000 is not a number in"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr true is not taken"),
    ],
)
def test_configs_that_are_wrong(copied: Path, file: str, changes: dict[str, Any], message: str) -> None:
    rewrite(copied / file / ("config.json" if file == "unet" else "scheduler_config.json"), **changes)
    assert_refused(copied, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_min": 0.0}, "sigma_min 0.0, sigma_max 348.0: not 0 < sigma_min < sigma_max <= 1e"),
        ({"sigma_max": "big"}, "sigma_max 'big': not 0 <"),
        ({"num_train_timesteps": 1}, "num_train_timesteps 1 is not a number in 2"),
    ],
)
def test_sigmas_that_are_wrong(ve: tuple[Path, Any], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = Path(shutil.copytree(ve[0], tmp_path / "net"))
    rewrite(folder / "scheduler" / "scheduler_config.json", **changes)
    assert_refused(folder, message)


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_text(name: str, text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(WEIGHTS), "holds none of diffusion_pytorch_model.safetensors, "),
        (with_text(WEIGHTS, b"x" * 100), "is neither a safetensors nor a torch file"),
        (with_text("unet/config.json", b"{"), "cannot be read"),
        (with_text("unet/config.json", b"[" * 100_000), "cannot be read"),
        (with_text("unet/config.json", b"\xff"), "cannot be read"),
        (with_text("unet/config.json", b"[]"), "is no JSON object"),
        (with_text("unet/config.json", b" " * (1 << 21)), "is no JSON object of at most"),
    ],
)
def test_files_that_are_damaged(copied: Path, change: Callable[[Path], object], message: str) -> None:
    change(copied)
    assert_refused(copied, message)


ANY = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2,
        3,
        10**12,
        10**400,
        1.5,
        math.nan,
        math.inf,
        "",
        "a",
        [],
        [1],
        ["a"],
        [None],
        {},
        {"a": 1},
    ]
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), file=st.sampled_from(["unet/config.json", "scheduler/scheduler_config.json"]))
def test_configs_of_anything_end_in_one_line(
    ddpm: tuple[Path, Any], ve: tuple[Path, Any], data: st.DataObject, file: str
) -> None:
    folder = data.draw(st.sampled_from([ddpm[0], ve[0]]))
    text = (folder / file).read_text()
    config = json.loads(text)
    names = data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2, unique=True))
    (folder / file).write_text(json.dumps({**config, **{name: data.draw(ANY) for name in names}}))
    try:
        message = load_checkpoint(folder).family
    except CheckpointError as error:
        message = str(error)
    finally:
        (folder / file).write_text(text)
    assert len(message.splitlines()) == 1


def test_what_does_not_apply(ddpm: tuple[Path, Any]) -> None:
    assert_refused(ddpm[0], "--schedule does not apply to a diffusers UNet2DModel", schedule="linear")
    assert_refused(ddpm[0], "--null-label does not apply", null_label="0")


def test_without_diffusers_the_extra_is_named(ddpm: tuple[Path, Any]) -> None:
    code = "import sys; sys.modules['diffusers'] = None; from sdedit.cli import main; main()"
    command = [sys.executable, "-c", code, "export", str(ddpm[0]), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("needs the package diffusers: pip install 'sdedit[diffusers]'\n")
    assert len(done.stderr.splitlines()) == 1
