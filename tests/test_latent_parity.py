"""Edits of latent models against diffusers' img2img and inpainting, with the same networks in torch and the same noise.

The networks are not exported here: export compares each with torch itself. Here the plan, the texts, guidance, masks
and the codec are compared, from a picture and a prompt to the last latent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")
pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")

import shutil
import sys

import diffusers
import torch
from conftest import Build
from latent_pipelines import TRAINING, load_tokenizer, save_sd, save_sdxl
from tiny_latent import latent_fields, write_latent_bundle
from torch_latent import TorchEngine, torch_components

from sdedit.errors import CheckpointError
from sdedit.export.latent import text_encoders, text_fields
from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SCHEDULE, Bundle, read_bundle, write_manifest
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.prompts import make_tokenizer
from sdedit.runtime.schedule import Schedule
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.checkpoints.diffusers import with_defaults
from sdedit_ref.checkpoints.schedulers import map_scheduler

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 7
TOLERANCE = 1e-4
"""Largest difference of the last latents, relative to the largest value."""

PROMPT, NEGATIVE = "a photo of the harbour, don't blur it", "ugly, watermark"

HARD = [
    "",
    " ",
    "a photo",
    "A  PHOTO\tof\nthe harbour",
    "don't we'll they've I'm it's he'd you're",
    "'s 't '' \"quotes\" `ticks`",
    "12 345 6,789.0",
    "½ ² Ⅷ ٣",
    "café cafe\u0301 naïve",
    "ΑΣ ΟΔΟΣ straße İstanbul ǅ",
    "日本語 한국어 ไทย العربية עברית",
    "😀👩‍👩‍👧 🇩🇪",
    "zero\u200bwidth no\u00a0break \u3000 wide",
    "<|endoftext|> a <|startoftext|>b",
    "<|ENDOFTEXT|>",
    "a_b-c/d\\e (f) [g] {h} <i> & # @ % ~ ^ |",
    "\x00\x1f\x7f control",
    "trending on artstation!!! ???",
]


def lcm() -> Any:
    return diffusers.LCMScheduler(**TRAINING)


@dataclass(frozen=True)
class Known:
    """One random model: as diffusers has it, and as we load it."""

    folder: Path
    pipeline: Any
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def known(build_once: Callable[[str, Build], Path]) -> Known:
    folder = build_once("latent-sd", lambda folder: save_sd(folder / "sd")) / "sd"
    return Known(folder, diffusers.StableDiffusionPipeline.from_pretrained(folder), load_checkpoint(folder))


@pytest.fixture(scope="module")
def known_lcm(build_once: Callable[[str, Build], Path]) -> Known:
    """A model distilled with guidance, which its U-Net takes as an input."""
    folder = build_once("latent-lcm", lambda folder: save_sd(folder / "lcm", lcm(), time_cond_proj_dim=16))
    folder = folder / "lcm"
    return Known(folder, diffusers.StableDiffusionPipeline.from_pretrained(folder), load_checkpoint(folder))


@pytest.fixture(scope="module")
def known_inpainting(build_once: Callable[[str, Build], Path]) -> Known:
    """A model whose U-Net is told the mask and the latent of what is kept."""
    folder = build_once("latent-inpainting", lambda folder: save_sd(folder / "sd", in_channels=9)) / "sd"
    return Known(folder, diffusers.StableDiffusionPipeline.from_pretrained(folder), load_checkpoint(folder))


@pytest.fixture(scope="module")
def known_xl(build_once: Callable[[str, Build], Path]) -> Known:
    folder = build_once("latent-sdxl", lambda folder: save_sdxl(folder / "sdxl")) / "sdxl"
    return Known(folder, diffusers.StableDiffusionXLPipeline.from_pretrained(folder), load_checkpoint(folder))


def bundle_of(folder: Path, known: Known, scheduler: Any) -> Bundle:
    """A bundle of the checkpoint's facts, and of the scheduler's, whose networks nobody loads."""
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    mapped = map_scheduler(folder, with_defaults(folder, config))
    write_latent_bundle(folder)
    np.save(folder / SCHEDULE, mapped.schedule)
    text = known.checkpoint.latent.text  # type: ignore[union-attr]
    if len(text.tokenizers) > 1:
        shutil.copytree(folder / "tokenizer/0", folder / "tokenizer/1")
    inputs = known.checkpoint.inputs
    fields = latent_fields(dict(text.tokenizers[0].vocabulary))
    fields |= {
        "inputs": {name: {"dtype": "float32", "shape": list(shape)} for name, shape in inputs.items()},
        "prediction": mapped.prediction,
        "schedule": {"name": mapped.schedule_name, "levels": len(mapped.schedule)},
    }
    fields["text"] = text_fields(text)
    write_manifest(folder, fields)
    return read_bundle(folder)


class Noise:
    """The contract's noise in place of torch's: a pipeline draws for its begin first, then for step after step."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, shape: Any, *_: object, **__: object) -> torch.Tensor:
        kind, step = (KIND_STEP, self.drawn - 1) if self.drawn else (KIND_BEGIN, 0)
        self.drawn += 1
        z = normal_numpy(SEED, 0, 0, step, kind, int(np.prod(shape[1:]))).reshape(1, *shape[1:])
        return torch.from_numpy(z).expand(*shape).clone()


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Let a pipeline draw our noise, and encode the mean of the autoencoder's distribution."""

    def patch(pipeline: Any) -> None:
        module = sys.modules[type(pipeline).__module__]
        retrieve, noise = module.retrieve_latents, Noise()  # type: ignore[attr-defined]
        monkeypatch.setattr(
            module, "retrieve_latents", lambda out, generator=None, **_: retrieve(out, generator, "argmax")
        )
        for place in (module, sys.modules[type(pipeline.scheduler).__module__]):
            if hasattr(place, "randn_tensor"):
                monkeypatch.setattr(place, "randn_tensor", noise)

    return patch  # type: ignore[return-value]


