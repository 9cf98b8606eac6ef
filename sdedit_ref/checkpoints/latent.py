"""Folders of diffusers' text-to-image pipelines: Stable Diffusion 1 and 2, SDXL, and their kin.

The diffusers and transformers packages build the networks and read their weights, without a network connection;
safetensors come first, and a pickle is read as tensors alone.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sdedit.errors import CheckpointError, install_hint, raise_interrupt, reason

from ..networks.latent import ConditionedUNet, LatentDecoder, LatentEncoder, TextEncoders
from . import single_file
from .checkpoint import Checkpoint, LatentParts, TextParts
from .diffusers import PREDICTIONS, SCHEDULER_CONFIGS, diffusers_class, read_config, shown, with_defaults
from .questions import GivenAnswers, Question, ask
from .schedulers import OTHERS, SAMPLERS, map_scheduler
from .single_file import Networks
from .tokenizers import read_tokenizer

NAME = "diffusers latent text-to-image"

INDEX = "model_index.json"

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
)
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a pipeline that an edit does not need."""

REFUSED = {
    "controlnet": "a ControlNet",
    "text_encoder_3": "a T5 text encoder",
    "transformer": "a transformer in place of a U-Net",
    "prior": "a prior",
    "unet_lora": "a LoRA",
}
"""Parts whose pipelines are not taken, and their names."""

LORA = "pytorch_lora_weights.safetensors"
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
TEXT_MODELS = ("CLIPTextModel", "CLIPTextModelWithProjection")

GUIDANCE = {"free": 7.5, "embedded": 7.5, "none": 1.0}
SUGGESTED_STEPS = 20

FEW_STEPS = 4
"""Suggested for consistency models."""


def is_pipeline(folder: Path) -> bool:
    """Whether the folder is a pipeline with an autoencoder."""
    try:
        return (folder / INDEX).is_file() and (folder / "unet").is_dir() and (folder / "vae").is_dir()
    except OSError:  # a name that is too long
        return False


