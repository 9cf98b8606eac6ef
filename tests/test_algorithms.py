"""The algorithms as printed, and law 4: the runtime computes them. Float64 against the runtime's float32."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gaussian import MU, TAU, mixture_denoiser, mixture_moments
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import Function, run, stub_loop
from torch import Tensor

from sdedit.runtime.loop import Task
from sdedit.runtime.plan import make_plan, predict_x0
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde
from sdedit_ref.algorithms import (
    Level,
    Noise,
    Score,
    algorithm_2,
    algorithm_3,
    algorithm_4,
    algorithm_5,
    levels,
    noise,
    official,
    score,
)

SHAPE = (3, 8, 6)
SCHEDULES = {
    "linear": sde.linear(),
    "scaled_linear": sde.scaled_linear(),
    "cosine": sde.cosine(),
    "ve": sde.variance_exploding(sigma_max=1348 / 2),  # 1348 where data are in [-1, 1]
}
VP = ("linear", "scaled_linear", "cosine")
SEED = 2**40 + 5
TOLERANCE = 2e-4
"""1e-4 of the data's range, [-1, 1]."""


def network(x: Tensor, time: Tensor) -> Tensor:
    """A prediction of x0 that is not linear and different at every time; in the dtype of x."""
    t = time[:, None, None, None]
    return 0.7 * torch.tanh(0.5 * x.roll(1, dims=-1) - 0.3 * x) + 0.2 * torch.sin(t + x)


def eps_network(x: Tensor, time: Tensor) -> Tensor:
    """A prediction of the noise that moves x0 where there is much of it and nothing where there is none."""
    return 0.8 * torch.tanh(x) + 0.1 * torch.sin(time[:, None, None, None] + x)


