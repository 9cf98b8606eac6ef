"""Following a job: progress, previews, callbacks, asyncio; and how many jobs an editor takes."""

import asyncio
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from stubs import StubEngine
from tiny import write_bundle

import sdedit
from sdedit.errors import CancelledError, EngineError, PlanError
from sdedit.kernels import twin
from sdedit.runtime import Editor, Progress, read_bundle
from sdedit.runtime.devices import DEVICES
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.editor import DeviceName, EngineName, PrecisionName
from sdedit.runtime.engines import ENGINE_NAMES, PRECISION_NAMES
from sdedit.runtime.recipe import RECIPE_KEY

GUIDE = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
WAIT = 30


class Gate:
    """A network that takes one permit for each evaluation."""

    def __init__(self) -> None:
        self.permits, self.entered = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, x: np.ndarray, time: float) -> np.ndarray:
        self.entered.release()
        assert self.permits.acquire(timeout=WAIT)
        return -x

    def open(self) -> None:
        self.permits.release(10**6)


class CountingDevice(CpuDevice):
    """Counts the copies of predictions."""

    copies = 0

    def read(self, slot: int, name: str) -> np.ndarray:
        self.copies += name == "h"
        return super().read(slot, name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


def make_editor(bundle: Any, function: Any, slots: int = 1, max_waiting: int | None = None) -> Editor:
    device = CountingDevice(StubEngine(function), bundle.inputs, slots, twin())
    return Editor(bundle, device, max_waiting=max_waiting)


@pytest.fixture
def editor(bundle: Any, gate: Gate) -> Iterator[Editor]:
    editor = make_editor(bundle, gate)
    yield editor
    gate.open()
    editor.close()


def ended(job: Any) -> threading.Event:
    event = threading.Event()
    job.add_done_callback(lambda job: event.set())
    return event


def test_a_listener_hears_every_step_and_the_end_once(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=4, images=2)
    heard: list[Progress] = []
    threads = set()

    def callback(progress: Progress) -> None:
        heard.append(progress)
        threads.add(threading.current_thread().name)

    job.subscribe(callback)
    over = ended(job)
    assert (job.progress.step, job.progress.steps, job.progress.seconds_left) == (0, 8, None)
    gate.open()
    assert over.wait(WAIT)
    assert [progress.step for progress in heard] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert [progress.done for progress in heard] == [False] * 8 + [True]
    assert [progress.image for progress in heard] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert all(progress.steps == 8 for progress in heard)
    left = [progress.seconds_left for progress in heard]
    assert all(seconds is not None and seconds >= 0 for seconds in left)
    assert left[-1] == 0
    assert threads == {"sdedit"}
    assert job.progress is heard[-1]
    assert editor.device.copies == 0  # type: ignore[attr-defined]


def test_previews_are_copied_as_often_as_asked_and_decoded_by_who_asks(
    editor: Editor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = editor.submit(GUIDE, steps=7)
    heard: list[Progress] = []
    job.subscribe(heard.append, preview_every=3)
    over = ended(job)
    gate.open()
    assert over.wait(WAIT)
    assert editor.device.copies == 2  # type: ignore[attr-defined]
    pictures = [None if progress.x0 is None else job.preview(progress).pil for progress in heard]
    assert [picture is not None for picture in pictures] == [False, False, True, False, False, True, True, True]
    result = job.result(WAIT).images[0].pil.tobytes()
    assert pictures[-1].tobytes() == result  # type: ignore[union-attr]
    assert pictures[2].tobytes() != result  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="the event has no preview"):
        job.preview(heard[0])


def test_a_preview_that_is_not_taken_is_not_copied(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=9)
    previews = job.previews()
    assert gate.entered.acquire(timeout=WAIT)
    taken: list[Any] = []
    taking = threading.Thread(target=lambda: taken.append(next(previews)))
    taking.start()
    while not job._ticket.listeners:
        pass
    for _ in range(3):
        gate.permits.release()
    taking.join(WAIT)
    gate.open()
    job.result(WAIT)
    assert editor.device.copies == 1  # type: ignore[attr-defined]
    assert [preview.step for preview in previews] == [9]


def test_who_has_left_hears_no_more(editor: Editor, gate: Gate) -> None:
    job = editor.submit(GUIDE, steps=5)
    heard: list[Progress] = []
    stop = job.subscribe(heard.append)
    stop()
    stop()
    gate.open()
    job.result(WAIT)
    assert heard == []


def test_a_callback_that_raises_harms_nobody(editor: Editor, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    job, other = editor.submit(GUIDE, steps=3), editor.submit(GUIDE, steps=3)
    heard: list[int] = []

    def fails(progress: Progress) -> None:
        raise SystemExit("a callback")

    job.subscribe(fails)
    job.subscribe(lambda progress: heard.append(progress.step))
    with caplog.at_level(logging.ERROR, "sdedit"):
        gate.open()
        assert len(job.result(WAIT).images) == len(other.result(WAIT).images) == 1
        editor.edit(GUIDE, steps=1)
    assert heard == [1, 2, 3, 3]
    assert "a callback of a job failed" in caplog.text


def test_a_job_that_has_ended_calls_at_once(bundle: Any) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        job = editor.submit(GUIDE, steps=2)
        job.result(WAIT)
        heard: list[Progress] = []
        job.subscribe(heard.append)
        assert [(progress.step, progress.done) for progress in heard] == [(2, True)]
        jobs: list[Any] = []
        job.add_done_callback(jobs.append)
        assert jobs == [job]


def test_a_callback_may_cancel_submit_and_take_a_result_that_is_there(bundle: Any, gate: Gate) -> None:
    with make_editor(bundle, gate) as editor:
        outcomes: list[Any] = []
        over = threading.Event()

        def at_the_end(job: Any) -> None:
            try:
                outcomes.append(job.result())
                next_job = editor.submit(GUIDE, steps=2)
                with pytest.raises(EngineError, match="it would never return"):
                    next_job.result()
                outcomes.append(next_job)
            finally:
                over.set()

        first = editor.submit(GUIDE, steps=2)
        first.add_done_callback(at_the_end)
        gate.open()
        assert over.wait(WAIT)
        assert outcomes[0] is first.result()
        assert len(outcomes[1].result(WAIT).images) == 1

        endless = editor.submit(GUIDE, steps=10, images=1000)
        endless.subscribe(lambda progress: endless.cancel())
        with pytest.raises(CancelledError):
            endless.result(WAIT)


def test_closing_in_a_callback_does_not_wait_for_itself(bundle: Any, gate: Gate) -> None:
    editor = make_editor(bundle, gate)
    job = editor.submit(GUIDE, steps=10, images=100)
    job.subscribe(lambda progress: editor.close())
    gate.open()
    with pytest.raises(CancelledError, match="closed"):
        job.result(WAIT)
    editor.close()


def test_submit_takes_on_step_as_edit_does(bundle: Any) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        seen: list[tuple[int, int]] = []
        job = editor.submit(GUIDE, steps=3, images=2, on_step=lambda step, steps: seen.append((step, steps)))
        job.result(WAIT)
        assert seen == [(step, 6) for step in range(1, 7)]

        def stop(step: int, steps: int) -> None:
            raise ZeroDivisionError("enough")

        for _ in range(2):
            failed = editor.submit(GUIDE, steps=3, on_step=stop)
            for _ in range(2):
                with pytest.raises(ZeroDivisionError, match="enough"):
                    failed.result(WAIT)
        for call in (editor.edit, editor.submit):
            with pytest.raises(PlanError, match="on_step 3 is not a function"):
                call(GUIDE, steps=2, on_step=3)  # type: ignore[operator]


# asyncio.


def test_awaiting_a_job_gives_its_edit(bundle: Any) -> None:
    async def edits(editor: Editor) -> list[Any]:
        return await asyncio.gather(*(editor.submit(GUIDE, steps=2, seed=seed) for seed in range(3)))

    with make_editor(bundle, lambda x, time: -x) as editor:
        results = asyncio.run(edits(editor))
        for seed, result in enumerate(results):
            expected = editor.edit(GUIDE, steps=2, seed=seed)
            assert result.images[0].pil.tobytes() == expected.images[0].pil.tobytes()


def test_awaiting_a_job_that_failed_raises(bundle: Any) -> None:
    def network(x: np.ndarray, time: float) -> np.ndarray:
        raise EngineError("the engine stumbled")

    async def wait(editor: Editor) -> None:
        await editor.submit(GUIDE, steps=2)

    with make_editor(bundle, network) as editor, pytest.raises(EngineError, match="stumbled"):
        asyncio.run(wait(editor))


def test_a_wait_in_asyncio_that_times_out_or_is_cancelled_cancels_the_edit(editor: Editor, gate: Gate) -> None:
    jobs = [editor.submit(GUIDE, steps=9) for _ in range(2)]

    async def times_out() -> None:
        await asyncio.wait_for(jobs[0], 0.01)

    async def is_cancelled() -> None:
        task = asyncio.ensure_future(jobs[1])
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(TimeoutError):
        asyncio.run(times_out())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(is_cancelled())
    gate.open()
    for job in jobs:
        with pytest.raises(CancelledError):
            job.result(WAIT)


# How many.


def test_an_editor_takes_as_many_jobs_as_it_was_opened_for(bundle: Any, gate: Gate) -> None:
    with make_editor(bundle, gate, slots=1, max_waiting=1) as editor:
        running, waiting = editor.submit(GUIDE, steps=3), editor.submit(GUIDE, steps=3)
        for call in (editor.submit, editor.edit):
            with pytest.raises(EngineError, match="2 jobs are in flight, and the editor takes 2: submit again"):
                call(GUIDE, steps=3)  # type: ignore[operator]
        waiting.cancel()
        gate.open()
        with pytest.raises(CancelledError):
            waiting.result(WAIT)
        running.result(WAIT)
        assert len(editor.edit(GUIDE, steps=2).images) == 1


def test_images_of_a_seed_are_made_alone_by_their_numbers(bundle: Any) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        every = editor.edit(GUIDE, steps=2, images=5, seed=3).images
        some = editor.edit(GUIDE, steps=2, images=5, seed=3, image_numbers=[4, 1]).images
        assert [image.recipe for image in some] == [every[4].recipe, every[1].recipe]
        assert [image.pil.tobytes() for image in some] == [every[4].pil.tobytes(), every[1].pil.tobytes()]
        (last,) = editor.submit(GUIDE, steps=2, images=2**32, image_numbers=range(2**32 - 1, 2**32)).result(WAIT).images
        assert last.recipe["image"] == 2**32 - 1


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([], "is empty or names an image twice"),
        ([1, 1], "is empty or names an image twice"),
        ([2], r"image_numbers \[2\] is not in 0\.\.1: images is 2"),
        ([-1], r"is not in 0\.\.1"),
        ([0.5], "is not a sequence of integers"),
        (3, "image_numbers 3 is not a sequence of integers"),
        ("01", "image_numbers '01' is not a sequence of integers"),
    ],
)
def test_image_numbers_that_are_refused(editor: Editor, numbers: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        editor.submit(GUIDE, images=2, image_numbers=numbers)


# What a program that embeds it finds.


def test_the_bytes_of_an_image_are_its_file(bundle: Any, tmp_path: Path) -> None:
    with make_editor(bundle, lambda x, time: -x) as editor:
        (image,) = editor.edit(GUIDE, steps=2).images
    image.save(tmp_path / "out.png")
    assert image.to_bytes() == (tmp_path / "out.png").read_bytes()
    assert RECIPE_KEY in Image.open(io.BytesIO(image.to_bytes())).info


def test_everything_is_found_in_the_package_itself_and_imported_at_first_use() -> None:
    script = (
        "import sys, sdedit, sdedit.errors; sdedit.__version__; "
        "assert not {'numpy', 'PIL', 'sdedit.runtime'} & sys.modules.keys(); "
        "from sdedit import Editor, EditOptions, Source, replay; import sdedit.runtime; "
        "assert Editor is sdedit.runtime.Editor; "
        "assert 'Editor' in dir(sdedit)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(sdedit.__all__) == {*sdedit.runtime.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Edlitor'"):
        sdedit.Edlitor  # noqa: B018


def test_names_are_literals() -> None:
    assert {*ENGINE_NAMES, "auto"} == set(get_args(EngineName))
    assert {*PRECISION_NAMES, "auto"} == set(get_args(PrecisionName))
    assert set(DEVICES) == set(get_args(DeviceName))


def test_the_choice_of_an_engine_is_logged(caplog: pytest.LogCaptureFixture, bundle: Any) -> None:
    with caplog.at_level(logging.INFO, "sdedit"):
        Editor.open(bundle, engine="onnxruntime", threads=1).close()
    assert "tiny: onnxruntime" in caplog.text
    assert "float32, threads 1, on cpu with the c kernels, slots 1" in caplog.text


def test_jobs_are_logged_for_those_who_debug(editor: Editor, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.open()
    with caplog.at_level(logging.DEBUG, "sdedit"):
        editor.submit(GUIDE, steps=2, images=3, seed=77).result()
    begun, ended = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert begun.startswith("job of 3 images: Settings(t0=0.5, steps=2, ")
    assert "seed=77" in begun
    assert ended.startswith("job of 3 images ended: {'prepare': ")
    assert "'evaluations': 6" in ended
