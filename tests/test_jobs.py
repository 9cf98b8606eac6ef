"""Jobs: many threads, one editor. Nothing hangs, nothing is mixed up, nothing is left behind."""

import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, get_type_hints

import numpy as np
import pytest
from random_jobs import some_job
from stubs import StubEngine
from tiny import write_bundle

from sdedit.errors import CancelledError, EngineError, PlanError
from sdedit.kernels import twin
from sdedit.runtime import Editor, Job, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.lanes import Lanes
from sdedit.runtime.settings import EditOptions, Settings

GUIDE = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
WAIT = 30
"""Seconds after which a test that hangs fails instead."""


class Gate:
    """A network that waits: each evaluation takes one permit, so a test decides how far an edit has come."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, x: np.ndarray, time: float) -> np.ndarray:
        self.entered.release()
        assert self.permits.acquire(timeout=WAIT)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return -x

    def open(self) -> None:
        self.permits.release(10**6)


def make_editor(bundle: Any, function: object, slots: int = 1) -> Editor:
    return Editor(bundle, CpuDevice(StubEngine(function), bundle.inputs, slots, twin()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def editor(bundle: Any, gate: Gate) -> Iterator[Editor]:
    editor = make_editor(bundle, gate)
    yield editor
    gate.open()
    editor.close()


def pixels(job: Job) -> list[bytes]:
    return [image.pil.tobytes() for image in job.result(WAIT).images]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sdedit")]


def test_options_are_the_settings() -> None:
    assert get_type_hints(EditOptions) == get_type_hints(Settings)


def test_a_job_is_the_edit(bundle: Any) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        job = editor.submit(GUIDE, steps=3, images=2, seed=4)
        edit = editor.edit(GUIDE, steps=3, images=2, seed=4)
        assert pixels(job) == [image.pil.tobytes() for image in edit.images]
        assert job.done
        assert job.result() is job.result()
        assert job.result().recipe == edit.recipe
        assert job.result().timings.keys() == {"prepare", "wait", "loop", "finish", "evaluations"}


def test_mistakes_are_raised_at_once(editor: Editor) -> None:
    with pytest.raises(PlanError, match="t0 7"):
        editor.submit(GUIDE, t0=7)
    with pytest.raises(TypeError, match="tO"):
        editor.submit(GUIDE, tO=0.5)  # type: ignore[call-arg]


def test_a_result_that_takes_too_long_is_no_end(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=2)
    with pytest.raises(TimeoutError, match=r"not done after 0\.01 s"):
        job.result(0.01)
    gate.open()
    assert len(job.result(WAIT).images) == 1


def test_cancelling_a_job_that_runs_frees_its_slot(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=9)
    assert gate.entered.acquire(timeout=WAIT)
    assert job.cancel()
    assert job.cancel(), "asked again while it has not ended yet"
    gate.permits.release()
    with pytest.raises(CancelledError, match="the edit was cancelled"):
        job.result(WAIT)
    assert not job.cancel()
    gate.open()
    assert len(editor.edit(GUIDE, steps=2).images) == 1


def test_cancelling_a_job_that_waits_does_not_touch_the_one_that_runs(editor: Editor, gate: Gate) -> None:
    running = editor.submit(GUIDE, steps=3)
    assert gate.entered.acquire(timeout=WAIT)
    waiting = editor.submit(GUIDE, steps=3)
    waiting.cancel()
    gate.open()
    assert len(running.result(WAIT).images) == 1
    with pytest.raises(CancelledError):
        waiting.result(WAIT)


def test_a_job_of_many_images_holds_up_no_other(editor: Editor, gate: Gate) -> None:
    """With one slot and jobs A (5 images) and B (1 image), B's image comes second."""
    big = editor.submit(GUIDE, steps=1, images=5)
    assert gate.entered.acquire(timeout=WAIT)
    small = editor.submit(GUIDE, steps=1)
    for _ in range(3):
        gate.permits.release()
    small.result(WAIT)
    assert not big.done
    gate.open()
    big.result(WAIT)


def test_an_engine_that_fails_fails_what_runs_and_nothing_else(editor: Editor, gate: Gate) -> None:
    running, waiting = editor.submit(GUIDE, steps=2), editor.submit(GUIDE, steps=2)
    gate.error = EngineError("the engine stumbled")
    gate.open()
    with pytest.raises(EngineError, match="stumbled"):
        running.result(WAIT)
    assert len(waiting.result(WAIT).images) == 1


def test_an_unforeseen_failure_reaches_the_caller_and_the_worker_goes_on(editor: Editor, gate: Gate) -> None:
    gate.error = ZeroDivisionError("a bug")
    gate.open()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        editor.edit(GUIDE, steps=2)
    assert len(editor.edit(GUIDE, steps=2).images) == 1


def test_a_result_that_is_not_finite_fails_its_job_alone(bundle: Any) -> None:
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)

    def network(x: np.ndarray, time: float) -> np.ndarray:
        return np.full_like(x, np.nan) if x.mean() > 0.5 else -x

    with make_editor(bundle, network, slots=2) as editor:
        expected = [image.pil.tobytes() for image in editor.edit(black, t0=0.05, steps=1).images]
        bad, good = editor.submit(white, t0=0.05, steps=1, images=3), editor.submit(black, t0=0.05, steps=1)
        assert pixels(good) == expected
        with pytest.raises(EngineError, match="not finite"):
            bad.result(WAIT)


