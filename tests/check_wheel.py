"""Check an installed wheel: its C extension has numpy's bits, through an edit of the shipped model.

`.github/workflows/wheels.yml` runs it on each platform, against the wheel alone. It needs onnxruntime.
"""

import numpy as np

from sdedit.kernels import Twin, twin
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import load_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import SAMPLERS, make_plan

SEED = 2**64 - 1


def edited(kernels: Twin, sampler: str) -> np.ndarray:
    """The state after an edit of half a picture."""
    bundle = read_bundle(SHIPPED)
    guide = np.random.default_rng(0).uniform(-1, 1, bundle.state_shape).astype(np.float32)
    mask = np.zeros(guide.shape[1:], np.float32)
    mask[: len(mask) // 2] = 1
    plan = make_plan(bundle.schedule, bundle.prediction, t0=0.5, steps=3, sampler=sampler, keep="paper", repeats=2)
    loop = Loop(CpuDevice(load_engine(bundle, "onnxruntime", "float32", 1), bundle.inputs, 1, kernels))
    loop.admit(Task(plan, guide, mask, SEED, 0))
    finished = loop.step()
    while loop.busy:
        finished = loop.step()
    loop.close()
    return np.asarray(finished[0][1])


def main() -> None:
    for sampler in SAMPLERS:
        c, numpy = (edited(twin(name), sampler) for name in ("c", "numpy"))
        if c.tobytes() != numpy.tobytes():
            raise SystemExit(f"{sampler}: the C extension and numpy give different bits")
    print(f"{len(SAMPLERS)} edits: the C extension has numpy's bits")


if __name__ == "__main__":
    main()
