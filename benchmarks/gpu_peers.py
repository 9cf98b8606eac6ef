"""The same edit by torch on the same GPU, in the ways that people run it today: the peers of gpu_parts.

A peer whose network differs from the bundle's reference is not timed. float32 is float32 here, as in our engines: TF32
is off.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.engines.torch_network import TorchNetwork
from sdedit.runtime.plan import Plan, make_plan

from .case import Case, MissingError
from .kernels import unfused_step
from .measure import check_network, timed_by
from .peers import OfficialLoop, diffusers_loop, torch_loop
from .weights import network_of, save_network

Build = Callable[[Case, str], OfficialLoop]
"""A contender of a case on torch's device of that name."""

T0 = 0.5


class NotRun(Exception):  # noqa: N818 - no error: it does not fit this machine or this bundle
    """A peer cannot be measured here; the message says why."""


def gpu_name(index: int) -> str:
    """torch's name of a GPU, which becomes torch's current one. Raises NotRun if torch finds no GPU."""
    if not torch.cuda.is_available():
        raise NotRun(f"torch {torch.__version__} finds no GPU")
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def wait_for(device: str) -> Callable[[], object]:
    """Function that waits until the device has done everything."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def measure_torch_loop(bundle: Bundle, device: str, rounds: int) -> dict[str, Any]:
    """The bundle's network and the unfused step of kernels.py: ms a step, eager and, on a GPU, as a CUDA graph."""
    if bundle.classes:
        raise NotRun("the network takes labels")
    plan = make_plan(bundle.schedule, bundle.prediction, t0=T0, steps=2, sampler="ancestral")
    guide, mask = np.zeros(bundle.state_shape, np.float32), np.ones(bundle.state_shape[1:], np.float32)
    with torch.inference_mode(), full_float32():
        loop = TorchLoop(bundle, plan, guide, mask, device)
        ways: dict[str, Callable[[], object]] = {"eager": lambda: loop.step(0)}
        if device.startswith("cuda"):
            ways["CUDA graph"] = loop.capture(0)
        return {f"{way}, ms a step": timed_by(wait_for(device), step, rounds) for way, step in ways.items()}


def measure_contender(build: Build, precision: str, bundle: Bundle, device: str, rounds: int) -> dict[str, Any]:
    """ms a step of a contender of peers.py, after three steps, which compile it if need be."""
    with weights_of(bundle) as folder, full_float32():
        try:
            contender = build(Case(str(bundle.path), str(folder), t0=T0), device)
            contender.begin(rounds + 3)
        except MissingError as error:
            raise NotRun(str(error)) from None
        differs = check_network(contender, precision)
        milliseconds = timed_by(wait_for(device), contender.step, rounds)
    return {"version": contender.version, "error": float(f"{differs:.2e}"), "ms a step": milliseconds}


@contextmanager
def weights_of(bundle: Bundle) -> Iterator[Path]:
    """A folder with the bundle's network for torch and diffusers."""
    if bundle.classes:
        raise NotRun("the network takes labels")
    try:
        network = network_of(bundle)
    except ValueError as error:
        raise NotRun(f"the weights cannot be read back: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        save_network(network, Path(folder))
        yield Path(folder)


def full_float32() -> Any:
    """While it is open, torch's convolutions compute in float32, not in TF32; its matrix products do by default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


PEERS: Mapping[str, Callable[[Bundle, str, int], dict[str, Any]]] = {
    "torch_loop": measure_torch_loop,
    "official": partial(measure_contender, lambda case, on: torch_loop(case, "float32", False, on), "float32"),
    "torch_compile": partial(measure_contender, lambda case, on: torch_loop(case, "float32", True, on), "float32"),
    "diffusers": partial(measure_contender, lambda case, on: diffusers_loop(case, "float32", on), "float32"),
}
"""Peers by name: (bundle, torch's device, rounds) -> what was found. rounds: timed steps."""


class TorchLoop:
    """An edit of one image without labels, step by step. x: float32 [1, C, H, W], the state."""

    def __init__(self, bundle: Bundle, plan: Plan, guide: np.ndarray, mask: np.ndarray, device: str) -> None:
        """guide: float32 [C, H, W]; the state begins as the guide, without noise. device: torch's name."""
        network = TorchNetwork(bundle.read_network(), device, "float32")
        self._rows = [{name: row[name].item() for name in row.dtype.names} for row in plan.rows]
        self._guide = torch.from_numpy(guide[None]).to(device)
        self._mask = torch.from_numpy(mask[None, None]).to(device)
        self._times = torch.tensor([[row["time"]] for row in self._rows], device=device)
        self.x, self._h = self._guide.clone(), torch.zeros_like(self._guide)
        self._network = network.for_inputs({"x": self.x, "time": self._times[0]})

    def step(self, at: int) -> None:
        """Run row `at` in place, so that it can be captured."""
        o = self._network({"x": self.x, "time": self._times[at]})
        x, h = unfused_step(self.x, self._h, self._guide, self._mask, o, self._rows[at], self._guide)
        self.x.copy_(x)
        self._h.copy_(h)

    def capture(self, at: int) -> Callable[[], Any]:
        """Row `at` as a CUDA graph; the function returned replays it."""
        cuda = torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            self.step(at)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            self.step(at)
        replay: Callable[[], Any] = graph.replay
        return replay
