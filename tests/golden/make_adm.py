"""Compare sdedit_ref/networks/adm.py with the original code, and write adm.npz beside this script:

    python tests/golden/make_adm.py GUIDED_DIFFUSION IMPROVED_DIFFUSION

where both are checkouts of github.com/openai/guided-diffusion and .../improved-diffusion. adm.npz holds

outputs   every fifth value of what each small random network of the original returns
keys      the digests of these networks' and then the released networks' keys and shapes
answers   what the released networks are by their flags, as JSON
alphas    the originals' alpha^2 at five levels
edit      x after an edit by improved-diffusion's own ddim_sample, see `edit`

in the order of `small`, FLAGS and PROCESSES.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdedit.kernels.step_c import normal_c
from sdedit_ref.checkpoints.adm import PRESETS, training_schedule
from sdedit_ref.networks.adm import ADM, ADMConfig

FILE = Path(__file__).parent / "adm.npz"
STRIDE = 5
TIME, LABEL, SEED = 437.5, 3, 7
EDITED = "improved-7"
"""Four heads, five classes, learned variance."""

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


GUIDED = (
    "--diffusion_steps 1000 --learn_sigma True --num_res_blocks 2 --resblock_updown True --use_scale_shift_norm True "
)
GUIDED += "--attention_resolutions 32,16,8 --num_channels 256 --noise_schedule linear "
IMPROVED = "--diffusion_steps 4000 --noise_schedule cosine --learn_sigma True --num_res_blocks 3 --num_channels 128 "
FLAGS = {
    "64x64_diffusion": GUIDED + "--class_cond True --image_size 64 --noise_schedule cosine --num_channels 192 "
    "--num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True",
    "128x128_diffusion": GUIDED + "--class_cond True --image_size 128 --num_heads 4",
    "256x256_diffusion": GUIDED + "--class_cond True --image_size 256 --num_head_channels 64",
    "256x256_diffusion_uncond": GUIDED + "--class_cond False --image_size 256 --num_head_channels 64",
    "lsun_bedroom": GUIDED + "--class_cond False --image_size 256 --num_head_channels 64",
    "lsun_cat": GUIDED + "--class_cond False --image_size 256 --num_head_channels 64",
    "lsun_horse": GUIDED + "--class_cond False --image_size 256 --num_head_channels 64",
    "512x512_diffusion": GUIDED + "--class_cond True --image_size 512 --num_head_channels 64",
    "imagenet64_uncond_100M": IMPROVED + "--image_size 64",
    "imagenet64_cond_270M": IMPROVED + "--image_size 64 --num_channels 192 --class_cond True --rescale_timesteps False",
    "cifar10_uncond_50M": IMPROVED + "--image_size 32",
    "lsun_uncond_100M": IMPROVED + "--image_size 256 --num_res_blocks 2 --num_heads 1 --use_scale_shift_norm False "
    "--attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear --rescale_timesteps False",
}
"""MODEL_FLAGS and DIFFUSION_FLAGS of the two READMEs, by preset; of a flag given twice the last counts."""

PROCESSES = tuple(itertools.product(("linear", "cosine"), (1000, 4000)))


def random_state(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """The same weights wherever keys and shapes are the same; none is zero, as the sources' initial weights are."""
    state = {}
    for key, size in shapes.items():
        shape = tuple(size)
        z = torch.from_numpy(normal_c(zlib.crc32(key.encode()), 0, 0, 0, 0, int(np.prod(shape)))).reshape(shape)
        is_norm = len(shape) == 1 and key.endswith("weight")
        state[key] = 1 + z / 10 if is_norm else z / max(1, int(np.prod(shape[1:]))) ** 0.5
    return state


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def shapes_on_paper(config: ADMConfig) -> dict[str, tuple[int, ...]]:
    """The state dict of this config's network, which takes no memory."""
    with torch.device("meta"):
        return shapes_of(ADM(config))


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Digest of all keys and shapes, in the file's order, which is the source's."""
    return hashlib.sha256(repr(list(shapes.items())).encode()).hexdigest()


def inputs(config: ADMConfig) -> tuple[Tensor, ...]:
    """x [2, C, 8, 8], time [2] and, where there are classes, label [2]."""
    shape = (2, config.channels, config.size, config.size)
    x = torch.from_numpy(normal_c(1, 0, 0, 0, 0, int(np.prod(shape)))).reshape(shape)
    time = torch.tensor([0.0, TIME])
    return (x, time, torch.tensor([0, LABEL])) if config.classes else (x, time)


def run(network: nn.Module, config: ADMConfig) -> np.ndarray:
    """The first `channels` channels of the network's output, with the weights of `random_state`."""
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


def guide() -> np.ndarray:
    """float32 [3, 8, 8] of bytes"""
    return np.random.RandomState(0).randint(0, 256, (3, 8, 8)).astype(np.float32) / np.float32(127.5) - 1


