"""The laws of docs/design.md: kept pixels, same seed same bytes, and the moments that a Gaussian must have."""

import math

import numpy as np
import pytest
from gaussian import MU, SCHEDULES, exact_moments, final_moments, predict
from hypothesis import given, settings
from hypothesis import strategies as st
from states import same_bits
from stubs import Function, run, stub_loop

from sdedit.runtime.codec import to_image, to_state
from sdedit.runtime.loop import Task
from sdedit.runtime.plan import KEEPS, SAMPLERS, Plan, make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde

EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
VP = SCHEDULES["vp-cosine"]


def gaussian_network(schedule: Schedule, prediction: str) -> Function:
    levels = {np.float32(level.time): level for level in map(schedule.level, range(1, len(schedule) + 1))}
    return lambda x, time: predict(x.astype(np.float64), levels[np.float32(time)], prediction).astype(np.float32)


def wild_network(x: np.ndarray, time: float) -> np.ndarray:
    """A nonlinear network that differs at every time, so that nothing cancels by accident."""
    return np.sin(3 * x + np.float32(time)) + np.float32(0.1) * x


def image_task(plan: Plan, mask: np.ndarray, seed: int, image: int = 0) -> tuple[Task, np.ndarray]:
    values = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
    guide = np.ascontiguousarray(values.transpose(2, 0, 1)) / np.float32(127.5) - np.float32(1)
    return Task(plan, guide, mask, seed, image), values


# Law 1: what is kept is kept.


@pytest.mark.parametrize("keep", ["fresh", "fixed"])
@EVERY_SAMPLER
@settings(max_examples=10)
@given(seed=st.integers(0, 2**64 - 1), repeats=st.integers(1, 3), steps=st.integers(1, 6), part=st.floats(0, 1))
def test_kept_pixels_are_the_original_bytes(
    keep: str, sampler: str, seed: int, repeats: int, steps: int, part: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((9, 7)) < part) * rng.choice([0.1, 0.5, 1.0], (9, 7))
    plan = make_plan(VP, "v", t0=0.6, steps=steps, sampler=sampler, keep=keep, repeats=repeats)
    task, values = image_task(plan, mask.astype(np.float32), seed)
    (state,) = run(stub_loop(wild_network, (3, 9, 7)), [task])
    kept = mask == 0
    assert np.array_equal(np.asarray(to_image(state))[kept], values[kept])
    assert np.isfinite(state).all()


@pytest.mark.parametrize("keep", ["fresh", "fixed"])
def test_a_mask_of_zeros_gives_the_image_back(keep: str) -> None:
    plan = make_plan(VP, "v", t0=1.0, steps=5, sampler="ancestral", keep=keep, repeats=2)
    task, values = image_task(plan, np.zeros((8, 8), np.float32), 5)
    (state,) = run(stub_loop(wild_network, (3, 8, 8)), [task])
    assert np.array_equal(np.asarray(to_image(state)), values)


@pytest.mark.parametrize("keep", ["paper", "official"])
def test_the_printed_rules_return_what_they_compute(keep: str) -> None:
    """Algorithms 3 and 5 as printed leave the kept region at the last level visited, sigma_1 away from clean."""
    plan = make_plan(VP, "v", t0=0.5, steps=500, sampler="ancestral", keep=keep)
    task, _ = image_task(plan, np.zeros((32, 32), np.float32), 5)
    (state,) = run(stub_loop(wild_network, (3, 32, 32)), [task])
    level = VP.level(1)
    residue = state - np.float32(level.alpha) * task.guide
    assert residue.std() == pytest.approx(level.sigma, rel=5 / math.sqrt(2 * residue.size))


def test_state_and_image_are_inverse() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = to_image(to_state(to_image(values[None] / np.float32(127.5) - np.float32(1))))
    assert np.array_equal(np.asarray(image), values)


# Law 2: same seed, same bytes, wherever it runs.


def mixed_tasks() -> list[Task]:
    """Tasks with different t0, steps, samplers, keep rules, repeats, masks and seeds."""
    rng = np.random.default_rng(0)
    tasks = []
    for index, sampler in enumerate([*SAMPLERS, *SAMPLERS]):
        plan = make_plan(
            VP,
            "v",
            t0=0.3 + 0.05 * index,
            steps=2 + index % 5,
            sampler=sampler,
            keep=KEEPS[index % 4],
            repeats=1 + index % 3,
        )
        mask = rng.integers(0, 3, (6, 5)).astype(np.float32) / 2
        tasks.append(image_task(plan, mask, 2**63 + index, image=index)[0])
    return tasks


def test_neighbours_order_slots_and_twins_do_not_change_a_bit() -> None:
    tasks = mixed_tasks()
    alone = [run(stub_loop(wild_network, (3, 6, 5)), [task])[0] for task in tasks]
    for slots, kernels, order in ((1, "c", 1), (3, "c", 1), (5, "numpy", -1), (12, "c", -1)):
        together = run(stub_loop(wild_network, (3, 6, 5), slots, kernels), tasks[::order])[::order]
        assert all(same_bits(a, b) for a, b in zip(alone, together, strict=True))


def test_seed_and_image_each_change_the_noise_of_every_pixel() -> None:
    plan = make_plan(VP, "v", t0=0.5, steps=3, sampler="ancestral")
    mask = np.ones((8, 8), np.float32)
    guide = np.zeros((1, 8, 8), np.float32)
    loop = stub_loop(wild_network, (1, 8, 8))
    keys = ((1, 0), (1, 0), (2, 0), (1 + 2**32, 0), (1, 1))
    base, again, *others = (run(loop, [Task(plan, guide, mask, *key)])[0] for key in keys)
    assert same_bits(base, again)
    for other in others:
        assert (np.abs(base - other) > 1e-4).mean() > 0.95


