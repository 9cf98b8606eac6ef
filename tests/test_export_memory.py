"""The memory of an export: the checkpoint's weights are let go when asked, and nothing of the exporter keeps them."""

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdedit.export import bundle as export_module
from sdedit.export.bundle import export_bundle, release_weights
from sdedit.export.onnx_graph import component_to_onnx, save_onnx
from sdedit.runtime.bundle import NETWORK, read_bundle
from sdedit_ref.checkpoints import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


class Mixing(nn.Module):
    """A convolution and a product with weights, of which a tracer makes a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 64, 3, padding=1)
        self.linear = nn.Linear(64, 32)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 8, H, W] -> [B, 32, H, W]"""
        return self.linear(self.convolution(image).movedim(1, 3)).movedim(3, 1)


def on_one_array(network: nn.Module) -> weakref.ref[np.ndarray]:
    """Lay all weights on one array, as those that are mapped from a file; the reference dies with the last of them."""
    parameters = list(network.parameters())
    array = np.zeros(sum(parameter.numel() for parameter in parameters), np.float32)
    rest = torch.from_numpy(array)
    for parameter in parameters:
        parameter.data, rest = rest[: parameter.numel()].view(parameter.shape), rest[parameter.numel() :]
    return weakref.ref(array)


@pytest.mark.parametrize("half", [False, True])
def test_what_was_exported_keeps_no_weight(tmp_path: Path, half: bool) -> None:
    network = Mixing().eval()
    alive = on_one_array(network)
    save_onnx(component_to_onnx(network, {"image": torch.zeros(2, 8, 6, 10)}, ["out"], 2), tmp_path / NETWORK, half)
    gc.collect()
    assert alive() is not None
    release_weights(network)
    assert alive() is None
    assert (tmp_path / NETWORK).stat().st_size > 10_000


def test_a_released_checkpoint_makes_the_same_bundle(
    exported_ddpm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its network is taken from the bundle that the other export made."""
    kept = exported_ddpm / "bundle"
    monkeypatch.setattr(export_module, "write_network", lambda path, *_: shutil.copyfile(kept / NETWORK, path))
    checkpoint = load_checkpoint(exported_ddpm / "tiny.safetensors")
    made = export_bundle(checkpoint, tmp_path / "out", name="tiny", licence="CC0", release=True)
    assert {parameter.device.type for parameter in checkpoint.network.parameters()} == {"meta"}
    assert made.manifest == read_bundle(kept).manifest
