"""The alternatives: the official SDEdit loop in torch, the same loop in numpy with onnxruntime, and diffusers."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.runtime.engines.importing import import_onnxruntime
from sdedit.runtime.schedule import Level

from .case import Case, MissingError, Problem, Stopwatch

Array = Any
"""torch.Tensor or numpy.ndarray: the loop works with both."""


class OfficialLoop:
    """The loop of image_editing.py in the official SDEdit (VP). A contender, see case.Contender.

    It samples ancestrally with the posterior's variance, without clamping and without noise at the last step. Kept
    pixels are the guide at the level before the step, always with the same noise.

    evaluate: (x, time) -> network output. lift: numpy array -> Array. lower: back. draw: shape -> normal noise.
    """

    def __init__(
        self,
        case: Case,
        version: str,
        evaluate: Callable[[Array, float], Array],
        lift: Callable[[np.ndarray], Array],
        draw: Callable[[tuple[int, ...]], Array],
        lower: Callable[[Array], np.ndarray] = np.asarray,
    ) -> None:
        self.problem = Problem(case)
        self.version = version
        self.network = Stopwatch(time.perf_counter)
        self._evaluate = self.network.around(evaluate)
        self._lift, self._draw, self._lower = lift, draw, lower
        self._shape = (case.batch, *self.problem.shape)
        self._guide = lift(np.tile(self.problem.guide, (case.batch, 1, 1, 1)))
        self._mask = lift(self.problem.mask[None, None])

    def predict(self, x: np.ndarray, time: float) -> np.ndarray:
        return self._lower(self._evaluate(self._lift(x), time))

    def begin(self, steps: int, exact: bool = False) -> None:
        self._exact = exact
        self._levels = self.problem.levels(steps)
        self._row = 0
        self._e = self._noise(KIND_BEGIN, 0)
        a, s, _ = self._levels[0]
        self._x = a * self._guide + s * self._e

    def step(self) -> None:
        now, then = self._levels[self._row : self._row + 2]
        out = self._evaluate(self._x, now.time)
        edited = self.update(out, now, then)
        self._x = self._mask * edited + (1 - self._mask) * (now.alpha * self._guide + now.sigma * self._e)
        self._row += 1

    def update(self, out: Array, now: Level, then: Level) -> Array:
        """The edited pixels after one ancestral step; b is the beta between the levels `then` and `now`."""
        (a, s, _), (a_next, s_next, _) = now, then
        eps = out if self.problem.bundle.prediction == "eps" else a * out + s * self._x
        b = 1 - (a / a_next) ** 2
        mean = (self._x - b / s * eps) / math.sqrt(1 - b)
        return mean + math.sqrt(b) * s_next / s * self._noise(KIND_STEP, self._row) if s_next else mean

    def done(self) -> bool:
        return self._row == len(self._levels) - 1

    def result(self) -> np.ndarray:
        return self._lower(self._x)

    def _noise(self, kind: int, step: int) -> Array:
        return self._lift(self.problem.noise(kind, step)) if self._exact else self._draw(self._shape)


def torch_loop(case: Case, precision: str, compiled: bool, device: str = "cpu") -> OfficialLoop:
    """The official loop with the project's port of the official network, eager or compiled by torch.compile.

    device: torch's name.
    """
    import torch

    from .weights import load_network

    torch.set_num_threads(case.threads)
    network: Any = load_network(weights_of(case)).to(device)
    if precision == "bfloat16":
        network.bfloat16()
        network.temb.float().register_forward_hook(lambda module, args, out: out.bfloat16())
    if compiled:
        network = torch.compile(network.to(memory_format=torch.channels_last))
    version = f"torch {torch.__version__}"
    return OfficialLoop(case, version, torch_evaluation(network, precision), **torch_arrays(device))


def torch_arrays(device: str) -> dict[str, Callable[[Any], Any]]:
    """OfficialLoop's functions for tensors on a device."""
    import torch

    return {
        "lift": lambda array: torch.from_numpy(array).to(device),
        "lower": lambda tensor: tensor.cpu().numpy(),
        "draw": lambda shape: torch.randn(shape, device=device),
    }