def test_every_repeat_has_noise_of_its_own() -> None:
    """With a network that always predicts grey, the first state of each repeat shows that repeat's noise."""
    times: list[np.ndarray] = []

    def network(x: np.ndarray, time: float) -> np.ndarray:
        times.append(x.copy())
        return np.zeros_like(x)

    plan = make_plan(VP, "x0", t0=0.5, steps=2, sampler="ancestral", repeats=2)
    zeros = np.zeros((1, 8, 8), np.float32)
    run(stub_loop(network, (1, 8, 8)), [Task(plan, zeros, np.ones((8, 8), np.float32), 1, 0)])
    assert (np.abs(times[0] - times[2]) > 1e-4).mean() > 0.95


def test_idle_slots_cost_no_evaluation_and_every_row_is_told_its_time() -> None:
    plan = make_plan(VP, "v", t0=0.5, steps=4, sampler="ddim", repeats=2)
    loop = stub_loop(wild_network, (1, 4, 4), slots=3)
    task = Task(plan, np.zeros((1, 4, 4), np.float32), np.ones((4, 4), np.float32), 0, 0)
    run(loop, [task])
    assert loop._device.engine.calls == plan.rows["time"].tolist()  # type: ignore[attr-defined]


# Law 3: with the exact denoiser of a Gaussian, moments follow from the rows.


@pytest.mark.parametrize("name", SCHEDULES)
@EVERY_SAMPLER
def test_sampled_moments_are_those_of_the_recursion(name: str, sampler: str) -> None:
    """Mean and variance of 65,536 samples are within five standard errors."""
    schedule, steps, guide = SCHEDULES[name], 8, -0.5
    plan = make_plan(schedule, "x0", t0=0.6, steps=steps, sampler=sampler, clip=math.inf)
    loop = stub_loop(gaussian_network(schedule, "x0"), (1, 128, 128))
    full = np.full((1, 128, 128), guide, np.float32)
    tasks = [Task(plan, full, np.ones((128, 128), np.float32), 11, image) for image in range(4)]
    samples = np.stack(run(loop, tasks)).astype(np.float64)
    mean, variance = final_moments(plan, [schedule.level(k) for k in schedule.visit(0.6, steps)], guide)
    assert abs(samples.mean() - mean) < 5 * math.sqrt(variance / samples.size)
    assert abs(samples.var() - variance) < 5 * variance * math.sqrt(2 / samples.size)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_every_prediction_type_gives_the_same_edit(prediction: str) -> None:
    schedule = SCHEDULES["flow"] if prediction == "flow" else VP
    results = []
    for kind in ("x0", prediction):
        plan = make_plan(schedule, kind, t0=0.5, steps=20, sampler="dpmpp_2m_sde")
        loop = stub_loop(gaussian_network(schedule, kind), (1, 16, 16))
        task = Task(plan, np.full((1, 16, 16), MU, np.float32), np.ones((16, 16), np.float32), 3, 0)
        results.append(run(loop, [task])[0])
    assert np.abs(results[0] - results[1]).max() < 2e-5


FINE = Schedule(sde.rectified_flow(2**16))
"""So many levels that the schedule's own floor does not show."""


@pytest.mark.parametrize("sampler", [name for name, preset in SAMPLERS.items() if not preset.renoise])
def test_errors_fall_with_the_order_of_the_sampler(sampler: str) -> None:
    """Errors fall like 1/N and 1/N^2; the second order carries a logarithm, because the log-SNR has no end."""
    preset = SAMPLERS[sampler]
    errors = []
    for steps in (64, 1024):
        plan = make_plan(FINE, "x0", t0=0.5, steps=steps, sampler=sampler, clip=math.inf)
        levels = [FINE.level(k) for k in FINE.visit(0.5, steps)]
        _, variance = final_moments(plan, levels, -0.5)
        errors.append(abs(math.sqrt(variance) - math.sqrt(exact_moments(levels[0], -0.5, preset.eta)[1])))
    slope = math.log(errors[0] / errors[1]) / math.log(1024 / 64)
    assert slope == pytest.approx(preset.order, abs=0.1 if preset.order == 1 else 0.35)
    assert errors[1] < (1e-3 if preset.order == 1 else 3e-5)


@pytest.mark.parametrize("name", SCHEDULES)
@EVERY_SAMPLER
def test_a_pixel_that_joins_late_has_the_law_of_an_unmasked_edit_from_there(name: str, sampler: str) -> None:
    schedule, guide = SCHEDULES[name], -0.5
    plan = make_plan(schedule, "x0", t0=0.8, steps=8, sampler=sampler, clip=math.inf)
    ks = schedule.visit(0.8, 8)
    late = 5  # the row at which m = ks[5] / ks[0] joins
    mask = np.full((128, 128), plan.rows["threshold"][late], np.float32)
    loop = stub_loop(gaussian_network(schedule, "x0"), (1, 128, 128))
    tasks = [Task(plan, np.full((1, 128, 128), guide, np.float32), mask, 21, image) for image in range(4)]
    samples = np.stack(run(loop, tasks)).astype(np.float64)

    levels = [schedule.level(k) for k in ks[late:]]
    tail = plan.rows[late:].copy()
    tail["h_threshold"][0] = math.inf  # nothing was predicted for this pixel before
    from_there = Plan(tail, levels[0].alpha, levels[0].sigma, True)
    mean, variance = final_moments(from_there, levels, guide)
    assert abs(samples.mean() - mean) < 5 * math.sqrt(variance / samples.size)
    assert abs(samples.var() - variance) < 5 * variance * math.sqrt(2 / samples.size)
