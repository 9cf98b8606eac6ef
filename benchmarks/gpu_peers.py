"""The same edit as a plain torch loop on the same GPU, eager and as a CUDA graph a step: the peers of gpu_parts.

The network is the bundle's own, evaluated by torch; the step is the unfused one of kernels.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.engines.torch_network import TorchNetwork
from sdedit.runtime.plan import Plan

from .kernels import unfused_step


class TorchLoop:
    """An edit of one image without labels, step by step. x: float32 [1, C, H, W], the state."""

    def __init__(self, bundle: Bundle, plan: Plan, guide: np.ndarray, mask: np.ndarray, device: str) -> None:
        """guide: float32 [C, H, W]; the state begins as the guide, without noise. device: torch's name."""
        import torch

        self._torch = torch
        self._network = TorchNetwork(bundle.read_network(), device, "float32")
        self._rows = [{name: row[name].item() for name in row.dtype.names} for row in plan.rows]
        self._guide = torch.from_numpy(guide[None]).to(device)
        self._mask = torch.from_numpy(mask[None, None]).to(device)
        self._times = torch.tensor([[row["time"]] for row in self._rows], device=device)
        self.x, self._h = self._guide.clone(), torch.zeros_like(self._guide)

    def step(self, at: int) -> None:
        """Run row `at` in place, so that it can be captured."""
        o = self._network({"x": self.x, "time": self._times[at]})
        x, h = unfused_step(self.x, self._h, self._guide, self._mask, o, self._rows[at], self._guide)
        self.x.copy_(x)
        self._h.copy_(h)

    def capture(self, at: int) -> Callable[[], Any]:
        """Row `at` as a CUDA graph; the function returned replays it."""
        cuda = self._torch.cuda
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
