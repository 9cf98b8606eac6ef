"""Pipelines of diffusers in the shape of known models, with random weights: to time them, no others are needed."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .shapes import Shape

LENGTH = 77
"""Tokens of a text."""

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def save_pipeline(shape: Shape, folder: Path) -> None:
    """Write a folder like that of Stable Diffusion 1 into `folder`, which is there."""
    import diffusers
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=make_autoencoder(shape),
        text_encoder=make_text_encoder(shape),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=make_unet(shape),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        round_to_half(network)
    pipeline.save_pretrained(folder)
    name_as_before(folder / "text_encoder" / "model.safetensors")


def name_as_before(file: Path) -> None:
    """Give the text encoder's weights the names that folders in use have; transformers' newest writes shorter ones."""
    weights = load_file(file)
    save_file(
        {f"text_model.{name.removeprefix('text_model.')}": w for name, w in weights.items()}, file, {"format": "pt"}
    )


def round_to_half(network: torch.nn.Module) -> None:
    """Give the network weights that half precision holds: bundles store them so, and all contenders shall have them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())


def make_unet(shape: Shape) -> Any:
    import diffusers

    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in shape.attention]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(shape.attention)]
    unet: Any = diffusers.UNet2DConditionModel(
        sample_size=shape.side // shape.factor,
        in_channels=4,
        out_channels=4,
        block_out_channels=shape.channels,
        layers_per_block=shape.blocks,
        norm_num_groups=shape.groups,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=shape.text_width,
        attention_head_dim=shape.heads,  # diffusers' name for the number of heads
    )
    return unet.eval()


def make_autoencoder(shape: Shape) -> Any:
    import diffusers

    levels = len(shape.autoencoder)
    vae: Any = diffusers.AutoencoderKL(
        block_out_channels=shape.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        layers_per_block=2 if shape.name == "sd15" else 1,
        norm_num_groups=shape.groups,
        sample_size=shape.side,
    )
    with torch.no_grad():  # else pictures are almost grey, and comparing them tells little
        vae.decoder.conv_out.weight.mul_(3)
    return vae.eval()


def make_tiny_autoencoder(shape: Shape) -> Any:
    """An autoencoder in the form of TAESD, which decodes in a fraction of the time."""
    import diffusers

    width = min(64, shape.autoencoder[-1])
    levels = len(shape.autoencoder)
    torch.manual_seed(1)
    vae: Any = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(width,) * levels,
        decoder_block_out_channels=(width,) * levels,
        num_encoder_blocks=(1, *(3,) * (levels - 1)),
        num_decoder_blocks=(*(3,) * (levels - 1), 1),
        latent_channels=4,
    )
    round_to_half(vae)
    return vae.eval()


def make_text_encoder(shape: Shape) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    marks = len(tokens())
    config = CLIPTextConfig(
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        vocab_size=49408 if shape.name == "sd15" else marks,
        max_position_embeddings=LENGTH,
        bos_token_id=marks - 2,
        eos_token_id=marks - 1,
    )
    return CLIPTextModel(config).eval()


def tokens() -> list[str]:
    """A vocabulary in CLIP's format: single bytes, within a word and at its end, and the two marks."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*letters, *(f"{letter}{WORD_END}" for letter in letters), BOS, EOS]


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of these tokens, which merges nothing."""
    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(tokens())}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, allow_nan=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS, "model_max_length": LENGTH}
    text = json.dumps({"tokenizer_class": "CLIPTokenizer", **config}, allow_nan=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
