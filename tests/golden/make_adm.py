"""Compare sdedit_ref/networks/adm.py with the code it is of, and write adm.npz beside this script:

    python tests/golden/make_adm.py GUIDED_DIFFUSION IMPROVED_DIFFUSION

where both are checkouts of github.com/openai/guided-diffusion and .../improved-diffusion. adm.npz holds: outputs, every
third value of what each small random network of the original returns; keys, the digests of these networks' and then the
released networks' keys and shapes. The order is that of `small` and `RELEASED`.
"""

import argparse
import hashlib
import importlib
import itertools
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdedit.kernels.noise import normal_numpy
from sdedit_ref.networks.adm import ADM, ADMConfig

FILE = Path(__file__).parent / "adm.npz"
THIRD = 3
TIME, LABEL = 437.5, 3

SHAPES: tuple[dict[str, Any], ...] = (
    {"width_multiples": (1, 2), "blocks": 1, "attention": (1,)},
    {"width_multiples": (0.5, 1, 2), "blocks": 1, "attention": (1, 2), "width": 64},
    {"width_multiples": (1, 1, 2), "blocks": 2, "attention": (2,)},
)
HEADS: tuple[dict[str, Any], ...] = ({"heads": 1}, {"heads": 4}, {"head_channels": 16})


def guided() -> dict[str, ADMConfig]:
    """Small networks that guided-diffusion's UNetModel can be; 8 x 8 pixels."""
    base = {"size": 8, "width": 32}
    configs = {}
    flags = itertools.product(range(3), range(3), ("legacy", "new"), (False, True), (False, True))
    for index, (shape, heads, order, scale_shift, blocks) in enumerate(flags):
        if index % 2 == (shape + heads) % 2:  # half of all combinations, each pair of choices among them
            options = {"attention_order": order, "scale_shift_norm": scale_shift, "resampling_blocks": blocks}
            rest = {"learned_variance": index % 5 < 2, "classes": 5 * (index % 3 == 1)}
            configs[f"guided-{index}"] = ADMConfig(**{**base, **SHAPES[shape], **HEADS[heads], **options, **rest})
    return configs


def improved() -> dict[str, ADMConfig]:
    """Small networks that improved-diffusion's UNetModel can be."""
    base = {"size": 8, "width": 32, "resampling_blocks": False}
    flags = itertools.product((0, 2), (1, 4), (False, True), (0, 5))
    return {
        f"improved-{index}": ADMConfig(
            **{**base, **SHAPES[shape]},
            heads=heads,
            scale_shift_norm=scale_shift,
            classes=classes,
            learned_variance=True,
        )
        for index, (shape, heads, scale_shift, classes) in enumerate(flags)
    }


def small() -> dict[str, ADMConfig]:
    return guided() | improved()


IMAGENET = {"head_channels": 64, "classes": 1000}
PLAIN = {"resampling_blocks": False, "heads": 4}
RELEASED = {
    "guided-64x64_diffusion": ADMConfig(
        size=64,
        width=192,
        width_multiples=(1, 2, 3, 4),
        blocks=3,
        attention=(1, 2, 3),
        attention_order="new",
        **IMAGENET,
    ),
    "guided-128x128_diffusion": ADMConfig(
        size=128, width_multiples=(1, 1, 2, 3, 4), attention=(2, 3, 4), heads=4, classes=1000
    ),
    "guided-256x256_diffusion": ADMConfig(**IMAGENET),
    "guided-256x256_diffusion_uncond": ADMConfig(head_channels=64),
    "guided-512x512_diffusion": ADMConfig(
        size=512, width_multiples=(0.5, 1, 1, 2, 2, 4, 4), attention=(4, 5, 6), **IMAGENET
    ),
    "improved-imagenet64_uncond": ADMConfig(
        size=64, width=128, width_multiples=(1, 2, 3, 4), blocks=3, attention=(2, 3), **PLAIN
    ),
    "improved-imagenet64_cond": ADMConfig(
        size=64, width=192, width_multiples=(1, 2, 3, 4), blocks=3, attention=(2, 3), classes=1000, **PLAIN
    ),
    "improved-cifar10_uncond": ADMConfig(
        size=32, width=128, width_multiples=(1, 2, 2, 2), blocks=3, attention=(1, 2), **PLAIN
    ),
    "improved-lsun_uncond": ADMConfig(
        size=256, width=128, attention=(4,), heads=1, scale_shift_norm=False, resampling_blocks=False
    ),
}
FLAGS = {
    "guided-64x64_diffusion": "--attention_resolutions 32,16,8 --class_cond True --image_size 64 --learn_sigma True "
    "--num_channels 192 --num_head_channels 64 --num_res_blocks 3 --resblock_updown True "
    "--use_new_attention_order True --use_scale_shift_norm True",
    "guided-128x128_diffusion": "--attention_resolutions 32,16,8 --class_cond True --image_size 128 --learn_sigma True "
    "--num_channels 256 --num_heads 4 --num_res_blocks 2 --resblock_updown True --use_scale_shift_norm True",
    "guided-256x256_diffusion": "--attention_resolutions 32,16,8 --class_cond True --image_size 256 --learn_sigma True "
    "--num_channels 256 --num_head_channels 64 --num_res_blocks 2 --resblock_updown True --use_scale_shift_norm True",
    "guided-256x256_diffusion_uncond": "--attention_resolutions 32,16,8 --class_cond False --image_size 256 "
    "--learn_sigma True --num_channels 256 --num_head_channels 64 --num_res_blocks 2 --resblock_updown True "
    "--use_scale_shift_norm True",
    "guided-512x512_diffusion": "--attention_resolutions 32,16,8 --class_cond True --image_size 512 --learn_sigma True "
    "--num_channels 256 --num_head_channels 64 --num_res_blocks 2 --resblock_updown True --use_scale_shift_norm True",
    "improved-imagenet64_uncond": "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True",
    "improved-imagenet64_cond": "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True "
    "--class_cond True",
    "improved-cifar10_uncond": "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True",
    "improved-lsun_uncond": "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True "
    "--use_scale_shift_norm False --attention_resolutions 16",
}
"""MODEL_FLAGS of the two READMEs, precision left out."""


