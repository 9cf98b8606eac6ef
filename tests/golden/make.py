"""Write the golden files beside this script: python tests/golden/make.py. Run it only when the contract changes.

noise.npy   normals of five keys, the numpy twin's bits
rows.npz    the rows of every preset and keep rule on DDPM's linear schedule
step.npz    a state of two slots and what one step of the numpy twin makes of it
edit.npy    an edit's x after begin and two rows, with the stub network o = x / 2
"""

from pathlib import Path

import numpy as np

from sdedit.kernels import Twin, twin
from sdedit.kernels.layout import ROW, STEP_ARRAYS, allocate_state
from sdedit.kernels.noise import normal_numpy
from sdedit.kernels.step_numpy import step_numpy
from sdedit.runtime.plan import KEEPS, SAMPLERS, make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde

HERE = Path(__file__).parent
KEYS = [(0, 0, 0, 0, 0), (1, 0, 0, 0, 1), (2**64 - 1, 2**32 - 1, 2**31 - 1, 2**32 - 1, 1), (42, 3, 2, 24, 1)]
KEYS += [(0x0123456789ABCDEF, 7, 1, 0, 0)]


def noise() -> np.ndarray:
    return np.stack([normal_numpy(*key, 257) for key in KEYS])


def rows() -> dict[str, np.ndarray]:
    schedule = Schedule(sde.linear())
    plans = {
        f"{sampler}-{keep}": make_plan(schedule, "eps", t0=0.5, steps=5, sampler=sampler, keep=keep, repeats=2)
        for sampler in SAMPLERS
        for keep in KEEPS
    }
    return {name: plan.rows.view(np.uint32).reshape(-1, len(ROW)) for name, plan in plans.items()}


def step_state() -> dict[str, np.ndarray]:
    """Two slots in mid-plan: 2M with the fresh rule and a strength map; ancestral with the official rule."""
    schedule = Schedule(sde.linear())
    state = allocate_state(2, 4, (2, 3, 5))
    for index, name in enumerate(("x", "h", "guide", "o", "o_uncond")):
        z = normal_numpy(9, index, 0, 0, 0, state[name].size)
        state[name][:] = z.reshape(state[name].shape) * np.float32(0.5)
    state["mask"][:] = (np.arange(30) % 5 / np.float32(4)).reshape(2, 3, 5)
    for slot, (sampler, keep) in enumerate((("dpmpp_2m", "fresh"), ("ancestral", "official"))):
        state["rows"][slot] = make_plan(schedule, "eps", t0=0.4, steps=4, sampler=sampler, keep=keep, guidance=2.0).rows
    state["counter"][:], state["row_count"][:], state["seed"][:], state["image"][:] = 2, 4, [5, 2**40], [0, 9]
    return state


def edit(kernels: Twin) -> np.ndarray:
    state = allocate_state(1, 4, (3, 8, 8))
    plan = make_plan(Schedule(sde.linear()), "v", t0=0.5, steps=4, sampler="ancestral")
    state["guide"][:] = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8)
    state["mask"][0, :, 2:] = 1
    state["mask"][0, :, 4:] = 0.5
    state["rows"][0], state["row_count"][:], state["seed"][:] = plan.rows, 4, 2024
    state["alpha0"][:], state["sigma0"][:] = plan.alpha0, plan.sigma0
    s = state
    kernels.begin(s)
    for _ in range(2):
        s["o"][:] = s["x"] * np.float32(0.5)
        kernels.step(s)
        kernels.advance(s)
    return s["x"]


def write() -> None:
    np.save(HERE / "noise.npy", noise())
    np.savez_compressed(HERE / "rows.npz", **rows())
    before = step_state()
    after = {name: array.copy() for name, array in before.items()}
    step_numpy(after)
    inputs = {name: before[name] for name in STEP_ARRAYS if name != "rows"}
    inputs["rows"] = before["rows"].view(np.uint32).reshape(2, 4, len(ROW))
    np.savez_compressed(HERE / "step.npz", **inputs, x_after=after["x"], h_after=after["h"])
    np.save(HERE / "edit.npy", edit(twin("numpy")))


if __name__ == "__main__":
    write()
