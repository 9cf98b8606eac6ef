"""Schedules and plans: the one formula against each sampler's own, and every refusal."""

import itertools
import math
import warnings

import numpy as np
import pytest
from gaussian import SCHEDULES
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdedit.errors import PlanError
from sdedit.runtime.plan import KEEPS, MAX_ROWS, SAMPLERS, Plan, fill_rows, make_plan, predict_x0
from sdedit.runtime.schedule import CLEAN, PREDICTIONS, Level, Schedule
from sdedit_ref import sde

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


def plan_of(schedule: Schedule, t0: float = 0.5, steps: int = 20, sampler: str = "ancestral", **more: object) -> Plan:
    return make_plan(schedule, "x0", t0=t0, steps=steps, sampler=sampler, **more)  # type: ignore[arg-type]


@given(st.integers(1, 1000), st.data())
def test_visited_levels_fall_evenly_from_t0(first: int, data: st.DataObject) -> None:
    schedule = SCHEDULES["vp-linear"]
    steps = data.draw(st.integers(1, first))
    levels = schedule.visit(first / 1000, steps)
    assert levels[0] == first
    assert len(levels) == steps
    gaps = [a - b for a, b in itertools.pairwise([*levels, 0])]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    exact = [n * first / steps for n in range(steps, 0, -1)]
    assert all(abs(k - e) <= 0.5 for k, e in zip(levels, exact, strict=True))


def test_all_levels_are_visited_when_there_are_as_many_steps() -> None:
    assert SCHEDULES["ve"].visit(0.5, 500) == list(range(500, 0, -1))


@EVERY_SCHEDULE
@EVERY_SAMPLER
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_preset_fills_finite_rows_on_every_schedule(schedule: Schedule, sampler: str, prediction: str) -> None:
    t0 = 0.999 if prediction == "eps" else 1.0  # flow ends at alpha = 0, where eps says nothing of x0
    rows = make_plan(schedule, prediction, t0=t0, steps=50, sampler=sampler).rows
    for name in rows.dtype.names or ():
        values = rows[name] if name != "h_threshold" else rows[name][1:]
        assert np.isfinite(values).all(), name


