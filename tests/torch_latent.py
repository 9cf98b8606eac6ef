"""A latent checkpoint's own networks in torch, in place of a bundle's."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sdedit.runtime.bundle import DECODER, ENCODER, TEXT, Bundle
from sdedit.runtime.engines import Evaluate
from sdedit_ref.checkpoints import Checkpoint


class TorchEngine:
    """An engine whose network is a torch module."""

    name, precision, version = "torch", "float32", "0"
    batch = threads = 1

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}

        def evaluate() -> None:
            with torch.inference_mode():
                out[:] = self.network(**given).numpy()

        return evaluate


def torch_components(checkpoint: Checkpoint, made: list[np.ndarray]) -> Callable[..., Any]:
    """A stand-in for load_component; `made` takes the latents that are decoded."""
    parts = checkpoint.latent
    assert parts is not None
    modules = {
        ENCODER: (parts.encoder, ["latent"]),
        DECODER: (parts.decoder, ["image"]),
        TEXT: (parts.text.encoders, ["context", "pooled"]),
    }

    def load(bundle: Bundle, name: str, engine: str, threads: int | None) -> Any:
        module, names = modules[name]

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if name == DECODER:
                made.append(inputs["latent"][0])
            with torch.inference_mode():
                found = module(*map(torch.from_numpy, inputs.values()))
            outputs = found if isinstance(found, tuple) else (found,)
            return {key: value.numpy() for key, value in zip(names, outputs, strict=False)}

        return run

    return load
