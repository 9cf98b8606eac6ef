"""Proofs of the whole edit as one ONNX graph: plans and edits of drawn arguments, at every level of optimisation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tiny import FIELDS, SHAPE, halving_network, write_bundle

from sdedit.export.graph.builder import BOOL, DOUBLE, FLOAT, INT64, Builder, Names, model_of, value
from sdedit.export.graph.edit import edit_model, scalars
from sdedit.export.graph.plan import make_plan as plan_of_graph
from sdedit.kernels import twin
from sdedit.runtime.bundle import NETWORK, Bundle, read_bundle, write_manifest
from sdedit.runtime.codec import to_image
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import load_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import KEEPS, SAMPLERS, make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde

LEVELS = list(onnxruntime.GraphOptimizationLevel.__members__.values())

SCHEDULES = {
    "linear": (sde.linear(), "eps"),
    "cosine": (sde.cosine(20), "v"),
    "flow": (sde.rectified_flow(100), "flow"),  # alpha is 0 at the noisiest level
    "flow-x0": (sde.rectified_flow(1000), "x0"),
    "exploding": (sde.variance_exploding(), "eps"),
    "sub": (sde.sub_variance_preserving(), "v"),
}
PLANS, EDITS = 350, 20
MOST_STEPS = 12

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38], np.float32)


def session(model: onnx.ModelProto, level: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.graph_optimization_level = 1, level
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def drawn(rng: np.random.Generator, schedule: Schedule) -> dict[str, Any]:
    """Arguments of make_plan that are in range, the ends of each range among them."""
    t0 = float(rng.choice([1.0, rng.uniform(1 / len(schedule), 1)]))
    most = min(int(t0 * len(schedule) + 0.5), MOST_STEPS)
    sampler = str(rng.choice(list(SAMPLERS)))
    eta = float(rng.choice([-0.0, 0.0, 1.0, rng.uniform()])) if sampler == "ddim" and rng.random() < 0.7 else None
    steps = int(rng.choice([1, most, rng.integers(1, most + 1)]))
    return {"t0": t0, "steps": steps, "sampler": sampler, "eta": eta, "keep": str(rng.choice(KEEPS))}


def places(told: dict[str, Any]) -> dict[str, float]:
    """The graph's inputs for arguments of make_plan."""
    eta = -1.0 if told["eta"] is None else told["eta"]
    return {**told, "eta": eta, "sampler": list(SAMPLERS).index(told["sampler"]), "keep": KEEPS.index(told["keep"])}


