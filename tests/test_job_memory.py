"""Jobs when memory runs out, errors that are polled, and limits of time: nothing is lost, nothing grows."""

import itertools
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from interrupts import WAIT, every_point, finishes
from stubs import StubEngine

from sdedit.errors import EngineError, PlanError, SdeditError
from sdedit.kernels import twin
from sdedit.runtime import Editor, Job
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.editor import editor as editor_module
from sdedit.runtime.editor import job as job_module

GUIDE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
BUNDLE = read_bundle(SHIPPED)
WANTED = "Unable to allocate 8 GiB for an array with shape (1073741824,) and data type float64"
"""Message of numpy."""


def network(x: np.ndarray, told: float) -> np.ndarray:
    return -x


def make_editor(function: Callable[[np.ndarray, float], np.ndarray] = network, slots: int = 1) -> Editor:
    return Editor(BUNDLE, CpuDevice(StubEngine(function), BUNDLE.inputs, slots, twin()))


def no_memory(*_: object, **__: object) -> Any:
    raise MemoryError(WANTED)


# Memory.


def test_lack_of_memory_anywhere_in_the_worker_loses_no_job_and_it_goes_on() -> None:
    """At each point of two jobs' way through the worker, of what is not the handling of the error itself."""
    failures = []
    handling = ("_fail_running", "_end", "end", "<genexpr>")  # CPython drops what a generator raises as it is closed
    for lack in every_point(
        error=MemoryError, watched=("/runtime/jobs/worker.py", "/runtime/loop.py", "/devices/cpu.py"), skipped=handling
    ):
        evaluations = itertools.count()

        def fails(x: np.ndarray, told: float) -> np.ndarray:
            if next(evaluations) == 0:  # noqa: B023
                lack.__enter__()  # noqa: B023 - in the worker's thread
            return -x

        with make_editor(fails, slots=2) as editor:
            jobs = [editor.submit(GUIDE, steps=2, images=2) for _ in range(2)]
            for job in jobs:
                try:
                    assert len(finishes(lambda: job.result(WAIT), lack.fired).images) == 2  # noqa: B023
                except EngineError as error:
                    failures.append(str(error))
            lack.points.clear()
            assert len(finishes(lambda: editor.submit(GUIDE, steps=1).result(WAIT), lack.fired).images) == 1
            assert not editor._worker._running
            assert not editor._worker._waiting
    assert len(failures) > 20
    assert set(failures) == {"not enough memory for the edit"}


def test_lack_of_memory_says_how_much_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_editor(no_memory) as editor, pytest.raises(EngineError) as raised:
        editor.edit(GUIDE, steps=1)
    assert str(raised.value) == f"not enough memory for the edit: {WANTED}"
    with make_editor() as editor, monkeypatch.context() as patch:
        patch.setattr(editor._codec.__class__, "encode", no_memory)
        for call in (editor.edit, editor.submit):
            with pytest.raises(EngineError, match="not enough memory for the edit: Unable to allocate 8 GiB"):
                call(GUIDE, steps=1)  # type: ignore[operator]
    with monkeypatch.context() as patch:
        patch.setattr(editor_module, "open_device", no_memory)
        with pytest.raises(EngineError, match="not enough memory for bundle earth64 on device cpu: Unable to allocate"):
            Editor.open()


def test_lack_of_memory_for_the_images_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_editor() as editor:
        wanted = editor.edit(GUIDE, steps=1, images=3).images
        job = editor.submit(GUIDE, steps=1, images=3)
        paste = job_module.paste
        lacking = iter((False, True))

        def once_lacking(*arguments: Any, **options: Any) -> Any:
            return no_memory() if next(lacking, False) else paste(*arguments, **options)

        monkeypatch.setattr(
            job_module, "paste", lambda *a, **k: no_memory() if next(lacking, False) else paste(*a, **k)
        )
        with pytest.raises(EngineError, match="not enough memory for the images of the edit: Unable to allocate 8 GiB"):
            job.result(WAIT)
        assert [image.pil for image in job.result(WAIT).images] == [image.pil for image in wanted]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_tells_those_who_wait_and_refuses_more() -> None:
    with make_editor() as editor:
        editor._worker._take_turn = no_memory  # type: ignore[method-assign]
        editor._worker._fail_running = no_memory  # type: ignore[method-assign]
        job = editor.submit(GUIDE, steps=1)
        with pytest.raises(SdeditError, match="closed"):
            finishes(lambda: job.result(WAIT))
        assert finishes(lambda: editor._worker._finished.wait(WAIT))
        with pytest.raises(EngineError, match="the editor is closed"):
            editor.submit(GUIDE, steps=1)


