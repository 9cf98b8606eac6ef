"""Edits by diffusers as baselines: they are those of diffusers itself, and mistakes are one line."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click import UsageError
from click.testing import CliRunner
from command_line import Run
from PIL import Image

pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")

import torch
from diffusers_folders import DDPM, save, save_ve
from latent_pipelines import save_small_sd, save_small_sdxl

from sdedit.errors import CheckpointError, ImageError, PlanError, SdeditError, install_hint
from sdedit.evaluation.baselines import command

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = 100
PIXELS = 16
LATENTS = 8
"""Sides of the models' pictures."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd/, a latent model; ddim/, a model of pixels."""
    import diffusers

    folder = tmp_path_factory.mktemp("models")
    save_small_sd(folder / "sd")
    save(folder / "ddim", DDPM, diffusers.DDIMScheduler(LEVELS, beta_end=0.1, timestep_spacing="trailing"))
    return folder


@pytest.fixture
def evaluations() -> Iterator[Counter[str]]:
    """Class name -> how often a module of this class was evaluated."""
    counter: Counter[str] = Counter()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: counter.update([type(m).__name__]))
    yield counter
    hook.remove()


def some_guides(folder: Path, width: int, height: int) -> np.ndarray:
    """guides/ and masks/ with a picture a.png each, whose right half is masked; returns the guide's pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    for name, values in (("guides", pixels), ("masks", mask)):
        (folder / name).mkdir()
        Image.fromarray(values).save(folder / name / "a.png")
    return pixels


def edit(folder: Path, model: Path, method: str, *options: object) -> np.ndarray:
    """Run the command on the guides of some_guides; returns the result's pixels. Raises its error."""
    arguments = ["--guides", folder / "guides", "--out", folder / "out", "--method", method, "--model", model]
    arguments += ["--masks", folder / "masks"] if method == "inpaint" else []
    done = CliRunner().invoke(command, [*map(str, [*arguments, *options])], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return np.asarray(Image.open(next((folder / "out").iterdir())))


def test_latent_edits_are_those_of_the_pipelines(models: Path, tmp_path: Path) -> None:
    import diffusers

    pixels = some_guides(tmp_path, LATENTS, LATENTS)
    found = edit(tmp_path, models / "sd", "img2img", "--t0", 0.5, "--steps", 4, "--prompt", "a castle", "--seed", 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-3.png"]
    pipeline: Any = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(models / "sd")
    wanted = pipeline(
        prompt="a castle",
        image=Image.fromarray(pixels),
        strength=0.5,
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(3),
    )
    assert np.array_equal(found, wanted.images[0])
    assert np.ptp(found) > 20  # else equal pictures would tell nothing


def test_latent_inpainting_is_that_of_the_pipeline(models: Path, tmp_path: Path) -> None:
    import diffusers

    pixels = some_guides(tmp_path, 2 * LATENTS, LATENTS)
    found = edit(tmp_path, models / "sd", "inpaint", "--strength", 1, "--steps", 2)
    pipeline: Any = diffusers.StableDiffusionInpaintPipeline.from_pretrained(models / "sd")
    wanted = pipeline(
        prompt="",
        image=Image.fromarray(pixels),
        mask_image=Image.open(tmp_path / "masks" / "a.png"),
        width=2 * LATENTS,
        height=LATENTS,
        strength=1.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert np.array_equal(found, wanted.images[0])


@pytest.mark.parametrize(("t0", "steps"), [(0.3, 7), (0.7, 3), (1.0, 2), (0.01, 1)])
def test_the_network_is_evaluated_as_often_as_asked(
    models: Path, tmp_path: Path, evaluations: Counter[str], t0: float, steps: int
) -> None:
    some_guides(tmp_path, PIXELS, PIXELS)
    edit(tmp_path, models / "sd", "img2img", "--t0", t0, "--steps", steps)
    edit(tmp_path, models / "ddim", "inpaint", "--t0", t0, "--steps", steps)
    assert (evaluations["UNet2DConditionModel"], evaluations["UNet2DModel"]) == (steps, steps)


def test_edits_of_pixels_follow_ddims_equation(models: Path, tmp_path: Path, evaluations: Counter[str]) -> None:
    """Song et al. 2021, equation 12 with sigma = 0, from the guide at the level of t0; kept pixels keep their bytes."""
    import diffusers

    pixels = some_guides(tmp_path, PIXELS, PIXELS)
    found = edit(tmp_path, models / "ddim", "inpaint", "--t0", 0.5, "--steps", 5, "--seed", 1)
    network: Any = diffusers.UNet2DModel.from_pretrained(models / "ddim" / "unet").eval()
    guide = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 127.5 - 1
    noise = torch.randn(guide.shape, generator=torch.Generator().manual_seed(1))
    products = torch.cumprod(1 - torch.linspace(0.0001, 0.1, LEVELS), 0)
    levels = [*products[[49, 39, 29, 19, 9]], torch.tensor(1.0)]
    x = levels[0].sqrt() * guide + (1 - levels[0]).sqrt() * noise
    for now, then, time in zip(levels, levels[1:], (49, 39, 29, 19, 9), strict=False):
        with torch.no_grad():
            eps = network(x, time).sample
        x0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
        x = then.sqrt() * x0 + (1 - then).sqrt() * eps
        x[..., : PIXELS // 2] = (then.sqrt() * guide + (1 - then).sqrt() * noise)[..., : PIXELS // 2]
    wanted = (x[0].permute(1, 2, 0).numpy() + 1) * 127.5
    # the result is rounded to bytes; the same sums in another order differ by 1e-5 of the range
    assert np.abs(found - np.clip(wanted, 0, 255)).max() < 0.51
    assert np.array_equal(found[:, : PIXELS // 2], pixels[:, : PIXELS // 2])
    assert np.abs(found[:, PIXELS // 2 :].astype(int) - pixels[:, PIXELS // 2 :]).max() > 10


def test_evaluate_measures_them(models: Path, tmp_path: Path, run: Run) -> None:
    """Without masks a guide is brought to the model's size, as edits of sdedit evaluate are."""
    some_guides(tmp_path, 40, 30)
    for seed in (0, 1):
        edit(tmp_path, models / "ddim", "img2img", "--steps", 2, "--seed", seed)
    guides = tmp_path / "guides"
    code, out, err = run("evaluate", "--guides", guides, "--reals", guides, "--results", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert row["measures"]["rms"]["value"] > 0


def test_other_models_and_sizes_are_refused(models: Path, tmp_path: Path) -> None:
    some_guides(tmp_path, PIXELS - 1, PIXELS)
    with pytest.raises(ImageError, match=r"a.png is 15x16 pixels; the model takes multiples of 2$"):
        edit(tmp_path, models / "ddim", "inpaint")
    with pytest.raises(CheckpointError, match=r"has no model_index.json; nothing is downloaded"):
        edit(tmp_path, models, "img2img")
    save_ve(tmp_path / "ve")
    with pytest.raises(CheckpointError, match="ScoreSdeVeScheduler has no step of its own"):
        edit(tmp_path, tmp_path / "ve", "img2img")
    save_small_sdxl(tmp_path / "sdxl")
    with pytest.raises(CheckpointError, match="its U-Net has 9 input channels; 4 are accepted without a mask"):
        edit(tmp_path, tmp_path / "sdxl", "img2img")
    (tmp_path / "sdxl" / "model_index.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="diffusers does not take it: "):
        edit(tmp_path, tmp_path / "sdxl", "img2img")


def test_levels_and_prompts_that_a_model_has_not_are_refused(models: Path, tmp_path: Path) -> None:
    some_guides(tmp_path, PIXELS, PIXELS)
    with pytest.raises(PlanError, match="diffusers refuses 120 levels: "):
        edit(tmp_path, models / "ddim", "img2img", "--steps", 60)
    with pytest.raises(PlanError, match="diffusers refuses 1200 levels: "):
        edit(tmp_path, models / "sd", "img2img", "--steps", 600)
    with pytest.raises(PlanError, match="a prompt is for models with a text encoder"):
        edit(tmp_path, models / "ddim", "img2img", "--prompt", "a castle")
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "img2img"), "--method img2img needs --model"),
        (("--method", "inpaint", "--model", "."), "--method inpaint needs --masks"),
        (("--method", "img2img", "--model", ".", "--masks", "."), "--masks is not an option of --method img2img"),
        (("--masks", ".", "--photos", ".", "--t0", "0.3"), "--t0 is not an option of --method laplacian"),
        (("--method", "img2img", "--model", ".", "--t0", "nan"), "nan is not a finite number"),
    ],
)
def test_options_of_another_method_are_refused(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    arguments = ["--guides", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert isinstance(done.exception, UsageError)
    assert message in done.exception.format_message()


def test_a_missing_package_is_named(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_guides(tmp_path, PIXELS, PIXELS)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SdeditError, match="edits by diffusers need the package diffusers: ") as caught:
        edit(tmp_path, models / "ddim", "img2img")
    assert str(caught.value).endswith(install_hint("bench"))
