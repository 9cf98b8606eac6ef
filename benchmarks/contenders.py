"""The contenders by name. Building one imports only its own packages, so that cold starts are fair."""

from collections.abc import Callable
from dataclasses import dataclass

from sdedit.errors import raise_interrupt

from .case import Case, Contender, MissingError


@dataclass(frozen=True)
class Spec:
    """A contender that can be built. ours: it is this project's runtime. slow_start: it compiles for minutes first."""

    precision: str
    build: Callable[[Case], Contender]
    ours: bool = False
    slow_start: bool = False


def torch_peer(precision: str, compiled: bool) -> Callable[[Case], Contender]:
    def build(case: Case) -> Contender:
        try:
            from .peers import torch_loop

            return torch_loop(case, precision, compiled)
        except ImportError as error:
            raise_interrupt(error)
            raise MissingError(f"{error.name} is not installed: pip install 'sdedit[bench]'") from None

    return build


def diffusers_peer(precision: str) -> Callable[[Case], Contender]:
    def build(case: Case) -> Contender:
        try:
            from .peers import diffusers_loop

            return diffusers_loop(case, precision)
        except ImportError as error:
            raise_interrupt(error)
            raise MissingError(f"{error.name} is not installed: pip install 'sdedit[bench]'") from None

    return build


def onnxruntime_peer(case: Case) -> Contender:
    from .peers import onnxruntime_numpy

    return onnxruntime_numpy(case)


def our(engine: str, precision: str) -> Callable[[Case], Contender]:
    def build(case: Case) -> Contender:
        from .ours import Ours

        return Ours(case, engine, precision)

    return build


OFFICIAL = "official loop, torch eager, float32"
"""The contender that speed-ups are measured against."""

CONTENDERS: dict[str, Spec] = {
    OFFICIAL: Spec("float32", torch_peer("float32", compiled=False)),
    "sdedit, onnxruntime, float32": Spec("float32", our("onnxruntime", "float32"), ours=True),
    "sdedit, openvino, float32": Spec("float32", our("openvino", "float32"), ours=True),
    "sdedit, openvino, bfloat16": Spec("bfloat16", our("openvino", "bfloat16"), ours=True),
    "sdedit, openvino, int8": Spec("int8", our("openvino", "int8"), ours=True),
    "official loop, torch eager, bfloat16": Spec("bfloat16", torch_peer("bfloat16", compiled=False)),
    "official loop, torch.compile, float32": Spec("float32", torch_peer("float32", compiled=True), slow_start=True),
    "official loop, torch.compile, bfloat16": Spec("bfloat16", torch_peer("bfloat16", compiled=True), slow_start=True),
    "onnxruntime and a numpy loop": Spec("float32", onnxruntime_peer),
    "diffusers, float32": Spec("float32", diffusers_peer("float32")),
    "diffusers, bfloat16": Spec("bfloat16", diffusers_peer("bfloat16")),
}
"""In the order of the parity checks: if time runs out, peers are dropped first."""
