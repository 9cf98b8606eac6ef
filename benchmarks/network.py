"""Time one evaluation of the network, by engine and precision: `python -m sdedit.benchmarks.network`.

It measures the shipped model, then the official SDEdit architecture (256x256) with random weights beside torch in
float32. Every engine passes its parity check before it is timed. All take turns, run by run.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.network")
    raise SystemExit

import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from sdedit.errors import EngineError
from sdedit.export.bundle import export_bundle
from sdedit.runtime.bundle import SHIPPED, Bundle, read_bundle
from sdedit.runtime.checks.tune import bind_noise, candidates, check, time_evaluations
from sdedit.runtime.engines import Evaluate
from sdedit.runtime.engines.remembered import installed_versions
from sdedit.runtime.machine import available_processors, load_average, processor_features, processor_name
from sdedit_ref import sde
from sdedit_ref.checkpoints import Checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig

SECONDS = 20.0
"""Time for each engine, roughly."""


def main() -> None:
    """Print the tables of docs/engines.md."""
    threads = available_processors()
    torch.set_num_threads(threads)
    print(f"{processor_name()}, {threads} processors, {' '.join(processor_features())}")
    print(f"python {platform.python_version()}, torch {torch.__version__}, {installed_versions()}")
    compare(read_bundle(SHIPPED), None, threads)
    torch.manual_seed(0)
    network = DDPM(DDPMConfig()).eval()
    with tempfile.TemporaryDirectory() as folder:
        compare(export_official(Path(folder), network), network, threads)


def export_official(folder: Path, network: DDPM) -> Bundle:
    config = network.config
    checkpoint = Checkpoint(
        Path("official256"),
        sha256="0" * 64,
        family="DDPM network",
        network=network,
        prediction="eps",
        schedule_name="linear",
        schedule=sde.linear(),
        shape=(config.channels, config.size, config.size),
        multiple_of=config.multiple_of,
    )
    return export_bundle(
        checkpoint, folder / "official256", name="official256", licence="none", weights="float32", fixed=True
    )


def compare(bundle: Bundle, network: DDPM | None, threads: int) -> None:
    """Print a table of every engine and precision that passes its parity check, and of torch if `network` is given."""
    passed = []
    for engine, precision, count in candidates(threads):
        try:
            passed.append(check(bundle, engine, precision, count))
        except EngineError as problem:
            print(f"\n{engine} {precision}: {problem}")
    evaluations = [bind_noise(bundle, engine) for engine, _ in passed]
    if network is not None:
        evaluations.append(torch_evaluation(bundle, network))
    load = load_average()
    times = time_evaluations(evaluations, SECONDS)
    shape = "x".join(map(str, bundle.state_shape))
    print(f"\n{bundle.name} {shape}, load {load} to {load_average()}")
    print("| engine | precision | error | median, ms | p5 | p95 | evaluations |\n|---|---|---|---|---|---|---|")
    for (loaded, error), ms in zip(passed, times[: len(passed)], strict=True):
        print_row(f"{loaded.name}, {loaded.threads} threads", loaded.precision, f"{error:.1e}", ms)
    if network is not None:
        print_row("torch, eager", "float32", "reference", times[-1])


def torch_evaluation(bundle: Bundle, network: DDPM) -> Evaluate:
    x, time = torch.zeros(1, *bundle.state_shape), torch.zeros(1)

    def run() -> None:
        with torch.inference_mode():
            network(x, time)

    return run


def print_row(name: str, precision: str, error: str, ms: list[float]) -> None:
    low, middle, high = np.percentile(ms, [5, 50, 95])
    print(f"| {name} | {precision} | {error} | {middle:.1f} | {low:.1f} | {high:.1f} | {len(ms)} |")