def in_numpy(network: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """The network evaluated in float64 for the runtime's loop, so that only the loop's own rounding is compared."""

    def function(x: np.ndarray, time: float) -> np.ndarray:
        return network(torch.from_numpy(x).double(), torch.tensor([time], dtype=torch.float64)).float().numpy()

    return function


def guide_and_mask(part: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    guide = random.uniform(-1, 1, SHAPE).astype(np.float32)
    return guide, (random.random(SHAPE[1:]) < part).astype(np.float32)


def runtime_edit(
    table: np.ndarray, function: Function, mask: np.ndarray | None, *, t0: float, steps: int, **plan: object
) -> np.ndarray:
    guide, _ = guide_and_mask()
    rows = make_plan(Schedule(table), t0=t0, steps=steps, clip=math.inf, **plan)  # type: ignore[arg-type]
    mask = np.ones(SHAPE[1:], np.float32) if mask is None else mask
    (result,) = run(stub_loop(function, SHAPE), [Task(rows, guide, mask, SEED, 0)])
    return result


def as_tensors(guide: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(guide)[None].double(), torch.from_numpy(mask).double()


# Law 4: the runtime is the paper, with the same noise.


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_runtime_computes_the_printed_algorithms(name: str, masked: bool, repeats: int) -> None:
    """500 steps: rounding of float32 is damped by every step, so it does not grow with their number."""
    table, steps = SCHEDULES[name], 500
    guide, mask = guide_and_mask()
    result = runtime_edit(
        table,
        in_numpy(network),
        mask if masked else None,
        t0=1.0 if name == "ve" else 0.6,
        steps=steps,
        prediction="x0",
        sampler="euler_maruyama",
        keep="paper",
        repeats=repeats,
    )
    g, M = as_tensors(guide, mask if masked else np.ones_like(mask))
    ks = Schedule(table).visit(1.0 if name == "ve" else 0.6, steps)
    s, visited, z = score(network, "x0", table, ks), levels(table, ks), noise(g, SEED, steps)
    expected = (algorithm_5 if name in VP else algorithm_3)(s, g, M, visited, z, repeats)
    assert np.abs(result - expected[0].numpy()).max() < TOLERANCE
    if not masked and repeats == 1:
        unmasked = (algorithm_4 if name in VP else algorithm_2)(s, g, visited, z)
        assert torch.allclose(unmasked, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_runtime_computes_the_official_code(masked: bool, repeats: int) -> None:
    """t0 = 0.5 of 1000 levels in 500 steps: every level, as the official loop visits them."""
    steps, table = 500, sde.linear()
    guide, mask = guide_and_mask()
    result = runtime_edit(
        table,
        in_numpy(eps_network),
        mask if masked else None,
        t0=0.5,
        steps=steps,
        prediction="eps",
        sampler="ancestral",
        keep="official",
        repeats=repeats,
    )
    g, M = as_tensors(guide, mask if masked else np.ones_like(mask))
    betas = np.linspace(1e-4, 0.02, 1000)[:steps].tolist()

    def eps(x: Tensor, n: int) -> Tensor:
        return eps_network(x, torch.full((len(x),), n - 1.0, dtype=x.dtype))

    expected = official(eps, g, M, betas, noise(g, SEED, steps), repeats)
    assert np.abs(result - expected[0].numpy()).max() < TOLERANCE


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
def test_a_score_is_what_the_runtime_makes_of_the_networks_output(prediction: str) -> None:
    table = sde.rectified_flow() if prediction == "flow" else sde.cosine()
    x, o = torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    told: list[float] = []

    def recorded(x: Tensor, time: Tensor) -> Tensor:
        told.extend(time.tolist())
        return o

    ks = [900, 400, 3]
    for n, k in zip((3, 2, 1), ks, strict=True):
        level = Schedule(table).level(k)
        a_x, a_o = predict_x0(prediction, level)
        expected = (level.alpha * (a_x * x + a_o * o) - x) / level.sigma**2
        assert torch.allclose(score(recorded, prediction, table, ks)(x, n), expected, rtol=1e-9)
        assert told[-2:] == [level.time] * 2


def test_a_prediction_that_is_none_is_refused() -> None:
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="prediction 'epsilon' is not one of eps, v, x0, flow"):
        score(lambda x, time: x, "epsilon", sde.cosine(), [1])(x, 1)


# What is printed, and what is left out of it.


@pytest.mark.parametrize(("algorithm", "name"), [(algorithm_2, "ve"), (algorithm_4, "linear")])
def test_the_last_printed_noise_is_that_of_the_first_level(algorithm: Callable[..., Tensor], name: str) -> None:
    guide, _ = guide_and_mask()
    g = torch.from_numpy(guide)[None].double()
    table, ks = SCHEDULES[name], [500, 300, 100]
    s, visited, z = score(network, "x0", table, ks), levels(table, ks), noise(g, SEED, 3)
    left_out = algorithm(s, g, visited, z)
    printed = algorithm(s, g, visited, z, last_noise=True)
    assert torch.allclose(printed - left_out, visited[1][1] * z(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("algorithm", "name"), [(algorithm_3, "ve"), (algorithm_5, "linear")])
def test_with_a_mask_the_last_printed_noise_is_where_it_edits(algorithm: Callable[..., Tensor], name: str) -> None:
    g, M = as_tensors(*guide_and_mask())
    table, ks = SCHEDULES[name], [500, 300, 100]
    s, visited, z = score(network, "x0", table, ks), levels(table, ks), noise(g, SEED, 3)
    left_out = algorithm(s, g, M, visited, z)
    printed = algorithm(s, g, M, visited, z, last_noise=True)
    assert torch.allclose(printed - left_out, M * visited[1][1] * z(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_computed_in_the_dtype_of_the_guide(dtype: torch.dtype) -> None:
    guide, mask = guide_and_mask()
    g, M = torch.from_numpy(guide)[None].to(dtype), torch.from_numpy(mask).to(dtype)
    ks = [500, 250]
    visited, z = levels(sde.cosine(), ks), noise(g, SEED, 2)

    def s(x: Tensor, n: int) -> Tensor:
        assert x.dtype == dtype
        return -x

    assert algorithm_2(s, g, visited, z).dtype == dtype
    assert algorithm_3(s, g, M, visited, z).dtype == dtype
    assert algorithm_4(s, g, visited, z).dtype == dtype
    assert algorithm_5(s, g, M, visited, z).dtype == dtype
    assert official(s, g, M, [0.01, 0.02], z).dtype == dtype


def test_the_kept_region_of_the_printed_algorithms_stays_at_the_first_level() -> None:
    guide, _ = guide_and_mask()
    g, M = as_tensors(guide, np.zeros(SHAPE[1:], np.float32))
    for algorithm, name in ((algorithm_3, "ve"), (algorithm_5, "linear")):
        table, ks = SCHEDULES[name], [600, 300]
        z, visited = noise(g, SEED, 2), levels(SCHEDULES[name], ks)
        result = algorithm(score(network, "x0", table, ks), g, M, visited, z, K=2)
        alpha, sigma = visited[1]
        assert torch.equal(result, alpha * g + sigma * z(1, 1))


def test_the_noise_is_the_runtimes_whatever_the_batch() -> None:
    g = torch.zeros(3, *SHAPE)
    z = noise(g, SEED, 7, image=4)
    alone = noise(g[:1], SEED, 7, image=5)
    assert torch.equal(z(2, 3)[1:2], alone(2, 3))
    assert torch.equal(z(2, 0)[1:2], alone(2, 0))
    assert not torch.equal(alone(2, 3), alone(2, 0))


# Closed forms.


def generated(shape: tuple[int, ...]) -> Noise:
    random = torch.Generator().manual_seed(11)
    return lambda k, n: torch.randn(shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    ("algorithm", "table"), [(algorithm_2, sde.variance_exploding(sigma_max=25.0)), (algorithm_4, sde.linear())]
)
def test_a_mixture_of_gaussians_comes_out_as_its_exact_reverse_sde_has_it(
    algorithm: Callable[..., Tensor], table: np.ndarray
) -> None:
    """65,536 samples, 200 steps; both moments within five standard errors.

    The steps' own error, measured as 0.3 / N on VE and less on VP, is below one of them.
    """
    visited = levels(table, Schedule(table).visit(0.6, 200))

    def s(x: Tensor, n: int) -> Tensor:
        alpha, sigma = visited[n]
        return (alpha * torch.from_numpy(mixture_denoiser(x.numpy(), alpha, sigma)) - x) / sigma**2

    guide = -0.2
    g = torch.full((1, 1, 256, 256), guide, dtype=torch.float64)
    result = algorithm(s, g, visited, generated(g.shape)).numpy()
    for power, expected in enumerate(mixture_moments(*visited[-1], guide), 1):
        values = result**power
        assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(values.size)


def distance_bound(C: float, sigma: float, d: int, delta: float, noises: int) -> float:
    """|| x(g) - SDEdit(x(g)) ||^2 is above this with probability delta at most, where || s ||^2 <= C.

    The drift moves x by sqrt(C) sigma^2 at most, as the steps' e^2 sum up to sigma^2. What is added to it is normal
    with variance `noises` sigma^2, and its square is bounded by Laurent & Massart 2000, lemma 1. Proposition 1 as
    printed has noises = 1, that of the way back, and no product of the two; but x(t0) = x(g) + sigma z begins with as
    much noise again. So the bound that holds has noises = 2 and the triangle inequality.
    """
    tail = d + 2 * math.sqrt(-d * math.log(delta)) - 2 * math.log(delta)
    return (math.sqrt(C) * sigma**2 + sigma * math.sqrt(noises * tail)) ** 2


def printed_bound(C: float, sigma: float, d: int, delta: float) -> float:
    """Proposition 1 as printed."""
    return sigma**2 * (C * sigma**2 + d + 2 * math.sqrt(-d * math.log(delta)) - 2 * math.log(delta))


def away(g: Tensor, C: float) -> Score:
    """The worst bounded score there is: straight away from the guide."""

    def s(x: Tensor, n: int) -> Tensor:
        gap = x - g
        return math.sqrt(C) * gap / gap.flatten(1).norm(dim=1)[:, None, None, None]

    return s


def distances(s: Score, g: Tensor, visited: list[Level]) -> np.ndarray:
    """Squared distances of results from the guide; as printed, with the last line's noise."""
    result = algorithm_2(s, g, visited, generated(tuple(g.shape)), last_noise=True)
    return (result - g).flatten(1).square().sum(1).numpy()


@settings(max_examples=10, deadline=None)
@given(C=st.sampled_from([0.0, 1.0, 100.0, 1e4]), t0=st.floats(0.2, 0.8), delta=st.sampled_from([0.3, 0.05]))
def test_proposition_1_with_both_noises(C: float, t0: float, delta: float) -> None:
    """If a share delta of 300 edits exceeds the bound, 5 deviations more than 300 delta have a chance of 1e-6."""
    table = sde.variance_exploding(sigma_max=25.0)
    visited = levels(table, Schedule(table).visit(t0, 20))
    g = torch.full((300, 3, 4, 4), 0.1, dtype=torch.float64)
    bound = distance_bound(C, visited[-1][1], 48, delta, noises=2)
    exceeded = int((distances(away(g, C), g, visited) > bound).sum())
    assert exceeded <= 300 * delta + 5 * math.sqrt(300 * delta * (1 - delta))


def test_proposition_1_as_printed_counts_one_of_two_noises() -> None:
    """With a score of zero the result is the guide with the noise of both ways: the printed bound never holds."""
    table = sde.variance_exploding(sigma_max=25.0)
    visited = levels(table, Schedule(table).visit(0.5, 20))
    g = torch.zeros((20, 3, 16, 16), dtype=torch.float64)
    found = distances(lambda x, n: torch.zeros_like(x), g, visited)
    assert (found > printed_bound(0, visited[-1][1], 768, 0.05)).all()
    assert (found < distance_bound(0, visited[-1][1], 768, 1e-6, noises=2)).all()


def test_proposition_1_as_printed_holds_for_a_denoiser() -> None:
    """A true score pulls the noise back, and its bound C is large; this test measures C during the edits."""
    table = sde.variance_exploding(sigma_max=25.0)
    visited = levels(table, Schedule(table).visit(0.5, 50))
    g = torch.full((200, 3, 8, 8), -0.4, dtype=torch.float64)
    largest = [0.0]

    def s(x: Tensor, n: int) -> Tensor:
        value = (MU - x) / (TAU**2 + visited[n][1] ** 2)
        largest[0] = max(largest[0], float(value.flatten(1).square().sum(1).max()))
        return value

    found = distances(s, g, visited)
    assert (found < printed_bound(largest[0], visited[-1][1], 192, 0.05)).all()