def test_on_step_counts_up_and_what_it_raises_comes_through(bundle: Any) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        seen: list[tuple[int, int]] = []
        editor.edit(GUIDE, steps=5, images=2, on_step=lambda step, steps: seen.append((step, steps)))
        assert seen == sorted(set(seen))
        assert seen[-1] == (10, 10)

        def stop(step: int, steps: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            editor.edit(GUIDE, steps=5, on_step=stop)
        assert len(editor.edit(GUIDE, steps=2).images) == 1


def test_previews_show_every_state_to_who_is_quick_and_the_last_to_who_is_slow(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=6)
    previews = job.previews()
    first = threading.Thread(target=lambda: seen.append(next(previews)))
    seen: list[Any] = []
    first.start()
    assert gate.entered.acquire(timeout=WAIT)
    time.sleep(0.05)  # so that the watcher is there
    gate.permits.release()
    first.join(WAIT)
    assert (seen[0].step, seen[0].steps, seen[0].image) == (1, 6, 0)
    assert seen[0].pil.size == (8, 8)
    gate.open()
    result = job.result(WAIT)
    (last,) = list(previews)  # all that was missed is skipped
    assert last.step == 6
    assert last.pil.tobytes() == result.images[0].pil.tobytes()


def test_previews_of_a_job_that_is_cancelled_end(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=6)
    assert gate.entered.acquire(timeout=WAIT)
    job.cancel()
    gate.permits.release()
    assert len(list(job.previews())) <= 1  # the step that was under way


def test_closing_cancels_what_is_in_flight(bundle: Any, gate: Gate) -> None:
    editor = make_editor(bundle, gate)
    jobs = [editor.submit(GUIDE, steps=9) for _ in range(3)]
    assert gate.entered.acquire(timeout=WAIT)
    closing = threading.Thread(target=editor.close)
    closing.start()
    gate.open()
    closing.join(WAIT)
    assert not closing.is_alive()
    for job in jobs:
        with pytest.raises(CancelledError, match="its editor was closed"):
            job.result(WAIT)
    editor.close()
    with pytest.raises(EngineError, match="the editor is closed"):
        editor.submit(GUIDE, steps=1)
    with pytest.raises(EngineError, match="the editor is closed"):
        editor.edit(GUIDE, steps=1)


def test_an_editor_that_is_forgotten_leaves_no_thread(bundle: Any) -> None:
    editor = make_editor(bundle, lambda x, time: -x)
    before = len(workers())
    editor.edit(GUIDE, steps=1)
    assert len(workers()) == before + 1
    del editor
    gc.collect()
    assert len(workers()) == before


def mixing(x: np.ndarray, told: float) -> np.ndarray:
    """A network whose output depends on every pixel and the level, so that a mixed-up slot shows."""
    return np.tanh(x + np.roll(x, 1, axis=3) - np.float32(told / 20))


def test_two_hundred_random_jobs_are_each_what_they_are_alone(bundle: Any) -> None:
    chance = random.Random(0)
    arguments = [some_job(chance) for _ in range(200)]
    fates = [chance.choice(["result"] * 6 + ["cancel", "preview", "raise"]) for _ in arguments]
    with make_editor(bundle, mixing) as alone:
        expected = [[image.pil.tobytes() for image in alone.edit(**a).images] for a in arguments]
    outcomes: list[object] = [None] * len(arguments)
    before = len(workers())
    lanes = Lanes(lambda: StubEngine(mixing), 2)
    editor = Editor(bundle, CpuDevice(StubEngine(mixing), bundle.inputs, 5, twin(), lanes=lanes))

    def follow(index: int) -> None:
        fate = fates[index]
        if fate == "raise":

            def fails(step: int, steps: int) -> None:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                editor.edit(**arguments[index], on_step=fails)
            outcomes[index] = "raised"
            return
        job = editor.submit(**arguments[index])
        if fate == "cancel":
            job.cancel()
        if fate == "preview":
            assert all(preview.steps >= preview.step for preview in job.previews())
        try:
            outcomes[index] = pixels(job)
        except CancelledError:
            outcomes[index] = "cancelled"

    def work(first: int) -> None:
        for index in range(first, len(arguments), 8):
            follow(index)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT)
    for index, outcome in enumerate(outcomes):
        if fates[index] == "raise":
            assert outcome == "raised"
        elif fates[index] != "cancel" or outcome != "cancelled":
            assert outcome == expected[index], index
    worker = editor._worker
    deadline = time.monotonic() + WAIT
    while worker._unfinished and time.monotonic() < deadline:  # the cancelled ones end with the step under way
        time.sleep(0.001)
    assert not worker._unfinished
    assert not worker._running
    assert not worker._waiting
    assert not worker._loop.busy
    editor.close()
    assert len(workers()) == before
