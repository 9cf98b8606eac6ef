"""Lanes: slots that are evaluated at the same time, with the bytes of an edit that is alone."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from stubs import Function, StubEngine
from tiny import write_free_bundle

from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor, engines
from sdedit.runtime.bundle import network_inputs, read_bundle
from sdedit.runtime.bundle.latent import Latent
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.lanes import Lanes, make_lanes
from sdedit.runtime.engines import Engine, Evaluate, load_engine, load_for_lanes

ENGINES = tuple(engines.ENGINES["cpu"])
GUIDE = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
WAIT = 30
"""Seconds after which a test that hangs fails instead."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_bundle(write_free_bundle(tmp_path_factory.mktemp("free") / "tiny"))


@pytest.fixture(autouse=True)
def no_lane_is_left() -> Iterator[None]:
    yield
    assert not lane_threads()


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sdedit-lane"]


def mixing(x: np.ndarray, told: float) -> np.ndarray:
    """A network whose output depends on every pixel and the level, so that a mixed-up slot shows."""
    return np.tanh(x + np.roll(x, 1, axis=3) - np.float32(told / 20))


def editor_of(bundle: Any, load: Callable[[], Engine], slots: int, lanes: int = 2) -> Editor:
    """An editor of the network `mixing`, whose lanes' engine is another."""
    return Editor(bundle, CpuDevice(StubEngine(mixing), bundle.inputs, slots, twin(), lanes=Lanes(load, lanes)))


def edited(editor: Editor, images: int = 4, **options: Any) -> list[bytes]:
    result = editor.submit(GUIDE, steps=4, images=images, **options).result(WAIT)
    return [image.pil.tobytes() for image in result.images]


def expected(bundle: Any, images: int = 4) -> list[bytes]:
    with Editor(bundle, CpuDevice(StubEngine(mixing), bundle.inputs, 1, twin())) as editor:
        return edited(editor, images)


def meeting(lanes: int) -> Function:
    """The network `mixing`, which no evaluation leaves before `lanes` of them are under way."""
    barrier = threading.Barrier(lanes)

    def network(x: np.ndarray, told: float) -> np.ndarray:
        barrier.wait(WAIT)
        return mixing(x, told)

    return network


@pytest.mark.parametrize(("lanes", "slots"), [(2, 2), (2, 4), (3, 3)])
def test_slots_are_evaluated_at_the_same_time(bundle: Any, lanes: int, slots: int) -> None:
    """Every evaluation in a lane waits for another: one after another, they would fail."""
    images = 2 * slots
    with editor_of(bundle, lambda: StubEngine(meeting(lanes)), slots, lanes) as editor:
        assert edited(editor, images) == expected(bundle, images)
        assert len(lane_threads()) == lanes - 1
        assert editor.device._lanes is not None  # type: ignore[attr-defined]


def test_what_fills_no_lanes_runs_on_all_threads(bundle: Any) -> None:
    """Three slots on two lanes: after the first step, which is made both ways, one slot stays out in each of 3."""
    in_lanes, loads = StubEngine(mixing), [0]

    def load() -> StubEngine:
        loads[0] += 1
        return in_lanes

    with editor_of(bundle, load, 3) as editor:
        assert edited(editor, 1) == expected(bundle, 1)
        assert loads == [0]
        editor.device.engine.calls.clear()
        assert edited(editor, 3) == expected(bundle, 3)
        assert (loads[0], len(in_lanes.calls)) == (1, 4 * 2)
        assert len(editor.device.engine.calls) == 4 + 2


def test_other_bits_are_never_used(bundle: Any, caplog: pytest.LogCaptureFixture) -> None:
    nearly = StubEngine(lambda x, told: np.nextafter(mixing(x, told), np.float32(2)))
    with caplog.at_level(logging.INFO, "sdedit"), editor_of(bundle, lambda: nearly, 2) as editor:
        assert edited(editor) == expected(bundle)
        assert len(nearly.calls) == 2
        assert not lane_threads()
    said = [record.getMessage() for record in caplog.records if "one after another" in record.getMessage()]
    assert said == [
        "stub, states of 3x8x8: passes are evaluated one after another: on one thread the network gives other bits"
    ]


