"""Train a score network on an autoencoder's latents: `python -m sdedit_ref.training.latents --help`.

The networks are diffusers' own: a UNet2DModel without labels or text, which predicts v (Salimans & Ho 2022).
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit_ref.training.latents")
    raise SystemExit

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdedit.console import run_command
from sdedit.errors import CheckpointError, ImageError

from .crops import HELD_OUT, parse_numbers
from .timed_options import COUNT, check_packages, crops_of, option, pace_of, timed_options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .batches import Batches

AT_ONCE = 32
"""Pictures that the autoencoder takes at once."""

GROUPS = 16
"""Groups of each norm: widths are multiples of it."""

SAMPLES = 16


@click.command(
    epilog="Example: python -m sdedit_ref.training.latents photos/ --autoencoder ae --out run, then sdedit export run"
)
@timed_options
@click.option(
    "--autoencoder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of an AutoencoderKL, such as OUT of sdedit_ref.training.autoencoder.",
)
@option(
    "--sizes", default="256,192", help="Sides of crops, in pixels. Batches take turns; the first is the native size."
)
@option("--widths", default="96,128,160", help="Channels of each level; each level but the first halves the sides.")
@option("--blocks", type=COUNT, default=2, help="Residual blocks per level.")
@option("--attention", default="1,2", help="Levels with self-attention, 0 = finest.")
@option("--crops", type=COUNT, default=4096, help="Crops of each size whose latents are made before training.")
def command(**options: Any) -> None:
    """Train a score network on the latents of crops of PICTURES, a folder of images or one large image.

    OUT becomes a diffusers folder with unet, vae and scheduler, which `sdedit export` takes. OUT/log.jsonl has the
    held-out loss, and OUT/samples.png shows samples from pure noise.
    """
    o = argparse.Namespace(**options)
    widths, attention, sizes = (parse_numbers(text) for text in (o.widths, o.attention, o.sizes))
    if not widths or any(width < 1 or width % GROUPS for width in widths):
        raise CheckpointError(f"widths {o.widths!r} is not a list of multiples of {GROUPS}, like 96,128,160")
    if not set(attention) <= set(range(len(widths))):
        raise CheckpointError(f"attention {o.attention!r} has a level outside 0..{len(widths) - 1}")
    if not sizes or min(sizes) < 1:
        raise ImageError(f"sizes {o.sizes!r} is not a list of numbers from 1 on, like 256,192")
    check_packages()
    run_training(o, widths, attention, sizes)


def run_training(
    o: argparse.Namespace, widths: tuple[int, ...], attention: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    """Begin the run, or go on with it, train until its end, and write the folder."""
    import torch

    from ..checkpoints.latent import digest
    from ..networks.latent import LatentDecoder, LatentEncoder
    from ..networks.unet2d import CanonicalUNet2D
    from ..sde import cosine
    from .batches import Batches
    from .diffusers_folders import write_model, write_scheduler
    from .quality import denoising_error, held_out_loss, sample, sheet
    from .run import make_folder
    from .timed import new_run, resume, train

    vae = load_autoencoder(o.autoencoder)
    channels, factor = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
    check_sizes(sizes, factor, len(widths))
    crops, held_out = crops_of(o, max(sizes))
    torch.manual_seed(o.seed)
    network = CanonicalUNet2D(make_unet(channels, sizes[0] // factor, widths, o.blocks, attention), channels, False)
    metadata = {name: str(getattr(o, name)) for name in ("widths", "blocks", "attention", "sizes")}
    metadata["autoencoder"] = digest([o.autoencoder])
    run = new_run(network, o.device, pace_of(o), metadata)
    for name in ("unet", "vae"):
        make_folder(o.out / name)
    resume(run, o.out)
    precision = getattr(torch, o.precision)
    encoder, decoder = (half(vae).to(o.device).eval() for half in (LatentEncoder, LatentDecoder))
    batches = Batches(crops, o.device)
    pools = [encode_crops(encoder, batches, number, o.crops, size) for number, size in enumerate(sizes)]
    views = encode_crops(encoder, Batches(held_out, o.device), 0, HELD_OUT, sizes[0]).float()
    schedule = torch.from_numpy(cosine(1000)).float().to(o.device)
    random = torch.Generator(o.device)

    def loss_of(step: int) -> tuple["Tensor", int]:
        random.manual_seed(o.seed << 32 | step)
        pool = pools[step % len(pools)]
        chosen = torch.randint(len(pool), (o.batch,), generator=random, device=o.device)
        x0 = pool[chosen].float().contiguous(memory_format=torch.channels_last)
        even = torch.arange(o.batch, device=o.device) / o.batch  # levels spread evenly: less variance
        u = (torch.rand((), generator=random, device=o.device) + even) % 1
        k = ((u * len(schedule)).long() + 1).clamp(max=len(schedule))
        z = torch.randn(x0.shape, generator=random, device=o.device)
        return denoising_error(run.network, "v", schedule, x0, k, z, precision).mean(), o.batch

    def measure() -> tuple[dict[str, float], Any]:
        latents = sample(run.ema, "v", schedule, (SAMPLES, *views.shape[1:]), clip=math.inf)
        with torch.inference_mode():
            pictures = torch.cat([decoder(part) for part in latents.split(AT_ONCE)])
        return {"held_out": held_out_loss(run.ema, "v", schedule, views)}, sheet(pictures, 4)

    parameters = sum(parameter.numel() for parameter in network.parameters())
    click.echo(f"{parameters} parameters, from image {run.images} on")
    train(run, o.out, loss_of, measure)
    averaged: Any = run.ema
    write_model(averaged.unet, o.out / "unet")
    write_model(vae, o.out / "vae")
    write_scheduler(o.out / "scheduler")


def load_autoencoder(folder: Path) -> Any:
    """The AutoencoderKL of the folder, in float32. Raises CheckpointError."""
    from ..checkpoints.latent import load_part

    if not folder.is_dir():
        raise CheckpointError(f"autoencoder {folder} is no folder")
    return load_part(folder, ("AutoencoderKL",)).requires_grad_(False)


def check_sizes(sizes: tuple[int, ...], factor: int, levels: int) -> None:
    """Raise ImageError for a crop that is no multiple of what a network of `levels` takes."""
    multiple = factor * 2 ** (levels - 1)
    for size in sizes:
        if size % multiple:
            raise ImageError(f"size {size} is not a multiple of {multiple}")


def make_unet(
    channels: int, side: int, widths: tuple[int, ...], blocks: int, attention: tuple[int, ...]
) -> "nn.Module":
    """An untrained network of latents [channels, side, side]."""
    from diffusers import UNet2DModel

    kinds = ["Attn" if level in attention else "" for level in range(len(widths))]
    network: Any = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=GROUPS,
        norm_num_groups=GROUPS,
        add_attention=bool(attention),
    )
    return network


def encode_crops(encoder: "nn.Module", batches: "Batches", number: int, count: int, size: int) -> "Tensor":
    """Latents of crops of `size` pixels, float16 [count, C, h, w]: half precision is far finer than a trained decoder.

    number: which crops. They are made once, since the encoder costs as much as a step of training.
    """
    import torch

    parts = []
    with torch.inference_mode():
        for first in range(0, count, AT_ONCE):
            crops = batches.cut(number << 32 | first, min(AT_ONCE, count - first), size)
            parts.append(encoder(crops).half())
    return torch.cat(parts)


def main() -> None:
    """Run the command as this process."""
    run_command(command, "latents")