def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(values).resize((32, 32), Image.Resampling.BICUBIC)


def trailing(kind: Any, **options: Any) -> Any:
    return kind(**TRAINING, timestep_spacing="trailing", **options)


def dpm(**options: Any) -> Any:
    return trailing(diffusers.DPMSolverMultistepScheduler, **options)


DDIM = {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}

CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "ddim leading": (lambda: diffusers.DDIMScheduler(**TRAINING, **DDIM), {}),
    "ddim eta 1": (lambda: trailing(diffusers.DDIMScheduler, **DDIM), {"eta": 1.0}),
    "dpmpp_2m linspace": (lambda: diffusers.DPMSolverMultistepScheduler(**TRAINING), {}),
    "dpmpp_2m trailing": (dpm, {}),
    "dpmpp_2m_sde": (lambda: dpm(algorithm_type="sde-dpmsolver++"), {}),
    "euler": (lambda: trailing(diffusers.EulerDiscreteScheduler), {}),
    "euler ancestral": (lambda: trailing(diffusers.EulerAncestralDiscreteScheduler), {}),
    "ddpm": (lambda: trailing(diffusers.DDPMScheduler, clip_sample=False), {}),
    "ddim, inpainting": (lambda: trailing(diffusers.DDIMScheduler, **DDIM), {"mask": True}),
    "turbo": (lambda: trailing(diffusers.EulerAncestralDiscreteScheduler), {"guidance": 1.0, "steps": 4, "t0": 0.5}),
    "v, zero SNR": (lambda: trailing(diffusers.DDIMScheduler, **DDIM, **ZERO_SNR), {"t0": 0.8}),
    "v, zero SNR, all noise": (lambda: trailing(diffusers.DDIMScheduler, **DDIM, **ZERO_SNR), {"t0": 1.0}),
    "SDXL, euler": (lambda: diffusers.EulerDiscreteScheduler(**TRAINING), {"xl": True}),
    "SDXL, dpmpp_2m, no negative": (dpm, {"xl": True, "negative": None}),
    "SDXL, negative of no words": (dpm, {"xl": True, "negative": ""}),
    "9 channels": (lambda: trailing(diffusers.DDIMScheduler, **DDIM), {"known": "known_inpainting", "mask": True}),
    "9 channels, euler": (
        lambda: trailing(diffusers.EulerDiscreteScheduler),
        {"known": "known_inpainting", "mask": True, "t0": 0.8},
    ),
    "LCM": (lcm, {"known": "known_lcm", "steps": 4, "t0": 1.0, "negative": None}),
    "LCM, half": (lcm, {"known": "known_lcm", "steps": 8, "t0": 0.5, "negative": None}),
    "LCM of a fused LoRA": (lcm, {"steps": 4, "t0": 0.8, "guidance": 1.5}),
    "v, dpmpp_2m": (lambda: dpm(prediction_type="v_prediction"), {"t0": 0.8}),
}


