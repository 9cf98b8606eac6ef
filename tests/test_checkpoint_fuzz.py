"""Two thousand damaged checkpoints: each is refused in one line that names it, or loads; none ends the process."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_mutants import CONTAINERS, FAMILIES, fate, write_mutant

pytestmark = pytest.mark.usefixtures("one_thread")

MUTANTS = 2000


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path, record_property: Any) -> None:
    """In this process: one that a checkpoint ends would be a failure, too."""
    path = tmp_path / "mutant.ckpt"
    counts: Counter[str] = Counter()
    refused = set()
    slowest = 0.0
    for seed in range(MUTANTS):
        what, said = write_mutant(random.Random(seed), path)
        start = time.perf_counter()
        outcome = fate(path, said)
        slowest = max(slowest, time.perf_counter() - start)
        assert outcome in ("refused", "loaded"), (seed, what, outcome)
        counts[outcome] += 1
        if outcome == "refused":
            refused.add(what)
    record_property("mutants", MUTANTS)
    record_property("refused", counts["refused"])
    record_property("slowest_seconds", slowest)
    assert counts.keys() == {"refused", "loaded"}
    assert refused == {f"{kind} {family} {c}" for kind in ("bytes", "state") for family in FAMILIES for c in CONTAINERS}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_damaged_there_loads_when_it_is_whole(tmp_path: Path, family: str) -> None:
    build, said = FAMILIES[family]
    torch.save(build(), tmp_path / "net.ckpt")
    assert fate(tmp_path / "net.ckpt", said) == "loaded"
