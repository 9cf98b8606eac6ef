"""The contenders by name. Building one imports only its own packages, so that cold starts are fair."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdedit.errors import install_hint
from sdedit.runtime.machine import processor_features, processor_name

from .case import Case, Contender, MissingError

BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Processors' names for instructions of bfloat16; they are among machine.FEATURES."""


@dataclass(frozen=True)
class Spec:
    """A contender that can be built.

    ours: it is this project's runtime. slow_start: it compiles for minutes first. needs: packages that it imports.
    """

    precision: str
    build: Callable[[Case], Contender]
    ours: bool = False
    slow_start: bool = False
    needs: Sequence[str] = ()


def not_installed(packages: Sequence[str]) -> str | None:
    """A phrase about the first of the packages that is not installed; None if all are."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: {install_hint('bench')}"
    return None


def check_instructions(precision: str) -> None:
    """Raise MissingError on a processor that is known to have no bfloat16: torch would take minutes for an edit."""
    features = processor_features()
    if precision == "bfloat16" and features and not BFLOAT16.intersection(features):
        raise MissingError(f"{processor_name()} has no instructions for {precision}")


def torch_peer(precision: str, compiled: bool) -> Spec:
    def build(case: Case) -> Contender:
        from .peers import torch_loop

        check_instructions(precision)
        return torch_loop(case, precision, compiled)

    return Spec(precision, build, slow_start=compiled, needs=TORCH)


def diffusers_peer(precision: str) -> Spec:
    def build(case: Case) -> Contender:
        from .peers import diffusers_loop

        check_instructions(precision)
        return diffusers_loop(case, precision)

    return Spec(precision, build, needs=(*TORCH, "diffusers"))


def onnxruntime_peer() -> Spec:
    def build(case: Case) -> Contender:
        from .peers import onnxruntime_numpy

        return onnxruntime_numpy(case)

    return Spec("float32", build, needs=("onnxruntime",))


def our(engine: str, precision: str) -> Spec:
    def build(case: Case) -> Contender:
        from .ours import Ours

        return Ours(case, engine, precision)

    return Spec(precision, build, ours=True, needs=(engine,))


TORCH = ("torch", "onnx", "safetensors")
"""Packages of a peer that takes its weights from the bundle's graph."""

OFFICIAL = "official loop, torch eager, float32"
"""The contender that speed-ups are measured against."""

CONTENDERS: dict[str, Spec] = {
    "sdedit, onnxruntime, float32": our("onnxruntime", "float32"),
    "sdedit, openvino, float32": our("openvino", "float32"),
    "sdedit, openvino, bfloat16": our("openvino", "bfloat16"),
    "sdedit, openvino, int8": our("openvino", "int8"),
    OFFICIAL: torch_peer("float32", compiled=False),
    "official loop, torch eager, bfloat16": torch_peer("bfloat16", compiled=False),
    "official loop, torch.compile, float32": torch_peer("float32", compiled=True),
    "official loop, torch.compile, bfloat16": torch_peer("bfloat16", compiled=True),
    "onnxruntime and a numpy loop": onnxruntime_peer(),
    "diffusers, float32": diffusers_peer("float32"),
    "diffusers, bfloat16": diffusers_peer("bfloat16"),
}
"""In the order in which they are built and take their turns: ours first, since peers are dropped if time runs out."""
