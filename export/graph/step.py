"""One row of a plan as ONNX operators: begin where a repeat starts, the network, and the step of kernels.step_numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from sdedit.kernels.layout import KIND_STEP

from .builder import FLOAT, UINT64, Builder, value
from .noise import Keys, normal
from .plan import Plan


@dataclass(frozen=True)
class Carried:
    """The state between two rows: names of float32 [1, C, H, W]. begin: the noise that the repeat began with."""

    x: str
    h: str
    guide: str
    begin: str


@dataclass(frozen=True)
class Edit:
    """Names of the values that all rows share. shape: int64 [4]. image: uint64. null_label: None without guidance."""

    network: onnx.ModelProto
    plan: Plan
    keys: Keys
    mask: str
    shape: str
    image: str
    classes: int
    null_label: int | None


def run_row(g: Builder, edit: Edit, at: str, state: Carried) -> Carried:
    """The state after row `at`, an int64 scalar in 0 .. steps repeats - 1."""
    step, repeat = g.op("Mod", at, "steps"), g.div(at, "steps")
    row = {name: g.op("Gather", column, step) for name, column in edit.plan.columns.items()}
    stream = g.cast(g.mul(repeat, g.i64(2)), UINT64)
    state = begin(g, edit, step, repeat, stream, state)
    o = evaluate(g, edit, state.x, g.op("Unsqueeze", row["time"], g.i64([0])))
    z = normal(g, edit.keys, edit.image, g.add(stream, g.u64(KIND_STEP)), g.cast(step, UINT64), edit.shape)
    z_keep = g.select(edit.plan.keep_noise, state.begin, z, edit.shape)
    x, h = update(g, edit, state, o, z, z_keep, row)
    return Carried(x, h, state.guide, state.begin)


def begin(g: Builder, edit: Edit, step: str, repeat: str, stream: str, state: Carried) -> Carried:
    """begin_numpy where the row is a repeat's first, else the state as it is."""
    new, on = g.inner(), g.inner()
    z = normal(new, edit.keys, edit.image, stream, new.u64(0), edit.shape)
    last = new.op("Gather", edit.plan.columns["threshold"], new.sub("steps", new.i64(1)))
    edited = new.op("GreaterOrEqual", edit.mask, last)
    again = new.op("And", new.op("Greater", repeat, new.i64(0)), edited)
    guide = new.select(again, state.x, state.guide, edit.shape)
    x = new.add(new.mul(edit.plan.alpha0, guide), new.mul(edit.plan.sigma0, z))
    outputs = [g.names.fresh(name) for name in ("x", "guide", "begin")]
    g.call(
        "If",
        [g.op("Equal", step, g.i64(0))],
        outputs,
        then_branch=branch(new, "begin", [x, guide, z]),
        else_branch=branch(on, "on", [state.x, state.guide, state.begin]),
    )
    return Carried(outputs[0], state.h, outputs[1], outputs[2])


def branch(g: Builder, name: str, values: list[str]) -> onnx.GraphProto:
    """A branch of an If that gives these values, float32."""
    outputs = [g.names.fresh(name) for _ in values]
    for source, output in zip(values, outputs, strict=True):
        g.name(source, output)
    return g.graph(name, [], [value(output, FLOAT, None) for output in outputs])


def evaluate(g: Builder, edit: Edit, x: str, time: str) -> str:
    """The network's output; with guidance the two outputs mixed, the second evaluated where guidance is not 1."""
    if not edit.classes:
        return network_nodes(g, edit.network, {"x": x, "time": time})
    label = g.op("Unsqueeze", "label", g.i64([0]))
    o = network_nodes(g, edit.network, {"x": x, "time": time, "label": label})
    if edit.null_label is None:
        return o
    null, same = g.inner(), g.inner()
    values = {"x": x, "time": time, "label": null.i64([edit.null_label])}
    o_uncond = g.names.fresh("uncond")
    g.call(
        "If",
        [g.op("Equal", "guidance", g.f32(1))],
        [o_uncond],
        then_branch=branch(same, "same", [o]),
        else_branch=branch(null, "null", [network_nodes(null, edit.network, values)]),
    )
    return g.add(o_uncond, g.mul("guidance", g.sub(o, o_uncond)))


def network_nodes(g: Builder, network: onnx.ModelProto, inputs: Mapping[str, str]) -> str:
    """Append the network's nodes, under new names; returns the name of its output. Its weights keep their names."""
    prefix = g.names.fresh("network")
    names = {"": "", **inputs, **{tensor.name: weight_name(tensor.name) for tensor in network.graph.initializer}}
    for node in network.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        names.update({output: f"{prefix}/{output}" for output in node.output if output})
        copy.input[:] = [names[name] for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        copy.name = f"{prefix}/{node.name}" if node.name else ""
        g.nodes.append(copy)
    return names[network.graph.output[0].name]


def weight_name(name: str) -> str:
    """The name of a weight of the network, which no value of the rest has."""
    return f"weights/{name}"


def update(
    g: Builder, edit: Edit, state: Carried, o: str, z: str, z_keep: str, row: Mapping[str, str]
) -> tuple[str, str]:
    """step_numpy's arithmetic: x' and h'."""
    shape = edit.shape
    x0 = g.add(g.mul(row["a_x"], state.x), g.mul(row["a_o"], o))
    for kind, bound in (("Less", g.op("Neg", "clip")), ("Greater", "clip")):
        x0 = g.select(g.op(kind, x0, bound), g.op("Expand", bound, shape), x0, shape)
    last = g.select(g.op("GreaterOrEqual", edit.mask, row["h_threshold"]), state.h, x0, shape)
    moved = g.add(g.mul(row["c_x"], state.x), g.mul(row["c_0"], x0))
    edited = g.add(g.add(moved, g.mul(row["c_h"], last)), g.mul(row["c_z"], z))
    kept = g.add(g.mul(row["k_g"], state.guide), g.mul(row["k_z"], z_keep))
    return g.select(g.op("GreaterOrEqual", edit.mask, row["threshold"]), edited, kept, shape), x0
