"""Labels, guidance and inputs of any name on the CUDA device: the CPU's bits, from the fake driver."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from cuda_devices import NOTHING, make_device, make_task, on_cpu, same
from fake_driver import FakeDriver, StandInEngine
from stubs import run

from sdedit.errors import EngineError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, TensorSpec
from sdedit.runtime.devices import cuda_kernels
from sdedit.runtime.devices.cuda import GraphKey
from sdedit.runtime.loop import Loop, Task

CLASSES = 3


@pytest.fixture
def guided(bundle_with_kernels: Bundle) -> Bundle:
    """The bundle as if its network took labels, one of them of no class."""
    manifest = dataclasses.replace(
        bundle_with_kernels.manifest, conditioning="label", classes=CLASSES, null_label=CLASSES
    )
    return dataclasses.replace(bundle_with_kernels, manifest=manifest)


def labelled(x: np.ndarray, told: float, label: np.ndarray) -> np.ndarray:
    """A network whose output depends on every pixel, the level and the label."""
    return np.tanh(x + np.roll(x, 1, axis=3) - np.float32(told / 20) + np.float32(label[0]) / 7)


def labelled_task(bundle: Bundle, image: int, **plan: Any) -> Task:
    null = {} if bundle.null_label is None else {"label": np.int64(bundle.null_label)}
    conditions = {"label": np.int64(image % CLASSES)}
    return dataclasses.replace(make_task(bundle, image, **plan), conditions=conditions, null_conditions=null)


PLANS: list[dict[str, Any]] = [
    {"guidance": 2.5},
    {"guidance": 1.0, "steps": 6},
    {"guidance": -0.5, "keep": "official", "repeats": 2},
    {"guidance": 1.0, "keep": "fixed"},
    {"guidance": 0.0},
]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(("slots", "batch"), [(1, 1), (3, 1), (4, 2)])
def test_guided_and_unguided_slots_side_by_side_are_the_cpus(
    fake: FakeDriver, guided: Bundle, slots: int, batch: int, eager: bool
) -> None:
    tasks = [labelled_task(guided, image, **plan) for image, plan in enumerate(PLANS)]
    device = make_device(fake, guided, slots, batch, eager, labelled)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(guided, function=labelled)), tasks))
    device.close()
    assert fake.fault is None
    assert fake.counts() == NOTHING


def test_guidance_that_ends_in_mid_edit_takes_another_graph(fake: FakeDriver, guided: Bundle) -> None:
    task = labelled_task(guided, 1, guidance=3.0, steps=6)
    rows = task.plan.rows.copy()
    rows["guidance"][3:] = 1
    task = dataclasses.replace(task, plan=dataclasses.replace(task.plan, rows=rows))
    device = make_device(fake, guided, function=labelled)
    assert same(run(Loop(device), [task]), run(Loop(on_cpu(guided, function=labelled)), [task]))
    assert list(device._graphs) == [GraphKey((0,), "step_guided", (0,)), GraphKey((0,), "step_guided")]
    device.close()


def test_only_guided_rows_cost_a_second_evaluation(fake: FakeDriver, guided: Bundle) -> None:
    device = make_device(fake, guided, function=labelled)
    assert isinstance(device.engine, StandInEngine)
    evaluations = []
    for guidance in (1.0, 2.0):
        before = device.engine.evaluations
        run(Loop(device), [labelled_task(guided, 0, steps=4, guidance=guidance)])
        evaluations.append(device.engine.evaluations - before)
    assert evaluations == [4, 8]
    device.close()


def test_labels_without_a_label_of_no_class(fake: FakeDriver, guided: Bundle) -> None:
    bundle = dataclasses.replace(guided, manifest=dataclasses.replace(guided.manifest, null_label=None))
    tasks = [labelled_task(bundle, image) for image in range(3)]
    device = make_device(fake, bundle, slots=2, function=labelled)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(bundle, function=labelled)), tasks))
    assert "o_uncond" not in device._memory.buffers
    device.close()


def test_an_editor_takes_label_and_guidance_to_the_gpu(fake: FakeDriver, guided: Bundle) -> None:
    guide, options = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), {"steps": 3, "label": 2, "guidance": 1.5}
    with Editor(guided, make_device(fake, guided, function=labelled)) as editor:
        edit = editor.edit(guide, **options)  # type: ignore[arg-type]
    with Editor(guided, on_cpu(guided, function=labelled)) as editor:
        expected = editor.edit(guide, **options)  # type: ignore[arg-type]
    assert edit.images[0].pil.tobytes() == expected.images[0].pil.tobytes()


def test_inputs_of_any_name_reach_the_network(
    fake: FakeDriver, guided: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input as a text's embedding would be: float32 [2, 3], with one of its own for the unconditional pass."""
    declared = {**guided.inputs, "context": TensorSpec(np.dtype(np.float32), (2, 3))}
    del declared["label"]
    monkeypatch.setattr(Bundle, "inputs", property(lambda self: declared))

    def reading(x: np.ndarray, told: float, context: np.ndarray) -> np.ndarray:
        return labelled(x, told, context.sum(axis=(1, 2)))

    rng = np.random.default_rng(4)
    tasks = [
        dataclasses.replace(
            make_task(guided, image, guidance=2.0),
            conditions={"context": rng.random((2, 3), np.float32)},
            null_conditions={"context": rng.random((2, 3), np.float32)},
        )
        for image in range(3)
    ]
    device = make_device(fake, guided, slots=2, function=reading)
    assert same(run(Loop(device), tasks), run(Loop(on_cpu(guided, function=reading)), tasks))
    device.close()
    assert fake.counts() == NOTHING


def test_kernels_of_a_version_without_guidance_say_how_to_add_them(
    fake: FakeDriver, guided: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = cuda_kernels.read_kernels(guided)
    older = {name: kernel for name, kernel in stored.kernels.items() if "guided" not in name}
    monkeypatch.setattr(cuda_kernels, "read_kernels", lambda _: dataclasses.replace(stored, kernels=older))
    with pytest.raises(
        EngineError, match=r"no GPU kernel 'step_guided', which guidance needs: sdedit extend .* --cubins"
    ):
        make_device(fake, guided, function=labelled)
    assert fake.counts() == NOTHING