def load(path: Path, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. path: a pipeline's folder, or its single file.

    The folder states all answers but for `vae`, another folder, and `distilled`. For a single file `like` is a folder
    that has what the file lacks.
    """
    given = dict(given)
    other, distilled, like = (given.pop(name, None) for name in ("vae", "distilled", "like"))
    folder = configs_of(path, like)
    index = read_index(folder)
    scheduler_path, config = read_config(folder, SCHEDULER_CONFIGS, (*SAMPLERS, *OTHERS))
    mapped = map_scheduler(scheduler_path, with_defaults(scheduler_path, config))
    vae_folder = None if other is None else Path(str(other))
    networks = load_networks(path, folder, index, vae_folder)
    unet, vae = networks.unet, networks.vae
    check_parts(path, unet, vae)
    text = load_text(folder, index, networks, distilled == "yes")
    question = Question("prediction", PREDICTIONS, mapped.prediction)
    answers = ask(path, f"a {NAME} model", given, question)
    options: Any = unet.config
    levels = 2 ** (len(options.block_out_channels) - 1)
    side = max(round((options.sample_size or 64) / levels), 1) * levels
    network = ConditionedUNet(unet)
    channels = vae.config.latent_channels
    return Checkpoint(
        path.resolve(),
        sha256=digest([*dict.fromkeys((path, folder)), vae_folder or folder / "vae"]),
        family=f"{NAME} of {config['_class_name']}",
        network=network.eval().requires_grad_(False),
        prediction=answers["prediction"],
        schedule_name=mapped.schedule_name,
        schedule=mapped.schedule,
        shape=(channels, side, side),
        multiple_of=levels,
        weights="EMA" if networks.averaged else "as saved",
        answers=answers,
        notes=(*mapped.notes, *left_out(folder, index)),
        inputs=inputs_of(unet, text.length, side),
        latent=parts_around(vae, text, suggested_options(mapped.sampler, text.guidance)),
    )


def parts_around(vae: Any, text: TextParts | None, suggested: Mapping[str, Any]) -> LatentParts:
    """The parts around a latent network with that autoencoder."""
    widths = vae.config.decoder_block_out_channels if is_tiny(vae) else vae.config.block_out_channels
    encoder, decoder = (half(vae).eval().requires_grad_(False) for half in (LatentEncoder, LatentDecoder))
    return LatentParts(encoder, decoder, 2 ** (len(widths) - 1), text, suggested)


def configs_of(path: Path, like: object) -> Path:
    """The folder of a pipeline's configurations and tokenizers. Raises CheckpointError."""
    if path.is_dir():
        if like is not None:
            raise CheckpointError(f"{path}: --like goes with a single file; a folder has its own configurations")
        return path
    if like is None:
        raise CheckpointError(
            f"{path} is a single file without configurations and tokenizer: "
            "add --like FOLDER, a diffusers folder of the same kind, which needs no weights"
        )
    folder = Path(str(like))
    if not is_pipeline(folder):
        raise CheckpointError(f"{folder} is no diffusers folder of a pipeline with an autoencoder")
    return folder


def load_networks(path: Path, folder: Path, index: Mapping[str, Any], vae_folder: Path | None) -> Networks:
    """The networks of a folder or of a single file; vae_folder: of another autoencoder. Raises CheckpointError."""
    suffixes = text_suffixes(index)
    if path != folder:

        def translate(file: str, **options: Any) -> Any:
            kind = diffusers_class(path, index["_class_name"])
            return from_library(path, lambda **more: kind.from_single_file(file, **options, **more))

        networks = single_file.load_networks(path, folder, translate, len(suffixes))
        return networks if vae_folder is None else replace(networks, vae=load_part(vae_folder, AUTOENCODERS))
    return Networks(
        load_part(folder / "unet", ("UNet2DConditionModel",)),
        load_part(vae_folder or folder / "vae", AUTOENCODERS),
        [load_text_model(folder / f"text_encoder{suffix}") for suffix in suffixes],
    )


def text_suffixes(index: Mapping[str, Any]) -> list[str]:
    """Ends of the names of the text encoders that the pipeline has."""
    return [suffix for suffix in ("", "_2") if present(index, f"text_encoder{suffix}")]


def suggested_options(sampler: str, guidance: str) -> dict[str, Any]:
    """Defaults of an edit. guidance: how the network takes it."""
    few = sampler == "lcm"
    return {
        "sampler": sampler,
        "steps": FEW_STEPS if few else SUGGESTED_STEPS,
        "guidance": 1.0 if few and guidance == "free" else GUIDANCE[guidance],
        "t0": 0.6,
    }


def read_index(folder: Path) -> Mapping[str, Any]:
    """The pipeline's list of its parts. Raises CheckpointError for a pipeline that is not taken."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {reason(error) if isinstance(error, OSError) else 'no JSON'}"
        ) from None
    if not isinstance(index, dict):
        raise CheckpointError(f"{path} is no JSON object")
    for part, what in REFUSED.items():
        if present(index, part) or (folder / part).is_dir():
            raise CheckpointError(f"{folder} has {what} ({part}), which is not taken")
    if (folder / LORA).is_file():
        raise CheckpointError(f"{folder} has a LoRA that is not fused ({LORA}): fuse it with diffusers and save again")
    if index.get("_class_name") not in PIPELINES:
        raise CheckpointError(
            f"{path}: _class_name {shown(index.get('_class_name'))} is not one of {', '.join(PIPELINES)}"
        )
    if not present(index, "text_encoder"):
        raise CheckpointError(f"{folder} has no first text encoder: a refiner is not taken")
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2"):
        if part.endswith("_2") and not present(index, part):
            continue
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder} has no {part}: a folder of a whole pipeline is accepted")
    return index


def present(index: Mapping[str, Any], part: str) -> bool:
    """Whether the pipeline has that part; absent ones are [null, null]."""
    return isinstance(index.get(part), list) and index[part][:1] != [None]


def left_out(folder: Path, index: Mapping[str, Any]) -> list[str]:
    """Notes on the parts that a bundle does not have."""
    return [f"{part} is left out" for part in LEFT_OUT if present(index, part) and (folder / part).is_dir()]


def load_part(folder: Path, classes: tuple[str, ...]) -> Any:
    """A network of the folder, with its weights in float32. Raises CheckpointError."""
    path, config = read_config(folder, ("config.json",), classes)
    kind = diffusers_class(path, config["_class_name"])
    return from_folder(folder, kind.from_pretrained)


def from_folder(folder: Path, load: Callable[..., Any]) -> Any:
    """Load a network by its library, quietly and from the disk alone. Raises CheckpointError."""
    names = [file.name for file in folder.iterdir()]
    whole = any(".fp16." not in name and name.endswith((".safetensors", ".bin")) for name in names)
    variant = {} if whole else {"variant": "fp16"}
    return from_library(folder, lambda **options: load(str(folder), **variant, **options).eval())


def from_library(path: Path, load: Callable[..., Any]) -> Any:
    """Call a loader of diffusers or transformers: in float32, quietly, from the disk alone. Raises CheckpointError."""
    import torch

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load(local_files_only=True, torch_dtype=torch.float32)
    except Exception as error:  # these libraries raise a dozen types
        raise_interrupt(error)
        raise CheckpointError(f"{path} cannot be loaded: {reason(error)}") from None
    finally:
        logging.disable(before)


def check_parts(folder: Path, unet: Any, vae: Any) -> None:
    """Raise CheckpointError unless U-Net and autoencoder fit each other, and the U-Net takes only text and pictures."""
    latent = vae.config.latent_channels
    if unet.config.out_channels != latent:
        raise CheckpointError(
            f"{folder}: the U-Net makes {unet.config.out_channels} channels, the autoencoder has {latent}"
        )
    if unet.config.in_channels not in (latent, 2 * latent + 1):
        raise CheckpointError(
            f"{folder}: the U-Net takes {unet.config.in_channels} channels, "
            f"not {latent}, or {2 * latent + 1} for inpainting"
        )
    if unet.config.encoder_hid_dim_type is not None or unet.config.class_embed_type is not None:
        raise CheckpointError(f"{folder}: its U-Net takes an image or a class (an IP-Adapter, an upscaler): not taken")
    if unet.config.addition_embed_type not in (None, "text_time"):
        raise CheckpointError(
            f"{folder}: addition_embed_type {shown(unet.config.addition_embed_type)} is not text_time"
        )


def inputs_of(unet: Any, length: int, side: int) -> dict[str, tuple[int, ...]]:
    """The U-Net's inputs besides x and time, by name: shapes without the batch. side: of its latents."""
    config = unet.config
    width = config.cross_attention_dim
    inputs: dict[str, tuple[int, ...]] = {"context": (length, width if isinstance(width, int) else width[0])}
    if config.addition_embed_type == "text_time":
        inputs["pooled"] = (config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim,)
        inputs["size"] = (6,)
    if config.in_channels > config.out_channels:
        inputs["known"] = (config.in_channels - config.out_channels, side, side)
    if config.time_cond_proj_dim:
        inputs["guidance"] = ()
    return inputs


def load_text(folder: Path, index: Mapping[str, Any], networks: Networks, distilled: bool) -> TextParts:
    """The text encoders, with the folder's tokenizers. Raises CheckpointError."""
    encoders = networks.encoders
    tokenizers = tuple(read_tokenizer(folder / f"tokenizer{suffix}") for suffix in text_suffixes(index))
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        if max(tokenizer.vocabulary.values()) >= encoder.config.vocab_size:
            raise CheckpointError(f"{folder}: its tokenizer has more tokens than its text encoder embeds")
    several = len(encoders) > 1
    embedded = bool(networks.unet.config.time_cond_proj_dim)
    guidance = "embedded" if embedded else "none" if distilled else "free"
    return TextParts(
        TextEncoders(encoders, int(several), not several, tokenizers[-1].eos).eval().requires_grad_(False),
        tokenizers,
        int(encoders[0].config.max_position_embeddings),
        guidance,
        bool(index.get("force_zeros_for_empty_prompt", several)),
    )


def load_text_model(folder: Path) -> Any:
    """CLIP's text encoder of a folder. Raises CheckpointError."""
    config: Any = {}
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "config.json").read_bytes())
    names = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or names[0] not in TEXT_MODELS:
        raise CheckpointError(f"{folder} is not one of {', '.join(TEXT_MODELS)}, but {shown(names)}")
    try:
        import transformers
    except ImportError as error:
        raise_interrupt(error)
        raise CheckpointError(
            f"{folder}: a text encoder needs the package transformers: {install_hint('diffusers')}"
        ) from None
    return from_folder(folder, getattr(transformers, names[0]).from_pretrained)


def is_tiny(vae: nn.Module) -> bool:
    return type(vae).__name__ == "AutoencoderTiny"


def digest(paths: list[Path]) -> str:
    """One hash of the weights in the files, and in the folders and below, by name and content."""
    found = hashlib.sha256()
    for path in paths:
        folder = path if path.is_dir() else path.parent
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in (".safetensors", ".bin", ".json", ".txt"):
                with file.open("rb") as opened:
                    found.update(file.relative_to(folder).as_posix().encode())
                    found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()