def mask_of(known: Known) -> np.ndarray:
    """A mask of whole cells, where the nearest value is the maximum.

    diffusers lets an inpainting network change every cell. We do so where a neighbour is edited, so every cell has one.
    """
    mask = np.zeros((32, 32), np.uint8)
    if "known" not in known.checkpoint.inputs:
        mask[8:24, 4:20] = 255
        return mask
    mask[:] = 255
    for row, column in ((4, 4), (12, 20), (24, 8)):
        mask[row : row + 4, column : column + 4] = 0
    return mask


def spacing(scheduler: Any) -> int:
    """Training levels from one level of our table to the next."""
    return 1000 // scheduler.config.original_inference_steps if isinstance(scheduler, diffusers.LCMScheduler) else 1


@pytest.mark.parametrize("case", CASES)
def test_an_edit_is_diffusers_edit(
    request: pytest.FixtureRequest,
    same_noise: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    case: str,
) -> None:
    make, options = CASES[case]
    xl = options.get("xl", False)
    known: Known = request.getfixturevalue(options.get("known", "known_xl" if xl else "known"))
    scheduler = make()
    masked = options.get("mask", False)
    steps, t0, guidance = options.get("steps", 10), options.get("t0", 0.6), options.get("guidance", 7.5)
    negative = options.get("negative", NEGATIVE) if guidance != 1 else None
    mask = mask_of(known)
    kind = f"StableDiffusion{'XL' if xl else ''}{'Inpaint' if masked else 'Img2Img'}Pipeline"
    others = {"add_watermarker": False} if xl else {"requires_safety_checker": False}
    pipeline = getattr(diffusers, kind)(**{**known.pipeline.components, "scheduler": scheduler}, **others)
    pipeline.set_progress_bar_config(disable=True)
    same_noise(pipeline)
    call: dict[str, Any] = {"mask_image": Image.fromarray(mask), "height": 32, "width": 32} if masked else {}
    theirs = pipeline(
        prompt=PROMPT,
        negative_prompt=negative,
        image=photo(),
        strength=t0,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        **({"eta": options["eta"]} if "eta" in options else {}),
        **call,
    ).images[0]
    count = int(steps * t0)
    levels = [(int(time) + 1) // spacing(scheduler) for time in pipeline.scheduler.timesteps[-count:]]
    monkeypatch.setattr(Schedule, "visit", lambda self, t0, steps: levels)
    made: list[np.ndarray] = []
    monkeypatch.setattr("sdedit.runtime.editor.editor.load_component", torch_components(known.checkpoint, made))
    bundle = bundle_of(tmp_path / "bundle", known, scheduler)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    sampler: Any = map_scheduler(tmp_path, with_defaults(tmp_path, config)).sampler
    device = CpuDevice(TorchEngine(known.checkpoint.network), bundle.inputs, 1, twin(), bundle.guided, multiple_of=2)
    with Editor(bundle, device) as editor:
        edit = editor.edit(
            photo(),
            mask if masked else None,
            prompt=PROMPT,
            negative=negative,
            t0=t0,
            steps=count,
            sampler=sampler,
            eta=options.get("eta"),
            keep="fixed",
            feather=0,
            guidance=guidance,
            seed=SEED,
        )
    (ours,) = made
    assert np.abs(ours - theirs.numpy()).max() <= TOLERANCE * np.abs(ours).max()
    if masked:
        assert np.array_equal(np.asarray(edit.images[0].pil)[mask == 0], np.asarray(photo())[mask == 0])


def test_our_spacing_is_trailing() -> None:
    schedule = Schedule(
        map_scheduler(Path(), with_defaults(Path(), {"_class_name": "DDIMScheduler", **TRAINING})).schedule
    )
    scheduler = trailing(diffusers.DDIMScheduler, **DDIM)
    for steps in (4, 10, 20, 50):
        scheduler.set_timesteps(steps)
        assert schedule.visit(1.0, steps) == [int(time) + 1 for time in scheduler.timesteps]


def test_levels_of_a_consistency_model_are_those_of_its_scheduler(known_lcm: Known) -> None:
    schedule = Schedule(known_lcm.checkpoint.schedule)
    scheduler = lcm()
    assert len(schedule) == 50
    for steps in range(1, 11):
        scheduler.set_timesteps(steps)
        ours = [schedule.level(k).time for k in schedule.visit(1.0, steps)]
        apart = np.abs(np.subtract(ours, scheduler.timesteps.tolist())).max()
        assert apart <= (0 if steps in (1, 2, 4, 5, 10) else 20)  # one of the 50 levels
    latent = known_lcm.checkpoint.latent
    assert latent is not None
    assert latent.suggested == {"sampler": "lcm", "steps": 4, "guidance": 7.5, "t0": 0.6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"original_inference_steps": 0}, r"original_inference_steps 0 is not a number in 1\.\.1000"),
        ({"original_inference_steps": 1000}, "timestep_scaling 10.0 with 1000 levels: predictions are no predictions"),
        ({"timestep_scaling": "x"}, "timestep_scaling 'x' with 50 levels"),
    ],
)
def test_schedulers_of_consistency_models_that_are_not_taken(options: dict[str, Any], message: str) -> None:
    config = {"_class_name": "LCMScheduler", **TRAINING, **options}
    with pytest.raises(CheckpointError, match=message):
        map_scheduler(Path(), with_defaults(Path(), config))