def edit() -> np.ndarray:
    """EDITED's edit of `guide` from half way of 4000 rescaled steps, five steps of DDIM with the original's code."""
    respace = importlib.import_module("improved_diffusion.respace")
    diffusion = importlib.import_module("improved_diffusion.gaussian_diffusion")
    process = respace.SpacedDiffusion(
        use_timesteps=[399, 799, 1199, 1599, 1999],
        betas=diffusion.get_named_beta_schedule("linear", 4000),
        model_mean_type=diffusion.ModelMeanType.EPSILON,
        model_var_type=diffusion.ModelVarType.LEARNED_RANGE,
        loss_type=diffusion.LossType.MSE,
        rescale_timesteps=True,
    )
    config = small()[EDITED]
    network = original("improved_diffusion", config).eval()
    network.load_state_dict(random_state(shapes_of(network)))
    noise = torch.from_numpy(normal_c(SEED, 0, 0, 0, 0, 192)).reshape(1, 3, 8, 8)
    with torch.no_grad():
        x = process.q_sample(torch.from_numpy(guide())[None], torch.tensor([4]), noise)
        for step in reversed(range(5)):
            labels = {"y": torch.tensor([LABEL])}
            x = process.ddim_sample(network, x, torch.tensor([step]), model_kwargs=labels)["sample"]
    return x[0].numpy()


def released(package: str, flags: str) -> tuple[nn.Module, dict[str, str]]:
    """The network that the source's scripts build from these flags, without memory, and the answers that flags give."""
    scripts = importlib.import_module(f"{package}.script_util")
    parser = argparse.ArgumentParser()
    scripts.add_dict_to_argparser(parser, scripts.model_and_diffusion_defaults())
    options = vars(parser.parse_args(flags.split()))
    with torch.device("meta"):
        network = scripts.create_model_and_diffusion(**options)[0]
    channels = options.get("num_head_channels", -1)
    return network, {
        "attention_order": "new" if options.get("use_new_attention_order") else "legacy",
        **({"heads": str(options["num_heads"])} if channels == -1 else {"head_channels": str(channels)}),
        "schedule": options["noise_schedule"],
        "steps": str(options["diffusion_steps"]),
        "rescale_timesteps": "yes" if options["rescale_timesteps"] else "no",
        "size": str(options["image_size"]),
    }


def alphas(schedule: np.ndarray) -> np.ndarray:
    """alpha^2 at five of all levels, the cleanest and the noisiest among them."""
    return schedule[np.linspace(0, len(schedule) - 1, 5).astype(int)]


def compare_processes() -> np.ndarray:
    """The originals' alpha^2, as kept; float64 [4, 5]"""
    kept = []
    for name, steps in PROCESSES:
        betas = [
            importlib.import_module(f"{package}.gaussian_diffusion").get_named_beta_schedule(name, steps)
            for package in ("guided_diffusion", "improved_diffusion")
        ]
        assert np.array_equal(*betas)
        squared = np.cumprod(1 - betas[0])
        ours = training_schedule(name, steps, False)[:, 0] ** 2
        print(f"{name} {steps}: relative difference of alpha^2 {np.abs(ours / squared - 1).max():.1e}")
        kept.append(alphas(squared))
    return np.stack(kept)


def compare_networks() -> tuple[np.ndarray, list[str]]:
    """The originals' outputs, as kept, and their digests."""
    outputs, keys, errors = [], [], []
    for name, config in small().items():
        network = original(f"{name.split('-')[0]}_diffusion", config)
        out = run(network, config)
        errors.append(float(np.abs(run(ADM(config), config) - out).max() / np.abs(out).max()))
        outputs.append(out.ravel()[::STRIDE])
        keys.append(digest(shapes_of(network)))
        print(f"{name}: relative difference {errors[-1]:.1e} of outputs up to {np.abs(out).max():.1f}")
    print(f"{len(errors)} networks, largest relative difference {max(errors):.1e}")
    return np.stack(outputs), keys


def main(guided_path: str, improved_path: str) -> None:
    sys.path[:0] = [guided_path, improved_path]
    processes = compare_processes()
    outputs, keys = compare_networks()
    answers = []
    for name, flags in FLAGS.items():
        network, said = released("guided_diffusion" if flags.startswith(GUIDED) else "improved_diffusion", flags)
        keys.append(digest(shapes_of(network)))
        answers.append(said)
        same = keys[-1] == digest(shapes_on_paper(PRESETS[name].config)) and said == PRESETS[name].answers()
        print(f"{name}: keys, shapes and flags {'are the same' if same else 'DIFFER'}")
    digests = np.array(keys, dtype="S64")
    said_by_flags = np.array(json.dumps(answers).encode())
    np.savez_compressed(FILE, outputs=outputs, keys=digests, answers=said_by_flags, alphas=processes, edit=edit())


if __name__ == "__main__":
    main(*sys.argv[1:])
