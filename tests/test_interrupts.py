"""Ctrl-C at every point of an edit where CPython looks for it: nothing hangs, nothing is lost, the editor goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupts import WAIT, Interrupt, every_point, finishes
from stubs import StubEngine, stub_editor

from sdedit.errors import CancelledError, EngineError
from sdedit.kernels import twin
from sdedit.runtime import Editor, Job
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.editor import editor as editor_module

GUIDE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


BUNDLE = read_bundle(SHIPPED)

LOGGING_LOCKS = ("_acquireLock", "_releaseLock", "acquire", "release")
"""Functions of logging whose interruption leaves its lock taken (until Python 3.13); every later thread would wait."""


def network(x: np.ndarray, told: float) -> np.ndarray:
    return -x


def make_editor() -> tuple[Editor, list[int]]:
    """An editor, and a list that grows when its device is closed."""
    editor = Editor(BUNDLE, CpuDevice(StubEngine(network), BUNDLE.inputs, 1, twin()))
    closed: list[int] = []
    editor.device.close = lambda: closed.append(1)  # type: ignore[method-assign]
    return editor, closed


def pixels(editor: Editor) -> bytes:
    return editor.submit(GUIDE, steps=1).result(WAIT).images[0].pil.tobytes()


@pytest.fixture(scope="module")
def expected() -> bytes:
    with stub_editor(network) as editor:
        return pixels(editor)


def until(reached: Callable[[], object]) -> bool:
    deadline = time.monotonic() + WAIT
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.0005)
    return bool(reached())


def edit(editor: Editor) -> None:
    editor.edit(GUIDE, steps=2)


def edit_with_on_step(editor: Editor) -> None:
    editor.edit(GUIDE, steps=2, on_step=lambda step, steps: None)


def submit(editor: Editor) -> None:
    editor.submit(GUIDE, steps=2, on_step=lambda step, steps: None).result(WAIT)


def watch_previews(editor: Editor) -> None:
    for _ in editor.submit(GUIDE, steps=2).previews():
        pass


def subscribe_and_cancel(editor: Editor) -> None:
    job = editor.submit(GUIDE, steps=2, images=3)
    stop = job.subscribe(lambda progress: None, preview_every=1)
    stop()
    job.cancel()
    with suppress(CancelledError):
        job.result(WAIT)


@pytest.mark.parametrize(
    ("use", "at_once"),
    [(edit, 1), (edit, 2), (edit_with_on_step, 1), (submit, 1), (watch_previews, 1), (subscribe_and_cancel, 1)],
)
def test_an_editor_goes_on_after_an_interrupt_anywhere(
    use: Callable[[Editor], None], at_once: int, expected: bytes
) -> None:
    """at_once: interrupts at that many points one after the other, the later ones while the first is handled."""
    for interrupt in every_point():
        interrupt.points |= {point + after for point in interrupt.points for after in range(at_once)}
        editor, closed = make_editor()
        try:
            with interrupt:
                use(editor)
        except KeyboardInterrupt:
            assert interrupt.fired
        assert finishes(lambda: pixels(editor), interrupt.fired) == expected  # noqa: B023
        assert until(lambda: not editor._worker._unfinished), interrupt.fired  # noqa: B023
        finishes(editor.close, interrupt.fired)
        assert closed == [1], interrupt.fired


@pytest.mark.parametrize("used", [False, True])
def test_an_editor_that_was_interrupted_while_it_closed_is_closed_by_the_next_call(used: bool) -> None:
    for interrupt in every_point():
        editor, closed = make_editor()
        if used:
            editor.edit(GUIDE, steps=1)
        try:
            with interrupt:
                editor.close()
        except KeyboardInterrupt:
            assert interrupt.fired
        assert finishes(lambda: editor._worker.close(WAIT), interrupt.fired)  # noqa: B023
        assert closed, interrupt.fired
        with pytest.raises(EngineError, match="the editor is closed"):
            editor.submit(GUIDE, steps=1)


def test_a_result_that_was_interrupted_is_made_again() -> None:
    with stub_editor(network) as editor:
        wanted = [image.pil.tobytes() for image in editor.edit(GUIDE, np.ones((16, 16)), steps=1, images=2).images]
        for interrupt in every_point(watched=("/runtime/",)):
            job = editor.submit(GUIDE, np.ones((16, 16)), steps=1, images=2)
            assert until(lambda: job.done)  # noqa: B023
            try:
                with interrupt:
                    job.result()
            except KeyboardInterrupt:
                assert interrupt.fired
            edit = finishes(lambda: job.result(WAIT), interrupt.fired)  # noqa: B023
            assert [image.pil.tobytes() for image in edit.images] == wanted, interrupt.fired
            assert job.result() is edit


def test_opening_that_is_interrupted_frees_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    devices: list[CpuDevice] = []
    opened: list[Editor] = []  # kept, so that none is freed within the interrupted part

    def open_device(*_: object) -> CpuDevice:
        device = CpuDevice(StubEngine(network), BUNDLE.inputs, 1, twin())
        device.close = lambda: closed.append(1)  # type: ignore[method-assign]
        devices.append(device)
        return device

    monkeypatch.setattr(editor_module, "open_device", open_device)
    for interrupt in every_point(watched=("/runtime/editor/", "/runtime/jobs/", "/logging/"), skipped=LOGGING_LOCKS):
        devices.clear()
        closed.clear()
        with suppress(KeyboardInterrupt), interrupt:
            opened.append(Editor.open(BUNDLE))
        if interrupt.fired:
            assert closed or not devices, interrupt.fired
        else:
            opened[-1].close()
            assert closed == [1]


# Threads that cannot start.


@pytest.fixture
def threads_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Errors that the next starts of a worker's thread raise."""
    errors: list[BaseException] = []
    start = threading.Thread.start

    def starts(thread: threading.Thread) -> None:
        if thread.name == "sdedit" and errors:
            raise errors.pop(0)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    yield errors
    assert not errors


