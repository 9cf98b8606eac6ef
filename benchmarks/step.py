"""Time one step: `python -m sdedit.benchmarks.step`.

First the C and numpy twins are compared bit by bit. Then the fused step is timed on one thread at 3x256x256, and one
step of the shipped model is split into the network and everything else. In the end steps of larger edits are timed.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.step")
    raise SystemExit

import platform
import statistics
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from sdedit.kernels import Twin, twin
from sdedit.kernels.layout import allocate_state
from sdedit.runtime import Editor
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.editor import EngineName
from sdedit.runtime.engines import Evaluate, installed_engines
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.machine import available_processors, load_average, processor_name
from sdedit.runtime.plan import Plan, make_plan

SHAPE = (3, 256, 256)

SIDES = {64: 100, 128: 50, 256: 24, 512: 8}
"""Sides of the square edits in the last table, in pixels, and how many steps of each are timed."""


def main() -> None:
    """Print the tables."""
    editor = Editor.open()
    plan = make_plan(editor.bundle.schedule, editor.bundle.prediction, t0=0.5, steps=25, sampler="ancestral")
    print(f"{processor_name()}, {available_processors()} processors, load {load_average()}")
    engine = editor.device.engine
    print(f"python {platform.python_version()}, numpy {np.__version__}, {engine.name} {engine.version}")
    check_parity(plan)
    print_head(f"fused step, {'x'.join(map(str, SHAPE))}, one thread, same bits")
    for name, rounds in (("c", 400), ("numpy", 30)):
        print_row(f"  {name}", milliseconds(step_of(twin(name), plan), rounds))
    network, rest = split_steps(editor, plan, edits=20)
    print_head(f"one step of {editor.bundle.name}, {engine.precision}, {engine.threads} threads")
    print_row("  network", network)
    print_row("  everything else", rest)
    share = 100 * sum(rest) / (sum(network) + sum(rest))
    print(f"  everything else is {share:.2f} % of a step; load {load_average()}")
    editor.close()
    for name in installed_engines():
        print_sizes(cast(EngineName, name))


def print_sizes(engine: EngineName) -> None:
    """Print the duration of a step by size, and how it grows with the number of pixels."""
    with Editor.open(engine=engine) as editor:
        print_head(f"one step by size, {engine}, {editor.device.engine.threads} threads")
        first = None
        for side, steps in SIDES.items():
            found = step_milliseconds(editor, side, steps)
            per_pixel = statistics.median(found) / side**2
            first = first or per_pixel
            print_row(f"  {side}x{side}, {per_pixel / first:.2f} times the first by pixels", found)
    print(f"  load {load_average()}")


def step_milliseconds(editor: Editor, side: int, steps: int) -> list[float]:
    """Milliseconds of each step of an edit after an untimed one."""
    guide = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    editor.edit(guide, size=str(side), max_pixels=side**2, steps=1)
    times: list[float] = []

    def on_step(step: int, of: int) -> None:
        times.append(1e3 * time.perf_counter())

    editor.edit(guide, size=str(side), max_pixels=side**2, steps=steps + 1, on_step=on_step)
    return np.diff(times).tolist()


def check_parity(plan: Plan) -> None:
    """Raise RuntimeError unless the twins give the same bits: a wrong twin is not timed."""
    results = []
    for name in ("c", "numpy"):
        state = random_state(plan)
        twin(name).step(state)
        results.append(state["x"].tobytes() + state["h"].tobytes())
    if results[0] != results[1]:
        raise RuntimeError("the C and numpy twins differ: nothing is timed")


def random_state(plan: Plan) -> dict[str, np.ndarray]:
    state = allocate_state(1, len(plan.rows), SHAPE)
    rng = np.random.default_rng(0)
    for name in ("x", "h", "guide", "o"):
        state[name][:] = rng.standard_normal(state[name].shape)
    state["mask"][:] = rng.integers(0, 2, state["mask"].shape)
    del state["o_uncond"]
    state["rows"][0], state["row_count"][:] = plan.rows, len(plan.rows)
    return state


def step_of(kernels: Twin, plan: Plan) -> Callable[[], None]:
    state = random_state(plan)
    return lambda: kernels.step(state)


def milliseconds(function: Callable[[], None], rounds: int) -> list[float]:
    function()
    return [1e3 * seconds(function) for _ in range(rounds)]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def split_steps(editor: Editor, plan: Plan, edits: int) -> tuple[list[float], list[float]]:
    """Milliseconds of the network and of everything else, for every step of `edits` edits after an untimed one."""
    loop, device = Loop(editor.device), editor.device
    inner: list[float] = []

    def timed(evaluate: Evaluate) -> Evaluate:
        return lambda: inner.append(1e3 * seconds(evaluate))

    assert isinstance(device, CpuDevice)
    device._evaluate[:] = [[timed(evaluate) for evaluate in passes] for passes in device._evaluate]
    guide, mask = np.zeros(editor.bundle.state_shape, np.float32), np.ones(editor.bundle.state_shape[1:], np.float32)
    whole = []
    for image in range(edits + 1):
        loop.admit(Task(plan, guide, mask, 0, image))
        while loop.busy:
            whole.append(1e3 * seconds(loop.step))
    warm = len(plan.rows)
    network = inner[warm:]
    return network, [total - part for total, part in zip(whole[warm:], network, strict=True)]


def print_head(title: str) -> None:
    print(f"\n{title:<56}{'median':>9} {'p5':>8} {'p95':>8}  ms")


def print_row(name: str, values: list[float]) -> None:
    low, high = np.percentile(values, [5, 95])
    print(f"{name:<56}{statistics.median(values):>9.3f} {low:>8.3f} {high:>8.3f}")
