"""Write docs/benchmarks.md for `sdedit-bench --markdown`: the measurements and how to read them."""

from collections.abc import Sequence

from . import report

ABOUT = """# Benchmarks

This page compares this runtime with alternatives on one machine, for people who choose between them. `sdedit-bench`
wrote it; this command made the numbers:

    {command}

A package that is missing is named at once, and what needs it is left out. The exit code is 2 if anything that was asked
for is not measured.

To measure on your machine, in a clone of the repository:

    pip install -c constraints.txt ".[bench]"
    sdedit-bench --quick                                # within 90 s
    sdedit-bench --json run.json --plot docs --markdown docs/benchmarks.md       # within 20 minutes
    sdedit-bench --compare run.json                     # measures again and lists the changes
    sdedit-bench --bundle church --threads 4            # another model

**Fair.** All contenders make the same edit: ancestral sampling from t0 = 0.5 with the official code's keep rule and
without clamping. Guide, mask, weights and number of threads are the same for all. The contenders take turns, step by
step, so a busy machine is equally busy for all.

**Correct before fast.** A contender is timed only if it passes two parity checks: its network against the reference
outputs in the bundle, and a whole edit with the same noise against the official loop's (without torch: against the
first contender's in float32).

| column | meaning |
|---|---|
| ms per step | time of one network evaluation and the update: median, then p5 to p95 |
| not network | share of the step outside the network |
| GFLOP/s, of peak | rate of the network; its share of the fastest matrix product of numpy, torch and OpenVINO (below) |
| evaluations | of the network per edit: 500 in the official loop, {ours} in others ([few-steps.md](few-steps.md)) |
| images/s | computed from the median step and the number of evaluations |
| cold start, peak memory | a process that imports, loads, makes an edit of {cold} steps and saves it: median, maximum |
| network error | largest error of the network, relative to the largest reference output |
| edit PSNR | PSNR of an edit against float32 with the same noise, where the mask allows changes |
| step, edit | how many times as fast as the official loop: one step; a whole edit with its number of evaluations |
"""


def page(run: report.Run, pictures: Sequence[str] = ()) -> str:
    """The page in Markdown. pictures: files that --plot wrote, as paths relative to the page."""
    from .scenarios import COLD_STEPS, OUR_EVALUATIONS

    about = ABOUT.format(command=run["command"], ours=OUR_EVALUATIONS, cold=COLD_STEPS)
    parts = [about, "## Machine\n", report.header(run) + "\n", "## Measured\n", *report.tables(run)]
    parts += [f"![]({picture})" for picture in pictures]
    return "\n".join(parts).rstrip() + "\n"