def random_state(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """The same weights wherever keys and shapes are the same; none is zero, as the sources' initial weights are."""
    state = {}
    for key, size in shapes.items():
        shape = tuple(size)
        z = torch.from_numpy(normal_numpy(zlib.crc32(key.encode()), 0, 0, 0, 0, int(np.prod(shape)))).reshape(shape)
        is_norm = len(shape) == 1 and key.endswith("weight")
        state[key] = 1 + z / 10 if is_norm else z / max(1, int(np.prod(shape[1:]))) ** 0.5
    return state


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def shapes_on_paper(config: ADMConfig) -> dict[str, tuple[int, ...]]:
    """Of the network of this config, which takes no memory."""
    with torch.device("meta"):
        return shapes_of(ADM(config))


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of all keys and shapes, in the file's order, which is the source's."""
    return hashlib.sha256(repr(list(shapes.items())).encode()).hexdigest()


def inputs(config: ADMConfig) -> tuple[Tensor, ...]:
    """x [2, C, 8, 8], time [2] and, where there are classes, label [2]."""
    shape = (2, config.channels, config.size, config.size)
    x = torch.from_numpy(normal_numpy(1, 0, 0, 0, 0, int(np.prod(shape)))).reshape(shape)
    time = torch.tensor([0.0, TIME])
    return (x, time, torch.tensor([0, LABEL])) if config.classes else (x, time)


def run(network: nn.Module, config: ADMConfig) -> np.ndarray:
    """The first `channels` of what the network returns, with the weights of `random_state`."""
    network.load_state_dict(random_state(shapes_of(network)))
    with torch.no_grad():
        return network.eval()(*inputs(config))[:, : config.channels].numpy()


def original(package: str, config: ADMConfig) -> nn.Module:
    """The source's own network of this config."""
    options: dict[str, Any] = {
        "in_channels": config.channels,
        "model_channels": config.width,
        "out_channels": config.channels * (2 if config.learned_variance else 1),
        "num_res_blocks": config.blocks,
        "attention_resolutions": [2**level for level in config.attention],
        "channel_mult": config.width_multiples,
        "num_classes": config.classes or None,
        "num_heads": config.heads,
        "use_scale_shift_norm": config.scale_shift_norm,
    }
    if package == "guided_diffusion":
        options["image_size"] = config.size
        options["num_head_channels"] = config.head_channels or -1
        options["resblock_updown"] = config.resampling_blocks
        options["use_new_attention_order"] = config.attention_order == "new"
    return importlib.import_module(f"{package}.unet").UNetModel(**options)


def released(package: str, flags: str) -> nn.Module:
    """What the source's scripts build from these flags, without memory for its weights."""
    scripts = importlib.import_module(f"{package}.script_util")
    parser = argparse.ArgumentParser()
    scripts.add_dict_to_argparser(parser, scripts.model_and_diffusion_defaults())
    with torch.device("meta"):
        return scripts.create_model_and_diffusion(**vars(parser.parse_args(flags.split())))[0]


def main(guided_path: str, improved_path: str) -> None:
    sys.path[:0] = [guided_path, improved_path]
    outputs, keys, errors = [], [], []
    for name, config in small().items():
        network = original(f"{name.split('-')[0]}_diffusion", config)
        out = run(network, config)
        errors.append(float(np.abs(run(ADM(config), config) - out).max() / np.abs(out).max()))
        outputs.append(out.ravel()[::THIRD])
        keys.append(digest(shapes_of(network)))
        print(f"{name}: relative difference {errors[-1]:.1e} of outputs up to {np.abs(out).max():.1f}")
    for name, config in RELEASED.items():
        keys.append(digest(shapes_of(released(f"{name.split('-')[0]}_diffusion", FLAGS[name]))))
        print(f"{name}: keys and shapes {'are the same' if keys[-1] == digest(shapes_on_paper(config)) else 'DIFFER'}")
    print(f"{len(errors)} networks, largest relative difference {max(errors):.1e}")
    np.savez_compressed(FILE, outputs=np.stack(outputs), keys=np.array(keys, dtype="S64"))


if __name__ == "__main__":
    main(*sys.argv[1:])