@pytest.mark.parametrize(
    "error", [EngineError("no such engine"), MemoryError(), RuntimeError("can't start new thread")]
)
@pytest.mark.parametrize("when", ["loading", "evaluating"])
def test_lanes_that_cannot_be_used_cost_nothing_but_speed(
    bundle: Any, caplog: pytest.LogCaptureFixture, error: Exception, when: str
) -> None:
    def fail(*_: object) -> Any:
        raise error

    load: Callable[[], Any] = fail if when == "loading" else lambda: StubEngine(fail)
    with caplog.at_level(logging.INFO, "sdedit"), editor_of(bundle, load, 2) as editor:
        assert edited(editor) == expected(bundle)
    assert sum("one after another" in record.getMessage() for record in caplog.records) == 1


def test_a_failure_in_a_lane_fails_the_job_and_leaves_no_evaluation_behind(bundle: Any) -> None:
    """The second step fails in one lane while the other is at work: the error waits for it. The editor goes on."""
    calls, entered, ended = iter(range(1000)), threading.Barrier(2), threading.Event()

    def network(x: np.ndarray, told: float) -> np.ndarray:
        call = next(calls)
        if call in (2, 3):
            entered.wait(WAIT)
        if call == 2:
            raise EngineError("the engine is on fire")
        if call == 3:
            time.sleep(0.05)  # longer than an error that waits for nobody takes to arrive
            ended.set()
        return mixing(x, told)

    with editor_of(bundle, lambda: StubEngine(network), 2) as editor:
        with pytest.raises(EngineError, match="the engine is on fire"):
            edited(editor, 2)
        assert ended.is_set()
        assert edited(editor) == expected(bundle)


def test_a_round_ends_before_its_error_is_raised() -> None:
    entered, left = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        time.sleep(0.05)
        left.set()

    def interrupted() -> None:
        assert entered.wait(WAIT)
        raise KeyboardInterrupt

    lanes = Lanes(lambda: StubEngine(mixing), 2)
    never: list[None] = []
    with pytest.raises(KeyboardInterrupt):
        lanes.run([slow, interrupted, partial(never.append, None)])
    assert left.is_set()
    assert never in ([], [None])
    lanes.run([slow, slow])  # it can be used again
    lanes.close()
    lanes.close()


class Labelled:
    """An engine whose network depends on its label, and meets another evaluation if there is a barrier."""

    name, precision, version, batch, threads = "labelled", "float32", "0", 1, 1

    def __init__(self, barrier: threading.Barrier | None = None) -> None:
        self.barrier = barrier

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        def evaluate() -> None:
            if self.barrier is not None:
                self.barrier.wait(WAIT)
            out[:] = mixing(inputs["x"], float(inputs["time"][0])) * np.float32(1 + inputs["label"][0])

        return evaluate


def test_both_passes_of_a_guided_network_run_in_lanes() -> None:
    inputs = network_inputs((3, 8, 8), 2)
    lanes = Lanes(lambda: Labelled(threading.Barrier(2)), 2)
    outputs = []
    for device in (
        CpuDevice(Labelled(), inputs, 4, twin(), True),
        CpuDevice(Labelled(), inputs, 4, twin(), True, lanes=lanes),
    ):
        rng = np.random.default_rng(0)
        for slot in range(4):
            device.write(
                slot, {"x": rng.standard_normal((3, 8, 8)), "label": np.int64(slot % 2), "null_label": np.int64(2)}
            )
            device._state["rows"][slot]["guidance"] = 2
        for _ in range(2):
            for name in ("o", "o_uncond"):
                device._state[name][:] = np.nan
            device.evaluate(range(4))
            outputs.append([device._state[name].tobytes() for name in ("o", "o_uncond")])
    lanes.close()
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]
    assert outputs[0][0] != outputs[0][1]


