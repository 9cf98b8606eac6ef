"""Two thousand damaged bundles: each is an error of ours or does not change the result, and none ends the process.

Engines read them in processes of their own, so that a crash would be seen.
"""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from bundle_mutants import BATCH, work
from tiny import write_bundle

from sdedit.runtime.bundle import NETWORK
from sdedit.runtime.machine import available_processors

MUTANTS = 2000


@pytest.mark.slow
def test_damaged_bundles_are_errors_and_never_crashes(tmp_path: Path, record_property: Any) -> None:
    source = write_bundle(tmp_path / "tiny")
    seeds = range(MUTANTS // BATCH)
    processes = ProcessPoolExecutor(available_processors(), mp_context=get_context("spawn"))
    with processes as pool:  # a crash breaks the pool, which raises
        batches = list(pool.map(work, seeds, [str(source)] * len(seeds), [str(tmp_path)] * len(seeds)))
    results = [result for batch in batches for result in batch]
    assert len(results) == MUTANTS
    counts = Counter((what, outcome) for what, outcome, _ in results)
    record_property("mutants", MUTANTS)
    for what, outcome, same in results:
        if outcome != "edit":
            continue
        # What hashes protect never changes a result. With hashes made anew, the mutant is another bundle, and a valid
        # one: other weights or levels give other results.
        assert what.startswith("rehashed") or same, (what, outcome)
    assert counts["file " + NETWORK, "BundleError"] > 0
    assert counts["manifest", "BundleError"] > 0
    assert {outcome for _, outcome in counts} <= {"BundleError", "EngineError", "PlanError", "edit"}
    assert sum(n for (_, outcome), n in counts.items() if outcome == "EngineError") > 0