def test_the_garbage_collector_may_close_an_editor_within_its_worker() -> None:
    """It runs wherever memory is allocated, within the worker's lock as well."""
    editor = make_editor()
    job = editor.submit(GUIDE, steps=50)
    outcomes: list[bool] = []

    def collected(progress: object) -> None:
        with editor._worker._lock:
            outcomes.append(editor._worker.close(WAIT))

    job.subscribe(collected)
    with pytest.raises(SdeditError):
        finishes(lambda: job.result(WAIT))
    assert editor._worker.close(WAIT)
    assert outcomes[0]


# Errors that are polled.


class TwoPartsError(Exception):
    """Its class takes other arguments than it keeps."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class UncopyableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not to be copied")


class OtherCopyError(Exception):
    def __copy__(self) -> Exception:
        return ValueError("another")


def caused() -> Exception:
    error = EngineError("the engine stumbled")
    error.__cause__ = ZeroDivisionError("a cause")
    return error


ERRORS = [
    EngineError("the engine stumbled"),
    OSError(5, "Input/output error", "model"),
    TwoPartsError("two", "parts"),
    UncopyableError("alone"),
    OtherCopyError("itself"),
    caused(),
]


def depth(traceback: TracebackType | None) -> int:
    return 0 if traceback is None else 1 + depth(traceback.tb_next)


def contexts(error: BaseException) -> int:
    return 0 if error.__context__ is None else 1 + contexts(error.__context__)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_that_is_polled_is_the_same_and_does_not_grow(error: Exception) -> None:
    def fails(x: np.ndarray, told: float) -> np.ndarray:
        raise error

    with make_editor(fails) as editor:
        job = editor.submit(GUIDE, steps=1)
        sizes = set()
        for _ in range(50):
            with pytest.raises(type(error)) as polled:
                job.result(WAIT)
            raised = polled.value
            assert type(raised) is type(error)
            assert (str(raised), raised.args) == (str(error), error.args)
            assert repr(raised.__cause__) == repr(error.__cause__)
            try:
                job.result(WAIT)
            except Exception:  # while it is handled, as programs do that log it
                with pytest.raises(type(error)) as polled:
                    job.result(WAIT)
            assert contexts(polled.value) <= 2
            kept = job._ticket.error
            assert kept is not None
            sizes.add((depth(kept.__traceback__), depth(raised.__traceback__), contexts(raised)))
        assert len(sizes) == 1, sizes


# Time.


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**300, np.float32(1e30), None, 1e9])
def test_a_limit_of_any_length_is_a_limit(timeout: Any) -> None:
    with make_editor() as editor:
        assert len(finishes(lambda: editor.submit(GUIDE, steps=1).result(timeout)).images) == 1


@pytest.mark.parametrize("timeout", [-1, -math.inf, 0, -0.0, 1e-300, np.float64(-3)])
def test_a_limit_of_nothing_does_not_wait(timeout: Any) -> None:
    def slow(x: np.ndarray, told: float) -> np.ndarray:
        time.sleep(0.05)
        return -x

    with make_editor(slow) as editor:
        job: Job = editor.submit(GUIDE, steps=500)
        with pytest.raises(TimeoutError, match="the edit is not done after "):
            finishes(lambda: job.result(timeout))
        assert not job.done


@pytest.mark.parametrize("timeout", [math.nan, "3", b"3", True, [1], 10**400, 1j, np.array([1.0, 2.0]), object()])
def test_what_is_no_limit_is_refused(timeout: Any) -> None:
    with make_editor() as editor:
        job = editor.submit(GUIDE, steps=1)
        with pytest.raises(PlanError, match=r"^timeout .* is not a number$"):
            job.result(timeout)
        assert len(job.result(WAIT).images) == 1