def torch_evaluation(network: Any, precision: str) -> Callable[[Array, float], Array]:
    """Function (x, time) -> float32 output of a torch module that computes in `precision`."""
    import torch

    dtype = getattr(torch, precision)

    def evaluate(x: Array, time: float) -> Array:
        with torch.inference_mode():
            return network(x.to(dtype), torch.full((len(x),), time, device=x.device)).float()

    return evaluate


def onnxruntime_numpy(case: Case) -> OfficialLoop:
    """The plainest loop without torch: an onnxruntime session with its defaults, and numpy."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(
        str(Path(case.bundle) / "network.onnx"), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(case.seed)

    def evaluate(x: np.ndarray, time: float) -> np.ndarray:
        times = np.full(len(x), time, np.float32)
        out: np.ndarray = session.run(None, {"x": x.astype(np.float32, copy=False), "time": times})[0]
        return out

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    return OfficialLoop(case, f"onnxruntime {onnxruntime.__version__}", evaluate, np.asarray, draw)


class DiffusersLoop(OfficialLoop):
    """The loop with diffusers' UNet2DModel and DDIMScheduler; the scheduler's eta = 1 makes ancestral steps."""

    def __init__(
        self, case: Case, version: str, evaluate: Callable[[Array, float], Array], scheduler: Any, device: str
    ) -> None:
        super().__init__(case, version, evaluate, **torch_arrays(device))
        self._scheduler = scheduler

    def begin(self, steps: int, exact: bool = False) -> None:
        super().begin(steps, exact)
        self._scheduler.set_timesteps(round(steps / self.problem.case.t0))
        self._timesteps = self._scheduler.timesteps[-steps:]
        if self._timesteps.tolist() != [level.time for level in self._levels[:-1]]:
            raise MissingError(f"its scheduler visits other levels with {steps} steps from t0 {self.problem.case.t0:g}")

    def update(self, out: Array, now: Level, then: Level) -> Array:
        noise = self._noise(KIND_STEP, self._row)
        at = self._timesteps[self._row]
        return self._scheduler.step(out, at, self._x, eta=1.0, variance_noise=noise).prev_sample


def diffusers_loop(case: Case, precision: str, device: str = "cpu") -> DiffusersLoop:
    """diffusers' model, with the same weights, and scheduler, in the loop of its image-to-image pipelines.

    device: torch's name.
    """
    import diffusers
    import torch

    from .weights import DIFFUSERS, betas, load_network

    torch.set_num_threads(case.threads)
    folder = weights_of(case) / DIFFUSERS
    if not folder.exists():
        raise MissingError("its UNet2DModel has no counterpart of this network")
    dtype = getattr(torch, precision)
    network = diffusers.UNet2DModel.from_pretrained(folder, torch_dtype=dtype, low_cpu_mem_usage=False).eval()
    network.to(device)
    problem = Problem(case)
    predictions = {"eps": "epsilon", "v": "v_prediction"}
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=len(problem.bundle.schedule),
        trained_betas=betas(problem.bundle.schedule.table),
        clip_sample=False,
        prediction_type=predictions[problem.bundle.prediction],
        timestep_spacing="trailing",
    )
    patch = round(math.sqrt(network.config.in_channels / problem.shape[0]))
    pattern = load_network(weights_of(case)).pattern
    if pattern is not None:
        pattern.to(device, dtype)
    evaluate = torch_evaluation(in_patches(network, patch, pattern), precision)
    version = f"diffusers {diffusers.__version__}, torch {torch.__version__}"
    return DiffusersLoop(case, version, evaluate, scheduler, device)


def in_patches(network: Any, patch: int, pattern: Any) -> Callable[[Array, Array], Array]:
    """Function (x, time) -> output of a diffusers network that works on patches of patch x patch pixels.

    pattern: the reference's Pattern, which diffusers has no counterpart of, or None.
    """
    from torch.nn import functional as F

    def evaluate(x: Array, time: Array) -> Array:
        patches = F.pixel_unshuffle(x, patch)
        out = network(patches, time, return_dict=False)[0]
        if pattern is not None:
            embedding = network.time_embedding(network.time_proj(time).to(out.dtype))
            out = pattern(out, patches, embedding)
        return F.pixel_shuffle(out, patch)

    return evaluate


def weights_of(case: Case) -> Path:
    if not case.weights:
        raise MissingError("the network's weights cannot be read back from this bundle's graph")
    return Path(case.weights)
