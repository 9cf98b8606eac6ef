"""Stable Diffusion in one safetensors file: the same networks as the folder's, without a network connection."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Build

pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")
pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")

import diffusers
from latent_pipelines import save_sd
from original_layout import original_tensors, save_original
from safetensors.torch import load_file

from sdedit.errors import CheckpointError
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.checkpoints.single_file import AVERAGES, UNET

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Saved:
    """folder: a pipeline. file: its networks in one file. like: the folder without weights."""

    folder: Path
    file: Path
    like: Path
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def saved(build_once: Callable[[str, Build], Path]) -> Saved:
    def build(folder: Path) -> None:
        save_sd(folder / "sd")
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder / "sd")
        save_original(original_tensors(pipeline), folder / "sd.safetensors")
        shutil.copytree(folder / "sd", folder / "like", ignore=shutil.ignore_patterns("*.safetensors"))

    place = build_once("single-file", build)
    return Saved(place / "sd", place / "sd.safetensors", place / "like", load_checkpoint(place / "sd"))


def parts(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All weights of the checkpoint's networks."""
    latent = checkpoint.latent
    assert latent is not None
    modules = {"unet": checkpoint.network, "encoder": latent.encoder, "text": latent.text.encoders}
    return {f"{part}.{name}": value for part, module in modules.items() for name, value in module.state_dict().items()}


def altered(saved: Saved, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    tensors = load_file(saved.file)
    change(tensors)
    return save_original(tensors, path)


def test_a_file_has_the_folders_networks(saved: Saved) -> None:
    found = load_checkpoint(saved.file, like=str(saved.like))
    ours, theirs = parts(found), parts(saved.checkpoint)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    assert (found.path.name, found.weights) == ("sd.safetensors", "as saved")
    assert found.sha256 != saved.checkpoint.sha256
    assert (found.shape, found.inputs, found.schedule_name) == (
        saved.checkpoint.shape,
        saved.checkpoint.inputs,
        saved.checkpoint.schedule_name,
    )


def test_averages_come_before_trained_weights(saved: Saved, tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(UNET)]:
            tensors[AVERAGES + name.removeprefix("model.").replace(".", "")] = tensors[name] + 1

    checkpoint = load_checkpoint(altered(saved, tmp_path / "a.safetensors", change), like=str(saved.like))
    assert checkpoint.weights == "EMA"
    found = parts(checkpoint)
    trained = parts(saved.checkpoint)
    weights = [name for name in trained if name.startswith("unet.unet.")]
    assert len(weights) > 100
    assert all(torch.equal(found[name], trained[name] + 1) for name in weights)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", r"in cond_stage_model\.transformer\.\*"),
        ("first_stage_model.quant_conv.bias", r"in first_stage_model\.\*"),
        ("model.diffusion_model.out.2.bias", r"in model\.diffusion_model\.\*"),
    ],
)
def test_a_file_that_lacks_a_tensor(saved: Saved, tmp_path: Path, lost: str, message: str) -> None:
    path = altered(saved, tmp_path / "a.safetensors", lambda tensors: tensors.pop(lost))
    with pytest.raises(CheckpointError, match=rf"numbers {message}, .* describes .*: name a folder of the same kind"):
        load_checkpoint(path, like=str(saved.like))


@pytest.mark.parametrize(
    ("which", "like", "message"),
    [
        ("file", None, "is a single file without configurations and tokenizer: add --like FOLDER"),
        ("file", "nowhere", "nowhere is no diffusers folder of a pipeline with an autoencoder"),
        ("folder", "like", "--like goes with a single file; a folder has its own configurations"),
    ],
)
def test_mistakes_are_named(saved: Saved, which: str, like: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(getattr(saved, which), like=like)
