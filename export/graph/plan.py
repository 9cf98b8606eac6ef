"""runtime.plan as ONNX operators: a plan's columns as vectors, computed in float64 and rounded to float32."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sdedit.runtime.plan import KEEPS, SAMPLERS
from sdedit.runtime.schedule import Schedule

from .builder import DOUBLE, FLOAT, INT64, Builder


@dataclass(frozen=True)
class Plan:
    """columns: float32 [steps] by name. alpha0, sigma0: float32. keep_noise: bool. All are names of values."""

    columns: Mapping[str, str]
    alpha0: str
    sigma0: str
    keep_noise: str


def make_plan(g: Builder, schedule: Schedule, prediction: str) -> Plan:
    """The plan of one repeat from the graph's inputs t0, steps, sampler, eta and keep.

    sampler, keep: places in SAMPLERS and KEEPS. eta: below 0 for the sampler's own. Nothing is checked: an edit with
    more steps than there are levels, or with an eps network at alpha = 0, gives numbers that mean nothing.
    """
    first = g.cast(g.add(g.mul("t0", g.f64(len(schedule))), g.f64(0.5)), INT64)
    n = g.op("Range", "steps", g.i64(0), g.i64(-1))
    ks = g.div(g.add(g.mul(g.mul(g.i64(2), n), first), "steps"), g.mul(g.i64(2), "steps"))
    table = np.ascontiguousarray(schedule.table.T)
    a, s, time = (g.op("Gather", g.f64(column), g.sub(ks, g.i64(1))) for column in table)
    now, then = (a, s), (shifted(g, a, 1.0), shifted(g, s, 0.0))
    threshold = g.div(g.cast(ks, DOUBLE), g.cast(first, DOUBLE))
    before = g.op("Slice", threshold, g.i64([0]), g.i64([-1]))
    is_now = g.op("Gather", g.constant([keep in ("paper", "official") for keep in KEEPS], np.bool_), "keep")
    is_now = g.op("Expand", is_now, g.op("Shape", ks))
    columns = {
        "time": time,
        **predictions(g, prediction, a, s),
        **sampler_columns(g, now, then, n),
        "k_g": g.choose(is_now, now[0], then[0]),
        "k_z": g.choose(is_now, now[1], then[1]),
        "threshold": threshold,
        "h_threshold": g.op("Concat", g.f64([np.inf]), before, axis=0),
    }
    rounded = {name: g.cast(column, FLOAT) for name, column in columns.items()}
    alpha0, sigma0 = (g.cast(g.op("Gather", column, g.i64(0)), FLOAT) for column in now)
    keep_noise = g.op("Gather", g.constant([keep in ("fixed", "official") for keep in KEEPS], np.bool_), "keep")
    return Plan(rounded, alpha0, sigma0, keep_noise)


def sampler_columns(g: Builder, now: tuple[str, str], then: tuple[str, str], n: str) -> dict[str, str]:
    """fill_rows: c_x, c_0, c_h and c_z. n: steps, ..., 1."""
    zero, one, two = g.f64(0), g.f64(1), g.f64(2)
    (a, s), (a_next, s_next) = now, then
    eta, order, wide, renoise = preset(g)
    is_last, is_first = g.op("Equal", n, g.i64(1)), g.op("Equal", n, "steps")
    r = g.div(a, a_next)
    left = g.mul(g.mul(g.mul(r, r), s_next), s_next)
    e = g.op("Sqrt", g.op("Max", g.sub(g.mul(s, s), left), zero))
    d = g.where(renoise, s_next, g.div(g.mul(g.mul(eta, e), s_next), s))
    c_x = g.div(g.op("Sqrt", g.op("Max", g.sub(g.mul(s_next, s_next), g.mul(d, d)), zero)), s)
    c_0 = g.sub(a_next, g.mul(a, c_x))
    gap = g.op("Log", g.div(g.mul(a_next, s), g.mul(a, s_next)))
    previous = g.op("Slice", g.op("Concat", g.f64([1]), gap, axis=0), g.i64([0]), g.i64([-1]))
    q = g.div(gap, g.mul(two, previous))
    second = g.op("And", g.op("Equal", order, g.i64(2)), g.op("Not", g.op("Or", is_first, is_last)))
    c_h = g.choose(second, g.mul(g.op("Neg", c_0), q), zero)
    c_0 = g.choose(second, g.mul(c_0, g.add(one, q)), c_0)
    noise = g.choose(g.op("Expand", wide, g.op("Shape", n)), e, d)
    return {
        "c_x": g.choose(is_last, zero, c_x),
        "c_0": g.choose(is_last, one, c_0),
        "c_h": g.choose(is_last, zero, c_h),
        "c_z": g.choose(is_last, zero, noise),
    }


def preset(g: Builder) -> tuple[str, str, str, str]:
    """eta, order, wide and renoise of the input `sampler`; the input `eta`, where not below 0, stands for its own."""
    presets = SAMPLERS.values()
    own = g.op("Gather", g.f64([preset.eta for preset in presets]), "sampler")
    eta = g.choose(g.op("Less", "eta", g.f64(0)), own, "eta")
    order = g.op("Gather", g.i64([preset.order for preset in presets]), "sampler")
    wide = g.op("Gather", g.constant([preset.wide for preset in presets], np.bool_), "sampler")
    renoise = g.op("Gather", g.constant([preset.renoise for preset in presets], np.bool_), "sampler")
    return eta, order, wide, renoise


def predictions(g: Builder, prediction: str, a: str, s: str) -> dict[str, str]:
    """predict_x0: the columns a_x and a_o."""
    minus, one = g.op("Neg", s), g.f64(1)
    if prediction == "eps":
        return {"a_x": g.div(one, a), "a_o": g.div(minus, a)}
    if prediction == "v":
        return {"a_x": a, "a_o": minus}
    if prediction == "x0":
        return {"a_x": g.mul(a, g.f64(0)), "a_o": g.add(g.mul(a, g.f64(0)), one)}
    total = g.add(a, s)
    return {"a_x": g.div(one, total), "a_o": g.div(minus, total)}


def shifted(g: Builder, column: str, last: float) -> str:
    """The column of the next level: all but the first value, then the clean level's."""
    return g.op("Concat", g.op("Slice", column, g.i64([1]), g.i64([2**62])), g.f64([last]), axis=0)