@pytest.mark.parametrize("guidance", [[2, 2, 1], [1, 2, 1], [1, 1, 1]])
def test_the_passes_of_guided_slots_fill_lanes(guidance: list[int]) -> None:
    """Every evaluation in a lane waits for another one. Guided slots have two passes, the others take o twice."""
    inputs, barrier = network_inputs((3, 8, 8), 2), threading.Barrier(2)
    lanes = Lanes(lambda: Labelled(barrier), 2)
    device = CpuDevice(Labelled(), inputs, 3, twin(), True, lanes=lanes)
    expected_outputs = []
    for slot, number in enumerate(guidance):
        x = np.random.default_rng(slot).standard_normal((3, 8, 8)).astype(np.float32)
        device.write(slot, {"x": x, "label": np.int64(slot % 2), "null_label": np.int64(2)})
        device._state["rows"][slot]["guidance"] = number
        o = mixing(x[None], 0.0)[0] * np.float32(1 + slot % 2)
        uncond = o if number == 1 else mixing(x[None], 0.0)[0] * np.float32(3)
        expected_outputs.append((o, uncond))
    for _ in range(2):
        for name in ("o", "o_uncond"):
            device._state[name][:] = np.nan
        device.evaluate(range(3))
        for slot, (o, uncond) in enumerate(expected_outputs):
            assert device._state["o"][slot].tobytes() == o.tobytes()
            assert device._state["o_uncond"][slot].tobytes() == uncond.tobytes()
    assert device._lanes is lanes
    lanes.close()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("options", [{}, {"size": "16x12"}, {"size": "40x32", "tile": 16}], ids=str)
def test_an_engine_gives_the_same_bytes_alone_and_in_company(
    bundle: Any, name: str, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(name)
    with Editor.open(bundle, engine=name, threads=2) as editor:
        alone = edited(editor, **options)
    with caplog.at_level(logging.INFO, "sdedit"), Editor.open(bundle, engine=name, threads=2, slots=3) as editor:
        assert edited(editor, **options) == alone
    assert any("2 passes are evaluated at the same time" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ENGINES)
def test_evaluations_for_lanes_run_in_two_threads_at_once(bundle: Any, name: str) -> None:
    """Each thread's evaluations give the bits of the engine that they are for, while the other's are under way."""
    pytest.importorskip(name)
    engine = load_engine(bundle, name, "float32", 2)
    twice = load_for_lanes(bundle, engine)
    differ: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((1, 3, 64, 64)).astype(np.float32)
        inputs, out, wanted = {"x": x, "time": np.zeros(1, np.float32)}, np.empty_like(x), np.empty_like(x)
        with lock:
            evaluate, reference = twice.bind(inputs, out), engine.bind(inputs, wanted)
            reference()
        together.wait(WAIT)
        for _ in range(50):
            out[:] = np.nan
            evaluate()
            differ.append(out.tobytes() != wanted.tobytes())

    lock, together = threading.Lock(), threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert differ == [False] * 100


def test_one_thread_or_few_slots_have_no_lanes(bundle: Any) -> None:
    engine = StubEngine(mixing)
    assert make_lanes(bundle, engine, 8) is None
    engine.threads = 4
    assert make_lanes(bundle, engine, 3) is None
    lanes = make_lanes(bundle, engine, 4)
    assert lanes is not None
    assert lanes.count == 4


def test_both_passes_of_one_guided_slot_have_lanes_but_for_latent_networks(bundle: Any) -> None:
    engine = StubEngine(mixing)
    engine.threads = 2
    assert make_lanes(bundle, engine, 1) is None
    manifest = dataclasses.replace(bundle.manifest, classes=2, null_label=2)
    assert make_lanes(dataclasses.replace(bundle, manifest=manifest), engine, 1) is not None
    latent = dataclasses.replace(manifest, latent=Latent(channels=3, factor=8))
    assert make_lanes(dataclasses.replace(bundle, manifest=latent), engine, 1) is None


def test_weights_that_do_not_fit_a_second_time_are_not_loaded(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    engine = load_engine(bundle, "onnxruntime", "float32", 2)
    monkeypatch.setattr("sdedit.runtime.engines.opening.available_memory", lambda: 1000)
    with pytest.raises(EngineError, match=r"loading tiny once more may need 0.0 GB of memory, 0.0 GB are available"):
        load_for_lanes(bundle, engine)
