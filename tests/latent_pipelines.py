"""Small random pipelines of diffusers, of the shapes that people use, and a tokenizer in CLIP's format."""

import json
from pathlib import Path
from typing import Any

import torch

TRAINING: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = "a the of photo landscape fantasy harbour castle painting don't ugly watermark trending on artstation 12 !?"
LENGTH = 77
WIDTH = 32
"""Width of the text encoders."""


def bytes_to_unicode() -> list[str]:
    """CLIP's letters for the 256 bytes, in its vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]


def write_tokenizer(folder: Path, pad: str = EOS) -> Path:
    """A tokenizer whose merges make the words of WORDS."""
    letters = bytes_to_unicode()
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    merges = list(dict.fromkeys(merges))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    config = {"bos_token": BOS, "eos_token": EOS, "pad_token": pad, "unk_token": EOS, "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **config}))
    return folder


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of the folder."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def make_text_encoder(tokenizer: Any, seed: int, projected: int = 0, layers: int = 3) -> Any:
    """A text encoder; projected: width of its pooled output, 0 for none."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **({"projection_dim": projected} if projected else {}),
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def make_vae() -> Any:
    """An autoencoder of factor 4."""
    import diffusers

    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=32,
    ).eval()


def make_unet(**changes: Any) -> Any:
    """A U-Net of two levels. Its outputs are as large as a trained network's."""
    import diffusers

    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
    }
    unet = diffusers.UNet2DConditionModel(**{**options, **changes}).eval()
    with torch.no_grad():
        unet.conv_out.weight.mul_(6)
    return unet


def save_sd(folder: Path, scheduler: Any = None, vae: Any = None, layers: int = 3, **unet: Any) -> Path:
    """A folder like that of Stable Diffusion 1. layers: of the text encoder."""
    import diffusers

    tokenizer = load_tokenizer(write_tokenizer(folder.with_name(f"{folder.name}-tokenizer")))
    diffusers.StableDiffusionPipeline(
        vae=vae or make_vae(),
        text_encoder=make_text_encoder(tokenizer, 2, layers=layers),
        tokenizer=tokenizer,
        unet=make_unet(**unet),
        scheduler=scheduler or diffusers.DDIMScheduler(**TRAINING, clip_sample=False, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


POOLED = 24
"""Width of the pooled text of SDXL."""


def save_sdxl(folder: Path, scheduler: Any = None, vae: Any = None, layers: int = 3, **unet: Any) -> Path:
    """A folder like that of SDXL: two text encoders. The second fills up with id 0, and makes the pooled text.

    layers: of the text encoders.
    """
    import diffusers

    tokenizers = [
        load_tokenizer(write_tokenizer(folder.with_name(f"{folder.name}-tokenizer-{number}"), pad))
        for number, pad in enumerate((EOS, "!"))
    ]
    diffusers.StableDiffusionXLPipeline(
        vae=vae or make_vae(),
        text_encoder=make_text_encoder(tokenizers[0], 2, layers=layers),
        text_encoder_2=make_text_encoder(tokenizers[1], 4, POOLED, layers),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=make_unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=POOLED + 6 * 8,
            **unet,
        ),
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**TRAINING),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


SMALL: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "mid_block_type": None,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
"""A U-Net that is traced quickly: two levels, of which one looks at the text."""


def make_small_vae() -> Any:
    """An autoencoder of factor 2."""
    import diffusers

    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=8,
    ).eval()


def make_tiny_vae() -> Any:
    """The other kind of autoencoder, of factor 2."""
    import diffusers

    torch.manual_seed(3)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).eval()


def save_small_sd(folder: Path) -> Path:
    """A folder like that of Stable Diffusion 1, as small as it can be."""
    return save_sd(folder, vae=make_small_vae(), layers=1, **SMALL)


def save_small_sdxl(folder: Path) -> Path:
    """A folder like that of SDXL whose U-Net takes all inputs: it inpaints, and was distilled with guidance."""
    import diffusers

    more: dict[str, Any] = {**SMALL, "in_channels": 9, "time_cond_proj_dim": 8}
    return save_sdxl(folder, diffusers.LCMScheduler(**TRAINING), vae=make_small_vae(), layers=2, **more)