def test_an_editor_whose_thread_cannot_start_says_so_and_starts_it_next_time(
    threads_left: list[BaseException], expected: bytes
) -> None:
    editor, closed = make_editor()
    for use in (edit, submit):
        threads_left.append(RuntimeError("can't start new thread"))
        with pytest.raises(EngineError, match="the editor cannot start its thread: can't start new thread"):
            use(editor)
        assert not editor._worker._unfinished
    interrupted = RuntimeError("cannot release un-acquired lock")
    interrupted.__context__ = KeyboardInterrupt()
    threads_left.append(interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit(editor)
    assert finishes(lambda: pixels(editor)) == expected
    finishes(editor.close)
    assert closed == [1]


def test_an_editor_whose_thread_never_started_closes(threads_left: list[BaseException]) -> None:
    editor, closed = make_editor()
    threads_left.append(RuntimeError("can't start new thread"))
    with pytest.raises(EngineError):
        edit(editor)
    finishes(editor.close)
    assert closed == [1]


# Networks that are slow, or never end. A process of its own gets real signals.

SLOW = """
import atexit, os, signal, sys, threading, time
import numpy as np
from sdedit.runtime.editor import editor as editor_module
from stubs import stub_editor

editor_module.CLOSE_SECONDS, editor_module.EXIT_SECONDS = {close}, {exit}
evaluating = False

def at_exit():  # after the editor's own, since it is registered before
    print("evaluating" if evaluating else "idle", flush=True)

atexit.register(at_exit)
DONE = threading.Event()

def network(x, told):
    global evaluating
    evaluating = True
    os.kill(os.getpid(), signal.SIGINT)
    while not editor._worker._closed:  # until the main thread waits in close
        time.sleep(0.001)
    {then}
    evaluating = False
    return -x

with stub_editor(network) as editor:
    editor.edit(np.zeros((8, 8, 3), np.uint8), steps=1)
"""

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix's signals")


def run_slow(close: float, exit_: float, then: str) -> tuple[int, str, str]:
    script = SLOW.format(close=close, exit=exit_, then=then)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * WAIT, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


@unix
def test_two_interrupts_within_one_evaluation_do_not_end_the_process_before_it() -> None:
    code, state, stderr = run_slow(WAIT, WAIT, "os.kill(os.getpid(), signal.SIGINT); time.sleep(0.3)")
    assert (code, state) == (-signal.SIGINT, "idle"), stderr


@unix
def test_a_network_that_never_ends_does_not_keep_the_process() -> None:
    code, state, stderr = run_slow(0.05, 0.05, "DONE.wait()")
    assert (code, state) == (-signal.SIGINT, "evaluating"), stderr


def test_closing_says_that_an_engine_has_not_returned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(editor_module, "CLOSE_SECONDS", 0.05)
    entered, leave = threading.Event(), threading.Event()

    def waits(x: np.ndarray, told: float) -> np.ndarray:
        entered.set()
        leave.wait(WAIT)
        return -x

    editor = stub_editor(waits)
    job: Any = editor.submit(GUIDE, steps=9)
    assert entered.wait(WAIT)
    with caplog.at_level("WARNING", "sdedit"):
        finishes(editor.close)
    assert "its engine has not returned after 0.05 s" in caplog.text
    leave.set()
    assert editor._worker.close(WAIT)
    with pytest.raises(CancelledError, match="its editor was closed"):
        job.result(WAIT)
    assert isinstance(job, Job)


def test_the_points_of_an_interrupt_are_those_of_this_thread() -> None:
    """The helper itself: it fires once, here, and says where."""
    editor, _ = make_editor()
    interrupt = Interrupt(3)
    with pytest.raises(KeyboardInterrupt), interrupt:
        edit(editor)
    assert len(interrupt.fired) == 1
    assert "/runtime/" in interrupt.fired[0]
    editor.close()
