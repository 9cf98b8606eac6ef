"""docs/benchmarks.md, written by `sdedit-bench --markdown`: what was measured, and how to read it."""

from collections.abc import Sequence

from . import report

ABOUT = """# Benchmarks

Written by `sdedit-bench`, not by hand. The command of this page:

    {command}

    pip install -c constraints.txt ".[bench]"
    sdedit-bench --quick                                # within 90 s
    sdedit-bench --json run.json --plot docs --markdown docs/benchmarks.md       # within 20 minutes
    sdedit-bench --compare run.json                     # what changed since
    sdedit-bench --bundle church --threads 4            # another model

**Fair.** All contenders make the same edit: ancestral sampling from t0 = 0.5, the official code's keep rule, no clamp,
the same guide and mask, the same weights, the same threads. They take turns, step by step, so that a busy machine is
equally busy for all. Nothing is timed before its parity check: the network against the reference outputs in the bundle,
and a whole edit with the same noise against the first float32 contender.

| column | is |
|---|---|
| ms a step | median of an evaluation of the network and the update; p5 to p95 beside it |
| not network | share of the step that is not the network |
| GFLOP/s, of peak | of the network; of the best matrix product of numpy, torch and OpenVINO in that precision (below) |
| evaluations | of an edit: 500 for the official loop, {ours} for the others ([few-steps.md](few-steps.md)) |
| images/s | by ms a step and evaluations |
| cold start, peak memory | a process that imports, loads, makes one edit of {cold} steps and writes it; median |
| network error | largest, relative to the largest reference output |
| edit PSNR | of what an edit with the same noise may change, against float32 |
| step, edit | times as fast as the official loop: a step, and an edit by its number of evaluations |
"""


def page(run: report.Run, pictures: Sequence[str] = ()) -> str:
    """pictures: of --plot, as paths from the page."""
    from .scenarios import COLD_STEPS, OUR_EVALUATIONS

    about = ABOUT.format(command=run["command"], ours=OUR_EVALUATIONS, cold=COLD_STEPS)
    parts = [about, "## Machine\n", report.header(run) + "\n", "## Measured\n", *report.tables(run)]
    parts += [f"![]({picture})" for picture in pictures]
    return "\n".join(parts).rstrip() + "\n"
