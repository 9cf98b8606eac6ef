"""Edits of every kind, for tests that run many of them."""

import random
from typing import Any

import numpy as np


def some_job(chance: random.Random) -> dict[str, Any]:
    height, width = chance.choice([(8, 8), (8, 8), (11, 9), (20, 31)])
    values = np.random.default_rng(chance.getrandbits(32))
    arguments: dict[str, Any] = {
        "guide": values.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "t0": chance.choice([0.4, 0.5, 0.9, 1.0]),
        "steps": chance.randint(1, 8),
        "sampler": chance.choice(["ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler_maruyama", "lcm"]),
        "keep": chance.choice(["fresh", "fixed", "paper", "official"]),
        "repeats": chance.randint(1, 3),
        "seed": chance.getrandbits(64),
        "images": chance.choice([1, 1, 1, 2, 5]),
    }
    if chance.random() < 0.5:
        arguments["mask"] = values.random((height, width)).astype(np.float32).round(1)
        arguments["mask"][0, 0] = 1
    return arguments
