"""sdedit tune: measure the engines here and remember the best."""

import dataclasses
import json
import os
from pathlib import Path

import click


@click.command(epilog="Example: sdedit tune --bundle church")
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped one]")
@click.option("--threads", type=int, help="Measure only that many.  [default: half of the processors, and all]")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def tune_command(bundle: Path | None, threads: int | None, as_json: bool) -> None:
    """Measure every engine, precision and thread count that makes sense here, each after its parity check.

    What is fastest in float32 is remembered for this bundle, processor and versions; `--engine auto` takes it.
    """
    from sdedit.runtime.bundle import SHIPPED, read_bundle
    from sdedit.runtime.checks.tune import tune

    report = tune(read_bundle(SHIPPED if bundle is None else bundle), threads=threads)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
        return
    for m in report.measured:
        click.echo(
            f"{m.engine:12} {m.precision:9} {m.threads:3} threads {m.median_ms:9.2f} ms "
            f"({m.p5_ms:.2f} to {m.p95_ms:.2f}), error {m.error:.1e}"
        )
    for r in report.refused:
        click.echo(f"{r.engine:12} {r.precision:9} {r.threads:3} threads not measured: {r.why}")
    load = f"load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "load unknown"
    click.echo(f"{load}; {'not remembered' if report.file is None else f'remembered in {report.file}'}")
