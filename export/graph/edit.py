"""edit.onnx, a whole edit, and step.onnx, one row of it: the same inputs, and the state that one row hands on."""

import numpy as np
import onnx

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.plan import KEEPS, SAMPLERS

from .builder import BOOL, DOUBLE, FLOAT, INT64, OPSET, UINT8, UINT64, Builder, Names, model_of, value
from .noise import key_schedule
from .plan import make_plan
from .step import Carried, Edit, run_row, weight_name

CARRIED = ("x", "h", "guide_now", "begin")
"""Names of the state that step.onnx takes; it gives them with `_next`. All are zero before row 0 but guide_now."""


def edit_model(bundle: Bundle, network: onnx.ModelProto) -> onnx.ModelProto:
    """guide, mask and settings -> result uint8 [H, W, C] and state float32 [1, C, H, W]."""
    g = Builder(Names())
    edit, guide = prepare(g, bundle, network)
    body = g.inner()
    add_weights(body, network)  # here, not outside: onnxruntime then optimises the network as it does alone
    before = Carried(*(f"{name}_in" for name in CARRIED))
    after = run_row(body, edit, "at", before)
    for name, source in zip(CARRIED, (after.x, after.h, after.guide, after.begin), strict=True):
        body.name(source, f"{name}_out")
    body.name("go_in", "go_out")
    inputs = [value("at", INT64, []), value("go_in", BOOL, []), *states(bundle, "_in")]
    graph = body.graph("row", inputs, [value("go_out", BOOL, []), *states(bundle, "_out")])
    zeros = g.mul(guide, g.f32(0))
    outputs = ["state", *(g.names.fresh(name) for name in CARRIED[1:])]
    rows = g.mul("steps", "repeats")
    g.call("Loop", [rows, g.constant(True, np.bool_), zeros, zeros, guide, zeros], outputs, body=graph)
    g.name(to_picture(g, "state"), "result")
    ends = [value("result", UINT8, picture(bundle)), value("state", FLOAT, state(bundle))]
    return finished(g, bundle, network, "edit", [], ends)


def step_model(bundle: Bundle, network: onnx.ModelProto) -> onnx.ModelProto:
    """The inputs of edit.onnx, `at` and the state -> the next state, result and preview uint8 [H, W, C].

    A host calls it with at = 0 .. steps repeats - 1; for row 0 guide_now may be anything, since row 0 takes the guide.
    """
    g = Builder(Names())
    edit, guide = prepare(g, bundle, network)
    add_weights(g, network)
    now = g.select(g.op("Equal", "at", g.i64(0)), guide, "guide_now", edit.shape)
    after = run_row(g, edit, "at", Carried("x", "h", now, "begin"))
    for name, source in zip(CARRIED, (after.x, after.h, after.guide, after.begin), strict=True):
        g.name(source, f"{name}_next")
    g.name(to_picture(g, after.x), "result")
    g.name(to_picture(g, after.h), "preview")
    starts = [value("at", INT64, []), *states(bundle, "")]
    ends = [*states(bundle, "_next"), value("result", UINT8, picture(bundle)), value("preview", UINT8, picture(bundle))]
    return finished(g, bundle, network, "step", starts, ends)


def prepare(g: Builder, bundle: Bundle, network: onnx.ModelProto) -> tuple[Edit, str]:
    """Compute what all rows share, and the guide as a state."""
    scaled = g.sub(g.div(g.cast("guide", FLOAT), g.f32(127.5)), g.f32(1))
    guide = g.op("Unsqueeze", g.op("Transpose", scaled, perm=[2, 0, 1]), g.i64([0]))
    mask = g.div(g.cast("mask", FLOAT), g.f32(255))
    plan = make_plan(g, bundle.schedule, bundle.prediction)
    keys, shape = key_schedule(g, "seed"), g.op("Shape", guide)
    return Edit(network, plan, keys, mask, shape, "image", bundle.classes, bundle.null_label), guide


def scalars(bundle: Bundle) -> dict[str, tuple[type[np.generic], float | None]]:
    """The inputs that are scalars: dtype and default, None where a host must choose.

    To ONNX they have no defaults: onnxruntime-node ignores what is given for an input that has one.
    """
    found: dict[str, tuple[type[np.generic], float | None]] = {
        "t0": (np.float64, None),
        "steps": (np.int64, None),
        "seed": (np.uint64, None),
        "image": (np.uint64, 0),
        "sampler": (np.int64, list(SAMPLERS).index("dpmpp_2m")),
        "eta": (np.float64, -1.0),
        "keep": (np.int64, KEEPS.index("fresh")),
        "repeats": (np.int64, 1),
        "clip": (np.float32, 1.0),
    }
    if bundle.classes:
        found["label"] = (np.int64, 0 if bundle.null_label is None else bundle.null_label)
    if bundle.null_label is not None:
        found["guidance"] = (np.float32, 1.0)
    return found


def finished(
    g: Builder,
    bundle: Bundle,
    network: onnx.ModelProto,
    name: str,
    starts: list[onnx.ValueInfoProto],
    ends: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """The checked model of the graph, with the inputs that both models have."""
    kinds = {np.uint64: UINT64, np.int64: INT64, np.float64: DOUBLE, np.float32: FLOAT}
    inputs = [
        value("guide", UINT8, picture(bundle)),
        value("mask", UINT8, picture(bundle)[:2]),
        *(value(name, kinds[dtype], []) for name, (dtype, _) in scalars(bundle).items()),
    ]
    opset = max([OPSET, *(entry.version for entry in network.opset_import if entry.domain == "")])
    model = model_of(g.graph(name, inputs + starts, ends), opset)
    onnx.checker.check_model(model)
    return model


def add_weights(g: Builder, network: onnx.ModelProto) -> None:
    """Store the network's weights in this graph, once however often the network is evaluated."""
    for tensor in network.graph.initializer:
        weight = onnx.TensorProto()
        weight.CopyFrom(tensor)
        weight.name = weight_name(tensor.name)
        g.constants.append(weight)


def to_picture(g: Builder, state: str) -> str:
    """rint((x + 1) 127.5) within 0..255: uint8 [H, W, C]."""
    levels = g.op("Round", g.mul(g.add(state, g.f32(1)), g.f32(127.5)))
    clamped = g.op("Squeeze", g.op("Clip", levels, g.f32(0), g.f32(255)), g.i64([0]))
    return g.cast(g.op("Transpose", clamped, perm=[1, 2, 0]), UINT8)


def states(bundle: Bundle, suffix: str) -> list[onnx.ValueInfoProto]:
    return [value(f"{name}{suffix}", FLOAT, state(bundle)) for name in CARRIED]


def state(bundle: Bundle) -> list[int | str]:
    return [1, bundle.image.channels, *picture(bundle)[:2]]


def picture(bundle: Bundle) -> list[int | str]:
    """Height, width and channels of a picture; sides that are free have names."""
    image = bundle.image
    sides: list[int | str] = ["height", "width"] if image.free else [image.height, image.width]
    return [*sides, image.channels]