def plan_model(schedule: Schedule, prediction: str) -> tuple[onnx.ModelProto, list[str]]:
    """The part of edit.onnx that makes its plan, and the names of its outputs."""
    g = Builder(Names())
    plan = plan_of_graph(g, schedule, prediction)
    found = {**plan.columns, "alpha0": plan.alpha0, "sigma0": plan.sigma0, "keep_noise": plan.keep_noise}
    for name, source in found.items():
        g.name(source, name)
    inputs = {"t0": DOUBLE, "steps": INT64, "sampler": INT64, "eta": DOUBLE, "keep": INT64}
    ends = [value(name, BOOL if name == "keep_noise" else FLOAT, None) for name in found]
    return model_of(g.graph("plan", [value(name, kind, []) for name, kind in inputs.items()], ends)), list(found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_plans_of_drawn_arguments_have_the_editors_numbers(name: str) -> None:
    """All bits are equal but those behind a logarithm, the one function that IEEE 754 does not define.

    Two logarithms that are each within 2 ulp differ by 2^-50 of their value, so q by less than 2^-48, and c_0 and c_h
    by less than 2^-47. Rounded to float32, such numbers are equal, or neighbours once in 2^23 times.
    """
    table, prediction = SCHEDULES[name]
    schedule, rng = Schedule(table), np.random.default_rng(19)
    model, names = plan_model(schedule, prediction)
    sessions = [session(model, level) for level in LEVELS]
    for _ in range(PLANS):
        told = drawn(rng, schedule)
        plan = make_plan(schedule, prediction, **told)
        inputs = {key: np.asarray(number) for key, number in places(told).items()}
        for run in sessions:
            found = dict(zip(names, run.run(None, inputs), strict=True))
            assert found.pop("alpha0") == np.float32(plan.alpha0)
            assert found.pop("sigma0") == np.float32(plan.sigma0)
            assert bool(found.pop("keep_noise")) == bool(plan.rows["keep_noise"].all()) == plan.rows["keep_noise"].any()
            for column, numbers in found.items():
                behind_logarithm = column in ("c_0", "c_h") and SAMPLERS[told["sampler"]].order == 2
                assert numbers.tobytes() == plan.rows[column].tobytes() or (
                    behind_logarithm and are_neighbours(numbers, plan.rows[column])
                )


def are_neighbours(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether these finite float32 are equal or one step apart, with equal signs, those of zeros too."""
    steps = found.view(np.int32).astype(np.int64) - np.ascontiguousarray(wanted).view(np.int32)
    return bool(np.isfinite(wanted).all() and (abs(steps) <= 1).all())


def wild_network() -> onnx.ModelProto:
    """out = x / 2 + special numbers at some pixels."""
    network = halving_network()
    rng = np.random.default_rng(0)
    added = np.where(rng.random(SHAPE) < 0.3, rng.choice(SPECIAL, SHAPE), np.float32(-0.0))
    network.graph.initializer.append(numpy_helper.from_array(added[None].astype(np.float32), "added"))
    network.graph.node[0].output[0] = "half_of_x"
    network.graph.node.append(helper.make_node("Add", ["half_of_x", "added"], ["out"]))
    return network


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_bundle(tmp_path_factory.mktemp("wild") / "bundle")
    onnx.save(wild_network(), folder / NETWORK)
    write_manifest(folder, {**FIELDS, "prediction": "v"})
    return read_bundle(folder)


@pytest.fixture(scope="module")
def loop(wild: Bundle) -> Iterator[Loop]:
    loop = Loop(CpuDevice(load_engine(wild, "onnxruntime", "float32", 1), wild.inputs, 1, twin()))
    yield loop
    loop.close()


def test_edits_of_drawn_arguments_have_the_loops_bits(wild: Bundle, loop: Loop) -> None:
    """Signs of zeros too, and NaN where the loop has NaN. Which NaN is no one's promise."""
    sessions = [session(edit_model(wild, wild_network()), level) for level in LEVELS]
    rng = np.random.default_rng(20)
    special = 0
    for _ in range(EDITS):
        told = {**drawn(rng, wild.schedule), "repeats": int(rng.integers(1, 3))}
        told |= {"steps": min(told["steps"], 5), "clip": float(rng.choice([0.5, 1.0, np.inf]))}
        seed, image = int(rng.integers(0, 2**64, dtype=np.uint64)), int(rng.integers(0, 2**32))
        guide = rng.integers(0, 256, (*SHAPE[1:], 3), np.uint8)
        mask = (
            rng.integers(0, 256, SHAPE[1:]).astype(np.uint8)
            if rng.random() < 0.7
            else np.full(SHAPE[1:], 255, np.uint8)
        )
        start = np.ascontiguousarray(guide.transpose(2, 0, 1)).astype(np.float32) / np.float32(127.5) - np.float32(1)
        plan = make_plan(wild.schedule, wild.prediction, **told)
        loop.admit(Task(plan, start, mask / np.float32(255), seed, image))
        finished: list[Any] = []
        while loop.busy:
            finished = loop.step()
        wanted = np.asarray(finished[0][1])
        given = {**places(told), "seed": seed, "image": image}
        inputs = {name: np.asarray(given[name]).astype(dtype) for name, (dtype, _) in scalars(wild).items()}
        for run in sessions:
            result, state = run.run(None, {"guide": guide, "mask": mask, **inputs})
            number = ~np.isnan(wanted)
            assert (np.isnan(state[0]) == ~number).all()
            assert state[0][number].tobytes() == wanted[number].tobytes()
            if number.all():
                assert np.array_equal(result, np.asarray(to_image(wanted)))
        special += int((~np.isfinite(wanted)).any())
    assert 0 < special < EDITS
