"""Folders of diffusers: which are refused, by one line whatever is in them."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, assert_mistake
from diffusers_folders import rewrite, save_ddpm, save_ve
from hypothesis import given, settings
from hypothesis import strategies as st

from sdedit.errors import CheckpointError, install_hint
from sdedit_ref.checkpoints import load_checkpoint

diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


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
    assert_refused(copied / WEIGHTS, "is one file of a diffusers folder, which is loaded as a whole")


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
        ("unet", {"sample_size": None}, r"does not state size: add --size PIXELS\|HEIGHTxWIDTH"),
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
    assert done.stderr.endswith(f"needs the package diffusers: {install_hint('diffusers')}\n")
    assert len(done.stderr.splitlines()) == 1
