"""The field's weights -> an ONNX file that says which weights it holds."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sdedit.errors import CheckpointError, reason

if TYPE_CHECKING:
    import torch

REVISION = 1
"""Raised whenever a file from before would give other features."""

KEY = "sdedit.features"
"""Key of the ONNX file's metadata: {"revision", "name", "weights": {file name: sha256}}."""

PUBLISHED = {
    "inception": ("6726825d",),
    "alexnet-lpips": ("7be5be79", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    "dinov2": ("d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",),
    "vgg-lpips": ("397923af", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
}
"""Name -> how the SHA-256 of each of its files begins: the trunk's, as its published name says, and the heads'.

DINOv2's authors publish no hash: it is the one that many projects found for `dinov2_vitl14_pretrain.pth`.
"""


def convert(name: str, files: list[Path], out: Path, verify: bool = True) -> None:
    """Write the network `name` with the weights of these files to an ONNX file; `out` is complete or untouched.

    files: the trunk's weights and, for LPIPS, its heads'. verify: refuse files other than the published ones. Raises
    CheckpointError.
    """
    if name not in PUBLISHED:
        raise CheckpointError(f"features {name!r} are not one of {', '.join(PUBLISHED)}")
    if len(files) != len(PUBLISHED[name]):
        raise CheckpointError(f"{name} takes {len(PUBLISHED[name])} files of weights, not {len(files)}")
    hashes = [hash_of(path) for path in files]
    for path, found, wanted in zip(files, hashes, PUBLISHED[name], strict=True):
        if verify and not found.startswith(wanted):
            raise CheckpointError(
                f"{path} has the SHA-256 {found[:8]}...; the published file's begins with {wanted[:8]}"
            )
    weights: dict[str, torch.Tensor] = {}
    for path in files:
        weights |= read_weights(path)
    network, inputs = build(name)
    needed = network.state_dict()
    check_weights(name, needed, weights)
    network.load_state_dict({key: weights[key] for key in needed})
    about = {"revision": REVISION, "name": name, "weights": {p.name: h for p, h in zip(files, hashes, strict=True)}}
    write(network, inputs, about, out)


def build(name: str) -> tuple["torch.nn.Module", tuple["torch.Tensor", ...]]:
    """The network in its evaluation mode, and inputs of the shape that it is exported for."""
    import torch

    from . import dinov2, inception
    from .lpips import Lpips

    if name == "inception":
        return inception.Inception().eval(), (torch.zeros(2, 3, inception.SIDE, inception.SIDE),)
    if name == "dinov2":
        return dinov2.Dino().eval(), (torch.zeros(2, 3, dinov2.SIDE, dinov2.SIDE),)
    return Lpips(name).eval(), (torch.zeros(2, 3, 64, 80), torch.zeros(2, 3, 64, 80))


def check_weights(name: str, needed: Mapping[str, "torch.Tensor"], found: Mapping[str, "torch.Tensor"]) -> None:
    """Raise CheckpointError unless every needed tensor is there, with its shape. Others are not used."""
    for key, tensor in needed.items():
        if key not in found:
            raise CheckpointError(f"the weights of {name} have no tensor {key}")
        if found[key].shape != tensor.shape:
            raise CheckpointError(f"tensor {key} has shape {list(found[key].shape)}; {name} has {list(tensor.shape)}")


def read_weights(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a file of torch, by name; nothing but tensors is unpickled. Raises CheckpointError."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's errors share no base class
        raise CheckpointError(f"weights {path} cannot be read: {reason(error)}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise CheckpointError(f"weights {path} are not tensors by name")
    return {re.sub(r"^module\.", "", str(key)): value for key, value in found.items()}


def hash_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read: {reason(error)}") from None


def write(network: "torch.nn.Module", inputs: tuple["torch.Tensor", ...], about: dict[str, object], out: Path) -> None:
    """Export with a free batch and, for LPIPS, free sides."""
    import torch

    batch = torch.export.Dim.AUTO
    free = {0: batch} if len(inputs) == 1 else {0: batch, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    temporary = out.with_name(f".{out.name}.part")
    try:
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            verbose=False,
            input_names=["a", "b"][: len(inputs)],
            output_names=["out"],
            dynamic_shapes=tuple(free for _ in inputs),
        )
        assert program is not None
        program.model.metadata_props[KEY] = json.dumps(about, sort_keys=True, allow_nan=False)
        program.save(temporary, external_data=False)
        temporary.replace(out)
    except OSError as error:
        raise CheckpointError(f"features {out} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