def test_tokens_are_those_of_transformers(known: Known) -> None:
    theirs = load_tokenizer(known.folder / "tokenizer")
    text = known.checkpoint.latent.text  # type: ignore[union-attr]
    (encoder,), it = text_encoders(text), text.tokenizers[0]
    ours = make_tokenizer(dict(it.vocabulary), list(it.merges), encoder)
    for prompt in HARD:
        expected = theirs(prompt, padding=False, truncation=False).input_ids
        assert [encoder.bos, *ours.encode(prompt, add_special_tokens=False).ids, encoder.eos] == expected, prompt


# Folders that are not taken


def damaged(known: Known, folder: Path, **index: Any) -> Path:
    """A copy of the folder with another model_index.json."""
    import json
    import shutil

    shutil.copytree(known.folder, folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **index}))
    return folder


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"controlnet": ["diffusers", "ControlNetModel"]}, r"has a ControlNet \(controlnet\), which is not taken"),
        ({"text_encoder_3": ["transformers", "T5EncoderModel"]}, "has a T5 text encoder"),
        ({"text_encoder": [None, None]}, "has no first text encoder: a refiner is not taken"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "has no text_encoder_2"),
        ({"_class_name": "KandinskyPipeline"}, "'KandinskyPipeline' is not one of StableDiffusionPipeline"),
    ],
)
def test_pipelines_that_are_not_taken(known: Known, tmp_path: Path, index: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(damaged(known, tmp_path / "sd", **index))


def test_a_lora_that_is_not_fused(known: Known, tmp_path: Path) -> None:
    folder = damaged(known, tmp_path / "sd")
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="a LoRA that is not fused"):
        load_checkpoint(folder)


def test_a_folder_without_a_part(known: Known, tmp_path: Path) -> None:
    folder = damaged(known, tmp_path / "sd")
    (folder / "tokenizer").rename(folder / "other")
    with pytest.raises(CheckpointError, match="has no tokenizer: a folder of a whole pipeline is accepted"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_kind(known: Known, tmp_path: Path) -> None:
    folder = damaged(known, tmp_path / "sd")
    path = folder / "tokenizer/tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"NFC"', '"NFKC"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is a tokenizer of another kind: accepted is CLIP's"):
        load_checkpoint(folder)
