"""sdedit tune: measure the engines on this machine and remember the fastest."""

import dataclasses
from pathlib import Path

import click

from ..console import to_json
from ..errors import printable


@click.command(epilog="Example: sdedit tune --bundle church")
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped model]")
@click.option("--threads", type=int, help="Measure only this number of threads, and remember nothing.")
@click.option("--forget", is_flag=True, help="Measure nothing; delete what was remembered for the model here.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def tune_command(bundle: Path | None, threads: int | None, forget: bool, as_json: bool) -> None:
    """Measure every engine, precision and number of threads that makes sense here, each after its parity check.

    The fastest in float32 is remembered for this model, processor and versions; `--engine auto` takes it.
    """
    from sdedit.runtime.bundle import SHIPPED, read_bundle

    if forget and (threads is not None or as_json):
        raise click.UsageError("--forget goes without --threads and --json")
    opened = read_bundle(SHIPPED if bundle is None else bundle)
    if forget:
        from sdedit.runtime.engines import remembered

        file = remembered.forget(opened)
        click.echo("nothing was remembered" if file is None else f"forgot {printable(str(file))}")
        return
    from sdedit.runtime.checks.tune import tune

    report = tune(opened, threads=threads)
    if as_json:
        click.echo(to_json(dataclasses.asdict(report)))
        return
    for m in report.measured:
        click.echo(
            f"{m.engine:12} {m.precision:9} {m.threads:3} threads {m.median_ms:9.2f} ms "
            f"({m.p5_ms:.2f} to {m.p95_ms:.2f}), error {m.error:.1e}"
        )
    for r in report.refused:
        click.echo(f"{r.engine:12} {r.precision:9} {r.threads:3} threads not measured: {printable(r.why)}")
    kept = f"not remembered: {report.why}" if report.file is None else f"remembered in {printable(report.file)}"
    click.echo(f"load {'unknown' if report.load is None else f'{report.load:.2f}'}; {kept}")
