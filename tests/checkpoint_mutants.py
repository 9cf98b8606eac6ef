"""Damaged and hostile checkpoints and their fates."""

import io
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_mutants import mutate_bytes
from safetensors.torch import save
from torch import Tensor
from weights import weights

from sdedit.errors import CheckpointError
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.networks.ncsnpp import NCSNpp, NCSNppConfig

CONTAINERS = ("safetensors", "torch", "legacy")
WRAPPINGS = 6
METADATA = {"prediction": "v", "betas": "cosine", "image_size": "16", "timesteps": "100"}
EDGE = 3000
"""Bytes at either end of a file, where what is not weights is."""

ODD: list[Any] = [None, 0, "", b"", 2**70, [], {}, float("nan"), np.float64(1), torch.zeros(0), torch.zeros(3).long()]
SHAPES = [(), (0,), (1,), (7,), (32, 3, 3, 3), (2**40, 0), (1, 1, 1, 1), (2, 2, 2, 2, 2)]


@cache
def ddpm() -> dict[str, Tensor]:
    return tensors_of(lambda: DDPM(DDPMConfig(size=16, width=32, width_multiples=(1,), blocks=1, attention=())))


@cache
def ncsnpp() -> dict[str, Tensor]:
    config = NCSNppConfig(width=8, width_multiples=(1, 1), blocks=1, attention=(1,), sigmas=10)
    state = tensors_of(lambda: NCSNpp(config))
    return {**state, "sigmas": torch.exp(torch.linspace(3, -3, 10))}


def tensors_of(build: Callable[[], torch.nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return weights({name: value.shape for name, value in build().state_dict().items()})


FAMILIES: dict[str, tuple[Callable[[], dict[str, Tensor]], dict[str, str | int]]] = {
    "ddpm": (ddpm, {"prediction": "eps", "schedule": "linear", "size": 16}),
    "ncsnpp": (ncsnpp, {"schedule": "ve", "centred": "no", "skip_rescale": "yes", "fir": "yes", "size": 16}),
}


def wrappings(state: dict[str, Any]) -> list[Any]:
    """The tensors wrapped as training scripts save them."""
    shadow = list(state.values())[1:]
    return [
        state,
        {f"module.{name}": value for name, value in state.items()},
        {"model": state, "ema": {"decay": 0.999, "shadow_params": shadow}, "optimizer": {}, "step": 3},
        {"model": state, "ema": {"decay": 0.999, "shadow_params": shadow[1:]}, "step": 3},
        [state, {}, 1, 2, state],
        {"state_dict": state, "epoch": np.int64(3)},
    ]


def serialize(state: dict[str, Any], container: str, wrapping: int) -> bytes:
    """A file of these tensors. wrapping: an index of wrappings; of safetensors, even indices have metadata."""
    if container == "safetensors":
        plain = {name: value.contiguous().clone() for name, value in state.items() if isinstance(value, Tensor)}
        return save(plain, None if wrapping % 2 else METADATA)
    file = io.BytesIO()
    torch.save(wrappings(state)[wrapping], file, _use_new_zipfile_serialization=container == "torch")
    return file.getvalue()


@cache
def undamaged(family: str, container: str, wrapping: int) -> bytes:
    build, _ = FAMILIES[family]
    return serialize(build(), container, wrapping)


def mutate_state(chance: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """Lose, rename or add a tensor, or change a shape, dtype or value."""
    changed = dict(state)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(sorted(changed))
        kind = chance.randrange(6)
        if kind == 0:
            del changed[name]
        elif kind == 1:
            changed[mutate_name(chance, name)] = changed.pop(name)
        elif kind == 2:
            changed[name] = torch.zeros(chance.choice(SHAPES))
        elif kind == 3:
            changed[name] = chance.choice(ODD)
        elif kind == 4:
            changed[mutate_name(chance, name)] = torch.ones(chance.choice(SHAPES))
        elif isinstance(changed[name], Tensor):
            changed[name] = chance.choice([changed[name].half(), changed[name].flatten(), changed[name] * float("nan")])
    return changed


def mutate_name(chance: random.Random, name: str) -> str:
    digits = [at for at, c in enumerate(name) if c.isdigit()]
    if digits and chance.random() < 0.6:
        at = chance.choice(digits)
        return name[:at] + chance.choice(["9", "99999999999", "-1", "x", ""]) + name[at + 1 :]
    return chance.choice([name + ".x", name[1:], "", "\0", "a\nb", "module." + name])


def damage_bytes(chance: random.Random, data: bytes) -> bytes:
    """A random place, mostly near the ends, where containers have their tables."""
    where = chance.random()
    if where < 0.4:
        return mutate_bytes(chance, data[:EDGE]) + data[EDGE:]
    if where < 0.8:
        return data[:-EDGE] + mutate_bytes(chance, data[-EDGE:])
    return mutate_bytes(chance, data)


def write_mutant(chance: random.Random, path: Path) -> tuple[str, dict[str, str | int]]:
    """Write a damaged checkpoint of some family in some container. Returns its description and the answers for it."""
    family = chance.choice(sorted(FAMILIES))
    build, said = FAMILIES[family]
    kind = chance.choice(["bytes", "bytes", "state"])
    container, wrapping = chance.choice(CONTAINERS), chance.randrange(WRAPPINGS)
    if kind == "state":
        data = serialize(mutate_state(chance, build()), container, wrapping)
    else:
        data = damage_bytes(chance, undamaged(family, container, wrapping))
    path.write_bytes(data)
    if chance.random() < 0.1:
        said = {name: value for name, value in said.items() if chance.random() < 0.5}
    return f"{kind} {family} {container}", said


def fate(path: Path, said: dict[str, str | int]) -> str:
    """Load it. Returns "loaded", "refused" or a fault of the refusal."""
    try:
        checkpoint = load_checkpoint(path, **said)
    except CheckpointError as error:
        if len(str(error).splitlines()) != 1:
            return f"an error of several lines: {error}"
        return "refused" if path.name in str(error) else f"an error that does not name the file: {error}"
    return "loaded" if checkpoint.shape[0] in (1, 3) else "loaded as no image"
