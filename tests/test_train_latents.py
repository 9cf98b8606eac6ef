"""An autoencoder and a score network of its latents: trained by the commands, exported, and used for an edit."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from command_line import Run, assert_mistake, run_sdedit
from conftest import Build
from PIL import Image
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

from sdedit.runtime import Editor
from sdedit.runtime.bundle import read_bundle
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.training import autoencoder, latents
from sdedit_ref.training.autoencoder import detail_loss, psnr
from sdedit_ref.training.timed import Pace, learning_rate, new_run, resume, save_state, train

pytestmark = pytest.mark.usefixtures("one_thread")

AUTOENCODER = ("--size", "40", "--widths", "8,8", "--latent-channels", "2", "--batch", "4", "--turns")
UNET = ("--sizes", "16,8", "--widths", "16,16", "--blocks", "1", "--attention", "", "--batch", "4", "--crops", "8")
AT_ONCE = ("--minutes", "1e-9")
"""Time for one step: the loop looks at the clock after each."""


def run_command(module: object, *arguments: object) -> Result:
    """Run a training command in this process."""
    return CliRunner().invoke(module.command, [*map(str, arguments)])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def built(build_once: Callable[[str, Build], Path]) -> Path:
    """photo.png; ae/: an autoencoder trained for a step; run/: a network of its latents; bundle/: exported."""

    def build(folder: Path) -> None:
        values = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / "photo.png")
        photo, ae, run = folder / "photo.png", folder / "ae", folder / "run"
        results = [run_command(autoencoder, photo, "--out", ae, *AUTOENCODER, *AT_ONCE)]
        results += [run_command(latents, photo, "--autoencoder", ae, "--out", run, *UNET, *AT_ONCE)]
        assert [result.exit_code for result in results] == [0, 0], [result.output for result in results]
        run_sdedit("export", run, "--out", folder / "bundle", "--name", "small", "--licence", "CC0")

    return build_once("trained-latents", build)


def test_the_autoencoder_is_a_folder_of_diffusers_with_normalised_latents(built: Path) -> None:
    config = json.loads((built / "ae" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL"
    assert config["norm_num_groups"] == 2, "of four channels each"
    vae = latents.load_autoencoder(built / "ae")
    encoder = load_checkpoint(built / "run").latent.encoder  # type: ignore[union-attr]
    photo = torch.from_numpy(
        np.asarray(Image.open(built / "photo.png"), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    )
    with torch.inference_mode():
        raw, latent = vae.encode(photo).latent_dist.mode(), encoder(photo)
    mean, deviation = (torch.tensor(config[f"latents_{name}"])[None, :, None, None] for name in ("mean", "std"))
    assert torch.allclose(latent, (raw - mean) / deviation, atol=1e-5)
    assert (latent.mean(dim=(0, 2, 3)).abs() < 0.2).all()  # of this photo, whose crops it was measured on
    assert ((latent.std(dim=(0, 2, 3)) - 1).abs() < 0.2).all()


def test_logs_and_samples(built: Path) -> None:
    (line,) = map(json.loads, (built / "ae" / "log.jsonl").read_text().splitlines())
    assert line.keys() == {"images", "steps", "seconds", "loss", "psnr"}
    assert (line["images"], line["steps"]) == (4, 1)
    (line,) = map(json.loads, (built / "run" / "log.jsonl").read_text().splitlines())
    assert line.keys() == {"images", "steps", "seconds", "loss", "held_out"}
    assert line["held_out"] > 0
    assert Image.open(built / "ae" / "samples.png").size == (8 * 40, 2 * 40)
    assert Image.open(built / "run" / "samples.png").size == (4 * 16, 4 * 16)


def test_the_folder_is_read_as_it_was_trained(built: Path, run: Run) -> None:
    code, printed, _ = run("export", built / "run", "--dry-run")
    assert code == 0
    for line in (
        "family: diffusers latent model without text of DDIMScheduler",
        "latent: 2x8x8, sides are multiples of 2",
        "prediction: v",
        "autoencoder: AutoencoderKL, factor 2",
        "text: none",
    ):
        assert line in printed
    from sdedit_ref.sde import cosine

    assert np.allclose(load_checkpoint(built / "run").schedule, cosine(1000), atol=1e-6)  # diffusers' is float32


def test_the_bundle_edits_without_a_text(built: Path) -> None:
    bundle = read_bundle(built / "bundle", verify_all=True)
    assert (bundle.factor, bundle.state_shape, bundle.manifest.text) == (2, (2, 8, 8), None)
    assert (bundle.manifest.clip, bundle.guided, dict(bundle.manifest.inputs)) == (None, False, {})
    assert set(bundle.manifest.parity.components) == {"encoder.onnx", "decoder.onnx"}
    photo = np.asarray(Image.open(built / "photo.png"))
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[10:20, 8:31] = 255
    with Editor.open(bundle, engine="onnxruntime", threads=1) as editor:
        edited = np.asarray(editor.edit(photo, mask, steps=2, seed=1).images[0].pil)
    assert np.array_equal(edited[mask == 0], photo[mask == 0])
    assert (edited[mask == 255] != photo[mask == 255]).any()


def test_mistakes_of_an_edit(built: Path, run: Run, tmp_path: Path) -> None:
    arguments = ("edit", built / "photo.png", "--bundle", built / "bundle", "--out", tmp_path / "a.png")
    assert_mistake(run(*arguments, "--prompt", "a harbour"), "prompt: small takes none")
    assert_mistake(run(*arguments, "--guidance", "2"), "guidance")


@pytest.mark.parametrize("option", ["--distilled", "--like"])
def test_options_of_pipelines_with_text_are_refused(built: Path, run: Run, option: str) -> None:
    result = run("export", built / "run", "--dry-run", option, "yes")
    assert_mistake(result, f"{option} goes with a latent text-to-image pipeline")


def test_an_autoencoder_with_other_channels_is_refused(built: Path, run: Run, tmp_path: Path) -> None:
    made = run_command(
        autoencoder, built / "photo.png", "--out", tmp_path, *AUTOENCODER, *AT_ONCE, "--latent-channels", 3
    )
    assert made.exit_code == 0, made.output
    result = run("export", built / "run", "--dry-run", "--vae", tmp_path)
    assert_mistake(result, "in_channels 2 is not 3")


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (autoencoder, ("--widths", "12,8"), "widths '12,8' is not a list of multiples of 8"),
        (autoencoder, ("--size", "36", "--widths", "8,8,8,8"), "size 36 must be a multiple of 8"),
        (latents, ("--widths", "8"), "widths '8' is not a list of multiples of 16"),
        (latents, ("--attention", "5"), "attention '5' has a level outside 0..2"),
        (latents, ("--sizes", ""), "sizes '' is not a list"),
        (latents, ("--sizes", "18"), "size 18 is not a multiple of 8"),
    ],
)
def test_mistakes_of_training(
    built: Path, tmp_path: Path, module: object, options: tuple[str, ...], message: str
) -> None:
    more = ("--autoencoder", built / "ae") if module is latents else ()
    result = run_command(module, built / "photo.png", "--out", tmp_path / "out", *more, *options)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_run_with_another_autoencoder_is_not_gone_on_with(built: Path, tmp_path: Path) -> None:
    photo, ae, run = built / "photo.png", tmp_path / "ae", tmp_path / "run"
    shutil.copytree(built / "run", run)
    shutil.copytree(built / "ae", ae)
    config = json.loads((ae / "config.json").read_text())
    (ae / "config.json").write_text(json.dumps({**config, "latents_mean": [0.5, 0.5]}))
    result = run_command(latents, photo, "--autoencoder", ae, "--out", run, *UNET, *AT_ONCE)
    assert "state.pt was trained with autoencoder" in str(result.exception)


def test_no_folder_of_an_autoencoder(built: Path, tmp_path: Path) -> None:
    result = run_command(latents, built / "photo.png", "--autoencoder", tmp_path / "none", "--out", tmp_path / "out")
    assert re.search("autoencoder .*none is no folder", str(result.exception))


# The loss


def test_a_blurred_picture_loses_by_its_details() -> None:
    """A blurred picture has the smaller error of pixels than one with other details as strong, and the larger loss."""
    generator = torch.Generator().manual_seed(0)
    wanted, other = (torch.rand(4, 3, 64, 64, generator=generator) - 0.5 for _ in range(2))
    even = torch.zeros_like(wanted)
    assert (even - wanted).abs().mean() < (other - wanted).abs().mean()
    assert detail_loss(even, wanted, 0.5) > detail_loss(other, wanted, 0.5)
    assert float(detail_loss(wanted, wanted, 0.5)) == 0
    assert torch.equal(detail_loss(even, wanted, 0), (even - wanted).abs().mean())


def test_psnr_is_that_of_8_bit_pictures() -> None:
    wanted = torch.zeros(2, 3, 4, 4)
    found = wanted + 2 / 255  # a step of one of 255
    assert math.isclose(psnr(found, wanted), 20 * math.log10(255), rel_tol=1e-5)


# The clock


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2)


def test_the_learning_rate_follows_the_clock() -> None:
    rates = [learning_rate(share, 1.0) for share in np.linspace(0, 1, 101)]
    assert rates[0] < 0.01
    assert max(rates) == max(rates[5:7])
    assert math.isclose(rates[50], 0.5)
    assert rates[100] == 0


def measured() -> tuple[dict[str, float], Image.Image]:
    return {"fact": 1.0}, Image.new("RGB", (2, 2))


def test_a_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    run = new_run(linear(), "cpu", Pace(1.0, 0.1, 0.9, 1.0), {"kind": "linear"})
    run.seconds, run.steps, run.images = 30.0, 7, 28
    loss = run.network(torch.ones(1, 2)).square().sum()
    loss.backward()
    run.optimizer.step()
    save_state(run, tmp_path)
    again = new_run(linear(), "cpu", run.pace, {"kind": "linear"})
    resume(again, tmp_path)
    assert (again.seconds, again.steps, again.images, again.share) == (30.0, 7, 28, 0.5)
    assert torch.equal(again.network.weight, run.network.weight)  # type: ignore[arg-type]
    assert again.optimizer.state_dict()["state"].keys() == run.optimizer.state_dict()["state"].keys()


def test_a_save_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    pace = Pace(1.0, 0.1, 0.9, 1.0)
    save_state(new_run(linear(), "cpu", pace, {"kind": "linear"}), tmp_path)
    with pytest.raises(Exception, match="was trained with kind linear, not other"):
        resume(new_run(linear(), "cpu", pace, {"kind": "other"}), tmp_path)
    (tmp_path / "state.pt").write_bytes(b"no file of torch")
    with pytest.raises(Exception, match="is of another network, or damaged"):
        resume(new_run(linear(), "cpu", pace, {"kind": "linear"}), tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_before_a_save(tmp_path: Path) -> None:
    run = new_run(linear(), "cpu", Pace(1e-9, 0.1, 0.9, 1.0), {})

    def loss_of(step: int) -> tuple[Tensor, int]:
        return run.network(torch.ones(1, 2)).sum() * math.nan, 1

    with pytest.raises(Exception, match=r"the loss was not finite, at --lr 0.1"):
        train(run, tmp_path, loss_of, measured)
    assert list(tmp_path.iterdir()) == []


def test_training_is_over_with_its_time(tmp_path: Path) -> None:
    run = new_run(linear(), "cpu", Pace(0.002, 0.1, 0.9, 1.0), {})

    def loss_of(step: int) -> tuple[Tensor, int]:
        return (run.network(torch.ones(1, 2)) - 3).square().sum(), 2

    train(run, tmp_path, loss_of, measured)
    assert run.share >= 1
    assert run.images == 2 * run.steps
    with torch.inference_mode():
        assert (run.network(torch.ones(1, 2)) - 3).square().sum() < 18
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (line["images"], line["fact"]) == (run.images, 1.0)
    train(run, tmp_path, loss_of, measured)  # nothing is left to do
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
