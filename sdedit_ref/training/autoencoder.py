"""Train an autoencoder on pictures: `python -m sdedit_ref.training.autoencoder --help`.

The network is diffusers' AutoencoderKL (Rombach et al. 2022). No other network judges its pictures: the loss is the
error of pixels and of the strength of details, at several scales.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit_ref.training.autoencoder")
    raise SystemExit

import argparse
import math
from typing import TYPE_CHECKING, Any

import click

from sdedit.console import Number, run_command
from sdedit.errors import CheckpointError

from .crops import HELD_OUT, parse_numbers
from .timed_options import COUNT, check_packages, crops_of, option, pace_of, timed_options

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = 8
"""Largest number of groups of each norm: widths are multiples of it."""

GROUPED = 4
"""Fewest channels of a group. A norm of each channel for itself would take the colours out of a picture."""

SHOWN = 8
"""Held-out views in the picture of a report, each above its reconstruction."""

DETAIL_SCALES = 3
WINDOW = 8
"""Side of the squares, in pixels of their scale, whose details are compared by their mean strength."""

LEAST = 36
"""Smallest crop, in pixels: at the coarsest of DETAIL_SCALES it has a whole window of differences."""

MEASURED = range(2**40, 2**40 + 32)
"""Numbers of the batches of 16 that the scale of the latents is measured on; training does not come so far."""


@click.command(epilog="Example: python -m sdedit_ref.training.autoencoder photos/ --out ae --hold-out 50")
@timed_options
@option("--size", type=COUNT, default=128, help="Side of a crop, in pixels.")
@option("--widths", default="32,64,64,64", help="Channels of each level; each level but the first halves the sides.")
@option("--blocks", type=COUNT, default=1, help="Residual blocks per level.")
@option("--latent-channels", type=COUNT, default=4, help="Channels of a latent.")
@option("--details", type=Number(0), default=0.1, help="Weight of the strength of details.")
@option("--kl", type=Number(0), default=1e-3, help="Weight of the distance from a normal distribution.")
def command(**options: Any) -> None:
    """Train an autoencoder on random crops of PICTURES, a folder of images or one large image.

    OUT becomes a folder that `sdedit_ref.training.latents` and `sdedit export --vae` take. OUT/log.jsonl has the PSNR
    of held-out views, OUT/samples.png shows some of them above their reconstructions.
    """
    o = argparse.Namespace(**options)
    widths = parse_numbers(o.widths)
    factor = 2 ** (len(widths) - 1)
    if not widths or any(width < 1 or width % GROUPS for width in widths):
        raise CheckpointError(f"widths {o.widths!r} is not a list of multiples of {GROUPS}, like 32,64,64,64")
    if o.size % factor or o.size < LEAST:
        raise CheckpointError(f"size {o.size} must be a multiple of {factor}, and at least {LEAST}")
    check_packages()
    run_training(o, widths)


def run_training(o: argparse.Namespace, widths: tuple[int, ...]) -> None:
    """Begin the run, or go on with it, train until its end, and write the autoencoder."""
    import torch
    from diffusers import AutoencoderKL

    from .batches import Batches
    from .diffusers_folders import write_model
    from .quality import sheet
    from .run import make_folder
    from .timed import new_run, resume, train

    crops, held_out = crops_of(o, o.size)
    torch.manual_seed(o.seed)
    network: Any = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=o.latent_channels,
        layers_per_block=o.blocks,
        norm_num_groups=min(GROUPS, min(widths) // GROUPED),
        sample_size=o.size,
        mid_block_add_attention=False,  # it takes any size, and its time grows with the area alone
    )
    metadata = {"widths": o.widths, "blocks": str(o.blocks), "latent_channels": str(o.latent_channels)}
    run = new_run(network, o.device, pace_of(o), metadata)
    make_folder(o.out)
    resume(run, o.out)
    batches, views = Batches(crops, o.device), Batches(held_out, o.device).cut(0, HELD_OUT)
    precision = getattr(torch, o.precision)
    random = torch.Generator(o.device)
    averaged: Any = run.ema

    def loss_of(step: int) -> tuple["Tensor", int]:
        random.manual_seed(o.seed << 32 | step)
        x = batches.cut(step, o.batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(o.device, precision, enabled=precision != torch.float32):
            posterior = network.encode(x).latent_dist
            found = network.decode(posterior.sample(random)).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return detail_loss(found.float(), x, o.details) + o.kl * kl, len(x)

    def measure() -> tuple[dict[str, float], Any]:
        with torch.inference_mode():
            found = torch.cat([averaged.decode(averaged.encode(x).latent_dist.mode()).sample for x in views.split(8)])
        picture = sheet(torch.cat([views[:SHOWN], found[:SHOWN].clamp(-1, 1)]), SHOWN)
        return {"psnr": psnr(found, views)}, picture

    parameters = sum(parameter.numel() for parameter in network.parameters())
    click.echo(f"{parameters} parameters, from image {run.images} on")
    train(run, o.out, loss_of, measure)
    mean, deviation = latent_statistics(averaged, batches, o.size)
    averaged.register_to_config(scaling_factor=1.0, latents_mean=mean, latents_std=deviation)
    write_model(averaged, o.out)


def detail_loss(found: "Tensor", wanted: "Tensor", details: float) -> "Tensor":
    """Mean absolute error of pictures [B, 3, H, W], plus `details` times that of the strength of details.

    The strength is the mean size of the differences between neighbours in a square of WINDOW pixels, at DETAIL_SCALES
    scales. Where details cannot be stored, the mean absolute error alone is least for none: a blurred picture.
    """
    from torch.nn.functional import avg_pool2d

    total = (found - wanted).abs().mean()
    for _ in range(DETAIL_SCALES if details else 0):
        for axis in (2, 3):
            strengths = [avg_pool2d(each.diff(dim=axis).abs(), WINDOW, WINDOW // 2) for each in (found, wanted)]
            total = total + details * (strengths[0] - strengths[1]).abs().mean()
        found, wanted = avg_pool2d(found, 2), avg_pool2d(wanted, 2)
    return total


def psnr(found: "Tensor", wanted: "Tensor") -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], over all of them together."""
    error = float((found.clamp(-1, 1) - wanted).square().mean())
    return 10 * math.log10(4 / max(error, 1e-10))


def latent_statistics(network: Any, batches: Any, size: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of the latents of crops: bundles store them normalised."""
    import torch

    with torch.inference_mode():
        latents = [network.encode(batches.cut(number, 16, size)).latent_dist.mode() for number in MEASURED]
    channels = torch.cat(latents).transpose(0, 1).flatten(1).double()
    return channels.mean(1).tolist(), channels.std(1).tolist()


def main() -> None:
    """Run the command as this process."""
    run_command(command, "autoencoder")
