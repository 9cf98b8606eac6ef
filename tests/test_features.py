"""Converted networks give the features of the original code, on random weights of the published names and shapes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sdedit.errors import CheckpointError, EngineError
from sdedit.evaluation.features import converting
from sdedit.evaluation.features.converting import build, convert
from sdedit.evaluation.features.dinov2 import SIDE, Dino
from sdedit.evaluation.features.running import Features, dinov2_input, inception_input

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = json.loads((GOLDEN / "evaluation.json").read_text(encoding="utf-8"))["networks"]
DINOV2 = json.loads((GOLDEN / "dinov2.json").read_text(encoding="utf-8"))
_SPEC = importlib.util.spec_from_file_location("golden_make_evaluation", GOLDEN / "make_evaluation.py")
assert _SPEC is not None
assert _SPEC.loader is not None
MAKE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(MAKE)


def files_of(name: str, folder: Path) -> list[Path]:
    """Random weights in files like the published ones: LPIPS's trunk has a classifier too, which is not used."""
    drawn = MAKE.some_weights({key: tuple(value.shape) for key, value in build(name)[0].state_dict().items()})
    tensors = {key: torch.from_numpy(value) for key, value in drawn.items()}
    heads = {key: value for key, value in tensors.items() if key.startswith("lin")}
    parts = [{key: value for key, value in tensors.items() if key not in heads} | {"classifier.1.bias": torch.ones(3)}]
    parts += [heads] if heads else []
    paths = [folder / f"{number}.pth" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        torch.save(part, path)
    return paths


def some_pictures(seed: int, count: int = 2) -> np.ndarray:
    """The pictures of make_evaluation.py, of 64x70 pixels, as float32 in [-1, 1]."""
    pictures: np.ndarray = MAKE.some_images(seed, 2, 64, 70)[:count] / np.float32(127.5) - 1
    return pictures


def with_weights(name: str) -> torch.nn.Module:
    """The network with random weights."""
    network, _ = build(name)
    drawn = MAKE.some_weights({key: tuple(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict({key: torch.from_numpy(value) for key, value in drawn.items()})
    return network


# float32 through up to 94 layers of another library: 1e-7 each and, at the worst, some hundred times as much
INCEPTION = pytest.approx(NETWORKS["inception"], rel=1e-4, abs=1e-4 * max(NETWORKS["inception"]))


def test_inception_features_are_those_of_the_original_code(one_thread: None) -> None:
    with torch.no_grad():
        found = with_weights("inception")(torch.from_numpy(inception_input(some_pictures(2, 1))))
    assert found[0, ::32].tolist() == INCEPTION


@pytest.mark.slow
def test_inception_as_onnx_has_the_features_of_the_original_code(tmp_path: Path, one_thread: None) -> None:
    out = tmp_path / "features.onnx"
    convert("inception", files_of("inception", tmp_path), out, verify=False)
    assert Features(out, threads=1).vectors(some_pictures(2, 1))[0, ::32] == INCEPTION


@pytest.mark.slow
def test_lpips_as_onnx_takes_any_size_and_is_that_of_the_original_code(tmp_path: Path, one_thread: None) -> None:
    name, out = "alexnet-lpips", tmp_path / "features.onnx"
    convert(name, files_of(name, tmp_path), out, verify=False)
    found = Features(out, threads=1).lpips(some_pictures(2), some_pictures(3))
    assert found == pytest.approx(NETWORKS[name], rel=1e-4)


@pytest.mark.parametrize("name", ["alexnet-lpips", "vgg-lpips"])
def test_lpips_is_that_of_the_original_code(name: str, one_thread: None) -> None:
    a, b = (torch.from_numpy(some_pictures(seed)) for seed in (2, 3))
    with torch.no_grad():
        assert with_weights(name)(a, b).tolist() == pytest.approx(NETWORKS[name], rel=1e-5)


def small_dino() -> Dino:
    """The network of make_dinov2.py."""
    return Dino(48, 2, 4).eval()


def weights_of_small_dino() -> dict[str, torch.Tensor]:
    """Its weights, with the token that stands for masked patches in training, as in the published file."""
    shapes = {key: tuple(value.shape) for key, value in small_dino().state_dict().items()}
    drawn = MAKE.some_weights(shapes | {"mask_token": (1, 48)})
    return {key: torch.from_numpy(value) for key, value in drawn.items()}


def test_dinov2_features_are_those_of_the_original_code(one_thread: None) -> None:
    network = small_dino()
    assert network.load_state_dict(weights_of_small_dino(), strict=False).missing_keys == []
    with torch.no_grad():
        found = network(torch.from_numpy(dinov2_input(some_pictures(2))))
    # some 20 layers of float32; positions that are resized in another way differ by 1e-3
    assert found.numpy() == pytest.approx(np.array(DINOV2["features"]), abs=2e-5)


def test_dinov2_has_the_layout_of_the_published_file() -> None:
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in Dino().state_dict().items()}
    published = {key: shape for key, shape in DINOV2["shapes"].items() if key != "mask_token"}
    assert len(own) == DINOV2["tensors"] - 1
    assert {key: own.get(key) for key in published} == published


@pytest.mark.slow
def test_dinov2_as_onnx_has_the_features_of_the_original_code(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published network is 1.2 GB; a small one goes the same way."""
    monkeypatch.setattr(converting, "build", lambda name: (small_dino(), (torch.zeros(2, 3, SIDE, SIDE),)))
    file, out = tmp_path / "dinov2_vitl14_pretrain.pth", tmp_path / "features.onnx"
    torch.save(weights_of_small_dino(), file)
    convert("dinov2", [file], out, verify=False)
    assert Features(out, threads=1).vectors(some_pictures(2)) == pytest.approx(np.array(DINOV2["features"]), abs=1e-4)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    trunk, heads = files_of("alexnet-lpips", tmp_path)
    out = tmp_path / "features.onnx"
    with pytest.raises(CheckpointError, match="the published file's begins with 7be5be79"):
        convert("alexnet-lpips", [trunk, heads], out)
    with pytest.raises(CheckpointError, match=r"no tensor lin0.model.1.weight"):
        convert("alexnet-lpips", [trunk, trunk], out, verify=False)
    with pytest.raises(CheckpointError, match="takes 2 files of weights, not 1"):
        convert("alexnet-lpips", [trunk], out, verify=False)
    with pytest.raises(CheckpointError, match="not one of inception"):
        convert("clip", [trunk], out)
    out.write_bytes(b"no network")
    with pytest.raises(EngineError, match="cannot be loaded"):
        Features(out)
