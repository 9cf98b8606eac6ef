"""Two thousand damaged checkpoints: each is refused in one line that names it, or loads; none ends the process."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_mutants import BATCH, FAMILIES, fate, work

from sdedit.runtime.machine import available_processors

MUTANTS = 2000
CONTAINERS = ("safetensors", "torch", "legacy")


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path, record_property: Any) -> None:
    seeds = range(MUTANTS // BATCH)
    processes = ProcessPoolExecutor(available_processors(), mp_context=get_context("spawn"))
    with processes as pool:  # a crash breaks the pool, which raises
        batches = list(pool.map(work, seeds, [str(tmp_path)] * len(seeds)))
    results = [result for batch in batches for result in batch]
    assert len(results) == MUTANTS
    counts = Counter(outcome for _, outcome, _ in results)
    record_property("mutants", MUTANTS)
    record_property("refused", counts["refused"])
    record_property("slowest_seconds", max(seconds for *_, seconds in results))
    assert counts.keys() == {"refused", "loaded"}, [result for result in results if result[1] not in counts]
    refused = {what for what, outcome, _ in results if outcome == "refused"}
    kinds = {f"{kind} {family} {c}" for kind in ("bytes", "state") for family in FAMILIES for c in CONTAINERS}
    assert refused == kinds


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_damaged_there_loads_when_it_is_whole(tmp_path: Path, family: str) -> None:
    build, said = FAMILIES[family]
    torch.save(build(), tmp_path / "net.ckpt")
    assert fate(tmp_path / "net.ckpt", said) == "loaded"
