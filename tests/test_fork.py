"""A process that forks: its children are told to open an editor of their own, and they end.

Each test runs a script in a process of its own, whose children run an interpreter's exit. A child that hangs is killed,
and fails the test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

WAIT = 60

START = """
import atexit, os, sys, threading, time, warnings
import numpy as np
from sdedit.errors import EngineError
from sdedit.runtime import Editor
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks in programs with threads
GUIDE = np.zeros((8, 8, 3), np.uint8) + 9

def told(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except EngineError as error:
        assert "open one after the fork" in str(error), error
    else:
        raise AssertionError(call)

def use_what_the_parent_opened(editor, job=None):
    told(editor.edit, GUIDE, steps=1)
    told(editor.submit, GUIDE, steps=1)
    if job is not None:
        for call in (job.result, job.cancel, lambda: next(job.previews()), lambda: next(job.watch())):
            told(call)
        told(job.subscribe, lambda progress: None)
        told(job.add_done_callback, lambda job: None)
        job.done, job.progress
    with editor:
        pass
    editor.close()

def fork(child, quickly=False):
    pid = os.fork()
    if pid:
        return pid
    child()
    if quickly:
        atexit._run_exitfuncs()
        os._exit(7)
    sys.exit(7)  # with all that an interpreter does as it ends

def end(children, seconds=20):
    codes, deadline = [], time.monotonic() + seconds
    for pid in children:
        done, status = os.waitpid(pid, os.WNOHANG)
        while not done and time.monotonic() < deadline:
            time.sleep(0.001)
            done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        codes.append(os.waitstatus_to_exitcode(status) if done else "hangs")
    assert set(codes) == {7}, codes
"""


def run(script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", START + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_at_any_moment_of_many_edits_is_told_and_ends() -> None:
    """120 forks while another thread submits and cancels, so that any lock may be held at the fork.

    Every twentieth child runs the interpreter's whole exit, which takes long; the others run what is registered for it.
    """
    run("""
from stubs import stub_editor

def network(x, told):
    time.sleep(0.0003)  # the thread that forks gets its turn
    return -x

editor, stop = stub_editor(network, slots=2), threading.Event()
jobs = [editor.submit(GUIDE, steps=500, images=1000)]

def work():
    while not stop.is_set():
        job = editor.submit(GUIDE, steps=3, on_step=lambda step, steps: None)
        job.subscribe(lambda progress: None)
        jobs[0] = job
        editor.edit(GUIDE, steps=2)
        editor.submit(GUIDE, steps=9).cancel()

threads = [threading.Thread(target=work)]
for thread in threads:
    thread.start()
for group in range(6):
    end([fork(lambda: use_what_the_parent_opened(editor, jobs[0]), quickly=number > 0) for number in range(20)])
stop.set()
for thread in threads:
    thread.join(20)
assert len(editor.edit(GUIDE, steps=2).images) == 1, "the parent's editor goes on"
editor.close()
""")


@pytest.mark.parametrize(
    ("engine", "images"), [("onnxruntime", 0), ("onnxruntime", 1), ("openvino", 1), ("onnxruntime", 2), ("openvino", 2)]
)
def test_a_child_of_a_process_with_an_engine_is_told_and_ends(engine: str, images: int) -> None:
    """images: edited before the fork; two use the engine's lanes, whose threads a child does not have."""
    pytest.importorskip(engine)
    run(f"""
editor = Editor.open(engine="{engine}", threads=2, slots=2)
if {images}:
    editor.edit(GUIDE, steps=2, images={images})
assert ("sdedit-lane" in [thread.name for thread in threading.enumerate()]) == ({images} == 2)

def forgets():
    global editor
    use_what_the_parent_opened(editor)
    del editor

end([fork(lambda: use_what_the_parent_opened(editor)), fork(lambda: None), fork(forgets)])
assert len(editor.edit(GUIDE, steps=1, images=2).images) == 2
""")


def test_a_child_may_open_its_own() -> None:
    """Even if another thread of the parent reads a picture at the fork."""
    pytest.importorskip("onnxruntime")
    run("""
from PIL import Image
editor = Editor.open(engine="onnxruntime", threads=2)
photo = Image.fromarray(GUIDE)
expected = editor.edit(photo, steps=1).images[0].pil.tobytes()
reading, read = threading.Event(), threading.Event()
load = photo.load

def load_slowly():
    reading.set()
    read.wait(20)
    return load()

def own():
    photo.load = load
    with Editor.open(engine="onnxruntime", threads=2) as mine:
        assert mine.edit(photo, steps=1).images[0].pil.tobytes() == expected

photo.load = load_slowly
reader = threading.Thread(target=lambda: editor.edit(photo, steps=1))
reader.start()
assert reading.wait(20)
end([fork(own)])
read.set()
reader.join(20)
""")