def a_ulp_apart() -> np.ndarray:
    sigma = 0.5
    return np.array([[1.0, sigma, 1.0], [1.0, np.nextafter(sigma, 1), 2.0]])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([[1, 1e-200, 1], [1e-200, 1, 2]]), "must lie in 1e-30"),
        (np.array([[1, 0.1, 1], [1e-200, 1, 2]]), "must lie in 1e-30"),
        (np.array([[1, 0.1, 1], [1, 1e200, 2]]), "must lie in 1e-30"),
        (np.array([[1, 1e-25, 1], [1e-20, 1e20, 2]]), "alpha / sigma, if above 0, must lie in"),
        (a_ulp_apart(), "must fall by more than 1e-12 of it with every level"),
    ],
)
def test_levels_whose_coefficients_overflow_are_refused(table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(table)


@st.composite
def accepted_schedules(draw: st.DrawFn) -> Schedule:
    """Two to four levels with numbers of any size that Schedule accepts."""
    size = draw(st.integers(2, 4))
    exponents = st.floats(-30, 30)
    rows = [(10 ** draw(st.floats(-30, 0)), 10 ** draw(exponents), float(k)) for k in range(size)]
    if draw(st.booleans()):
        base = 10 ** draw(exponents)
        rows = [(1.0, base * (1 + k * 10 ** draw(st.floats(-12, 0))), float(k)) for k in range(size)]
    rows.sort(key=lambda row: -row[0] / row[1])
    try:
        return Schedule(np.array(rows))
    except ValueError:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(schedule=accepted_schedules(), sampler=st.sampled_from(list(SAMPLERS)), prediction=st.sampled_from(PREDICTIONS))
def test_no_accepted_schedule_breaks_a_plan(schedule: Schedule, sampler: str, prediction: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numbers that float32 does not hold
        rows = make_plan(schedule, prediction, t0=1.0, steps=len(schedule), sampler=sampler).rows
    for name in ("a_x", "a_o", "c_x", "c_0", "c_h", "c_z", "k_g", "k_z"):
        assert np.isfinite(rows[name]).all(), name


@EVERY_SCHEDULE
@EVERY_SAMPLER
@given(steps=st.integers(1, 40), t0=st.floats(0.05, 0.99))
def test_rows_carry_a_clean_image_to_the_next_level(schedule: Schedule, sampler: str, steps: int, t0: float) -> None:
    """A perfect prediction x0 keeps x = a x0 + s z: its mean, and its variance but where the paper adds more."""
    preset = SAMPLERS[sampler]
    levels = [*map(schedule.level, schedule.visit(t0, steps)), CLEAN]
    rows = fill_rows(levels, preset.eta, preset.order, preset.wide, preset.renoise)
    for (now, then), (c_x, c_0, c_h, c_z) in zip(itertools.pairwise(levels), rows, strict=True):
        assert c_x * now.alpha + c_0 + c_h == pytest.approx(then.alpha, rel=1e-9, abs=1e-12)
        variance = c_x**2 * now.sigma**2 + c_z**2
        if preset.wide and then.sigma > 0:
            assert variance >= then.sigma**2 * (1 - 1e-9)
        else:
            assert variance == pytest.approx(then.sigma**2, rel=1e-9, abs=1e-15)


def neighbours(schedule: Schedule, k: int) -> tuple[Level, Level]:
    return schedule.level(k), schedule.level(k - 1)


@pytest.mark.parametrize("k", [2, 10, 500, 1000])
def test_ancestral_is_ddpm(k: int) -> None:
    """Ho et al. 2020, eq. 7: posterior mean and "fixed small" variance."""
    schedule = SCHEDULES["vp-linear"]
    now, then = neighbours(schedule, k)
    beta = 1 - (now.alpha / then.alpha) ** 2
    c_x, c_0, _, c_z = fill_rows([now, then, CLEAN], 1.0, 1, False)[0]
    assert c_x == pytest.approx(math.sqrt(1 - beta) * then.sigma**2 / now.sigma**2, rel=1e-8)
    assert c_0 == pytest.approx(then.alpha * beta / now.sigma**2, rel=1e-8)
    assert c_z**2 == pytest.approx(beta * then.sigma**2 / now.sigma**2, rel=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_ddim(eta: float) -> None:
    """Song et al. 2021, eq. 12: x' = a' x0 + sqrt(s'^2 - d^2) eps + d z."""
    now, then = SCHEDULES["vp-cosine"].level(600), SCHEDULES["vp-cosine"].level(540)
    d = eta * then.sigma / now.sigma * math.sqrt(1 - (now.alpha / then.alpha) ** 2)
    c_x, c_0, _, c_z = fill_rows([now, then, CLEAN], eta, 1, False)[0]
    direction = math.sqrt(then.sigma**2 - d * d)
    assert c_x == pytest.approx(direction / now.sigma, rel=1e-12)
    assert c_0 == pytest.approx(then.alpha - direction * now.alpha / now.sigma, rel=1e-12)
    assert c_z == pytest.approx(d, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("k", [3, 200, 999])
def test_euler_maruyama_on_ve_is_algorithm_2(k: int) -> None:
    """x + e^2 s + e z with the score s = (x0 - x) / sigma^2."""
    now, then = neighbours(SCHEDULES["ve"], k)
    e2 = now.sigma**2 - then.sigma**2
    c_x, c_0, _, c_z = fill_rows([now, then, CLEAN], 1.0, 1, True)[0]
    assert c_x == pytest.approx(1 - e2 / now.sigma**2, rel=1e-9)
    assert c_0 == pytest.approx(e2 / now.sigma**2, rel=1e-9)
    assert c_z == pytest.approx(math.sqrt(e2), rel=1e-12)


@pytest.mark.parametrize("k", [3, 200, 999])
def test_euler_maruyama_on_vp_is_algorithm_4(k: int) -> None:
    """(x + b s) / sqrt(1 - b) + sqrt(b) z with the score s = (a x0 - x) / sigma^2."""
    now, then = neighbours(SCHEDULES["vp-linear"], k)
    b = 1 - (now.alpha / then.alpha) ** 2
    c_x, c_0, _, c_z = fill_rows([now, then, CLEAN], 1.0, 1, True)[0]
    assert c_x == pytest.approx((1 - b / now.sigma**2) / math.sqrt(1 - b), rel=1e-7)
    assert c_0 == pytest.approx(b * now.alpha / now.sigma**2 / math.sqrt(1 - b), rel=1e-7)
    assert c_z == pytest.approx(math.sqrt(b), rel=1e-9)


@EVERY_SCHEDULE
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_second_order_is_dpm_solver_2m(schedule: Schedule, eta: float) -> None:
    """Lu et al. 2022, eq. 18, in log-SNR lam: x' = s'/s e^(-eta h) x + a' (1 - e^(-h - eta h)) D, D extrapolated."""
    levels = [schedule.level(k) for k in (700, 500, 350)]
    rows = fill_rows([*levels, CLEAN], eta, 2, False)
    lam = [math.log(level.alpha / level.sigma) for level in levels]
    assert rows[0] == fill_rows([*levels, CLEAN], eta, 1, False)[0]
    h, h_last = lam[2] - lam[1], lam[1] - lam[0]
    weight = levels[2].alpha * (1 - math.exp(-h - eta * h))
    c_x, c_0, c_h, _ = rows[1]
    assert c_x == pytest.approx(levels[2].sigma / levels[1].sigma * math.exp(-eta * h), rel=1e-9)
    assert c_0 == pytest.approx(weight * (1 + h / (2 * h_last)), rel=1e-9)
    assert c_h == pytest.approx(-weight * h / (2 * h_last), rel=1e-9)
    assert rows[2] == (0.0, 1.0, 0.0, 0.0)


@EVERY_SCHEDULE
def test_lcm_noises_each_prediction_anew(schedule: Schedule) -> None:
    """Song et al. 2023, Algorithm 1: x' = a' x0 + s' z, whatever x was."""
    ks = schedule.visit(0.8, 4)
    rows = plan_of(schedule, t0=0.8, steps=4, sampler="lcm").rows
    for row, k in zip(rows, ks[1:], strict=False):
        a, s, _ = schedule.level(k)
        assert [row[name] for name in ("c_x", "c_0", "c_h", "c_z")] == [0, np.float32(a), 0, np.float32(s)]


def coefficients(plan: Plan) -> np.ndarray:
    return np.stack([plan.rows[name] for name in ("c_x", "c_0", "c_h", "c_z")])


@EVERY_SCHEDULE
def test_presets_are_equal_where_they_must_be(schedule: Schedule) -> None:
    def one(sampler: str, steps: int = 20, **more: float) -> np.ndarray:
        return coefficients(plan_of(schedule, steps=steps, sampler=sampler, **more))

    assert np.array_equal(one("euler"), one("ddim"))
    assert np.array_equal(one("ancestral"), one("ddim", eta=1.0))
    assert np.array_equal(one("dpmpp_2m")[:, 0], one("euler")[:, 0])
    assert np.array_equal(one("dpmpp_2m_sde")[:, 0], one("ancestral")[:, 0])
    for sampler in SAMPLERS:
        assert one(sampler, steps=1).tolist() == [[0], [1], [0], [0]]
        assert one(sampler)[:, -1].tolist() == [0, 1, 0, 0]


@given(st.floats(0.01, 1), st.floats(0.01, 100), st.floats(-2, 2), st.floats(-2, 2))
def test_every_prediction_gives_back_x0(a: float, s: float, x0: float, z: float) -> None:
    level = Level(a, s, 0)
    x = a * x0 + s * z
    outputs = {"eps": z, "v": a * z - s * x0, "x0": x0, "flow": z - x0}
    for prediction, o in outputs.items():
        a_x, a_o = predict_x0(prediction, level)
        vp_only = a * a + s * s if prediction == "v" else 1
        assert a_x * x + a_o * o == pytest.approx(vp_only * x0, abs=1e-9 * (1 + s / a) * (1 + s))


def test_keep_rules() -> None:
    schedule = SCHEDULES["vp-linear"]
    levels = [schedule.level(k) for k in (500, 250)] + [CLEAN]
    for keep in KEEPS:
        plan = plan_of(schedule, steps=2, keep=keep)
        kept_at = levels[1:] if keep in ("fresh", "fixed") else levels[:2]
        assert plan.rows["k_g"].tolist() == [np.float32(level.alpha) for level in kept_at]
        assert plan.rows["k_z"].tolist() == [np.float32(level.sigma) for level in kept_at]
        assert plan.rows["keep_noise"].tolist() == [int(keep in ("fixed", "official"))] * 2
        assert plan.keeps_exactly == (keep in ("fresh", "fixed"))


def test_thresholds_follow_the_levels_and_repeats_start_over() -> None:
    rows = plan_of(SCHEDULES["vp-linear"], t0=0.8, steps=4, repeats=2).rows
    assert rows["threshold"].tolist() == [1, 0.75, 0.5, 0.25] * 2
    assert rows["h_threshold"].tolist() == [math.inf, 1, 0.75, 0.5] * 2
    assert rows["step"].tolist() == [0, 1, 2, 3] * 2
    assert rows["repeat"].tolist() == [0] * 4 + [1] * 4
    assert rows["time"].tolist() == [799, 599, 399, 199] * 2


def test_a_plan_begins_at_the_level_of_t0() -> None:
    plan = plan_of(SCHEDULES["ve"], t0=0.4)
    level = SCHEDULES["ve"].level(400)
    assert (plan.alpha0, plan.sigma0) == (level.alpha, level.sigma)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t0": 0.0}, r"t0 0.0 is not in \(0, 1\]"),
        ({"t0": 1.01}, "t0 1.01"),
        ({"t0": math.nan}, "t0 nan"),
        ({"t0": 0.0004}, "t0 0.0004 is below the schedule's first level: at least 0.0005"),
        ({"steps": 0}, r"steps 0 is not in 1..500"),
        ({"steps": 501}, r"steps 501 is not in 1..500"),
        ({"sampler": "heun"}, "sampler 'heun' is not one of ancestral, ddim, dpmpp_2m"),
        ({"eta": 0.5}, "eta 0.5 belongs to sampler ddim; ancestral has its own"),
        ({"sampler": "ddim", "eta": 1.5}, r"eta 1.5 is not in \[0, 1\]"),
        ({"sampler": "ddim", "eta": math.nan}, "eta nan"),
        ({"keep": "stale"}, "keep 'stale' is not one of fresh, fixed, paper, official"),
        ({"repeats": 0}, "repeats 0"),
        ({"steps": 500, "repeats": 9}, f"4500 network evaluations exceed the {MAX_ROWS}"),
        ({"clip": 0.0}, "clip 0.0"),
        ({"clip": math.nan}, "clip nan"),
        ({"guidance": math.inf}, "guidance inf"),
    ],
)
def test_arguments_that_make_no_plan(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(SCHEDULES["vp-linear"], **arguments)  # type: ignore[arg-type]


def test_eps_says_nothing_where_alpha_is_zero() -> None:
    with pytest.raises(PlanError, match="choose a smaller t0"):
        make_plan(SCHEDULES["flow"], "eps", t0=1.0, steps=5, sampler="ddim")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((0, 3)), r"float64 \[T, 3\]"),
        (np.zeros((3, 2)), r"float64 \[T, 3\]"),
        (sde.linear().astype(np.float32), "float32"),
        (np.array([[np.nan, 1.0, 0.0]]), "not finite"),
        (np.array([[1.1, 1.0, 0.0]]), "alpha must lie in"),
        (np.array([[0.9, 0.0, 0.0]]), "sigma above 0"),
        (sde.linear()[::-1].copy(), "from clean to noisy"),
    ],
)
def test_tables_that_are_no_schedule(table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(table)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_vp_tables_preserve_variance(name: str) -> None:
    alpha, sigma, time = sde.SCHEDULES[name](1000).T
    assert np.abs(alpha**2 + sigma**2 - 1).max() < 1e-12
    assert time.tolist() == list(range(1000))


def test_the_linear_table_is_ddpms() -> None:
    """sigma of the first level is sqrt(beta_1) = 0.01; the last alpha^2 is the published 4.0358e-5."""
    table = sde.linear()
    assert table[0, 1] == pytest.approx(0.01, rel=1e-12)
    assert table[-1, 0] ** 2 == pytest.approx(4.0358e-5, rel=1e-4)
