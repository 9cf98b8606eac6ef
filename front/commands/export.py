"""sdedit export: a checkpoint becomes a bundle."""

from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click.core import ParameterSource

from ..errors import SdeditError


@click.command(epilog="Example: sdedit export church.ckpt --prediction eps --schedule linear --size 256 --out church")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--name", help="Of the model.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Of the weights, kept in the bundle.")
@click.option("--weights", default="half", show_default=True, help="How weights are stored: half, float32.")
@click.option("--prediction", help="What the network predicts, where the file does not say: eps, v, x0.")
@click.option("--schedule", help="The noise it was trained with, where the file does not say: linear, cosine.")
@click.option("--size", type=int, help="Pixels of its images' sides, where the file does not say.")
@click.option("--cubins", help="Add GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120.")
@click.option("--int8", is_flag=True, help="Add the network in int8, where edits stay close to float32.")
@click.option("--min-psnr", type=float, help="dB that edits in int8 must reach against float32.  [default: 30]")
@click.pass_context
def command(
    context: click.Context,
    source: Path,
    out: Path,
    name: str | None,
    licence: str,
    weights: str,
    prediction: str | None,
    schedule: str | None,
    size: int | None,
    cubins: str | None,
    int8: bool,
    min_psnr: float | None,
) -> None:
    """Turn the checkpoint SOURCE into a bundle, verified against torch before anything is replaced.

    SOURCE may be a bundle, to add GPU kernels, or the network in int8, to it.
    """
    if min_psnr is not None and not int8:
        raise click.UsageError("--min-psnr goes with --int8")
    from sdedit.export.kernels import add_kernels, parse_targets

    targets = None if cubins is None else parse_targets(cubins)
    if source.is_dir():
        given = {p for p in context.params if context.get_parameter_source(p) is ParameterSource.COMMANDLINE}
        if int8 and given <= {"source", "out", "int8", "min_psnr"}:
            quantise(source, out, min_psnr)
            return
        if targets is None or given != {"source", "out", "cubins"}:
            raise click.UsageError(f"{source} is a folder: to a bundle only --cubins or --int8 can be added")
        bundle = add_kernels(source, out, targets)
        click.echo(f"{click.format_filename(out)}: {bundle.name}, kernels as {', '.join(('PTX', *targets))}")
        return
    try:
        from sdedit.export.bundle import export_bundle
        from sdedit_ref.checkpoint import load_checkpoint
    except ImportError as error:
        raise SdeditError(f"export needs the package {error.name}: pip install 'sdedit[export]'") from None
    checkpoint = load_checkpoint(source, prediction=prediction, schedule=schedule, size=size)
    name = name or out.resolve().name
    with TemporaryDirectory() as folder:
        first = Path(folder) / "bundle" if int8 else out  # nothing is at `out` until int8 has passed as well
        bundle = export_bundle(checkpoint, first, name=name, licence=licence, weights=weights, cubins=targets)
        if int8:
            quantise(first, out, min_psnr)
    parity = bundle.manifest["parity"]
    size_mb = sum(entry["bytes"] for entry in bundle.manifest["files"].values()) / 1e6
    click.echo(
        f"{click.format_filename(out)}: {bundle.name}, {size_mb:.1f} MB, "
        f"error against torch {parity['max_relative_error']:.1e}, "
        f"rounding of weights to {parity['weights']} {parity['weights_rounding']:.1e}"
    )


def quantise(source: Path, out: Path, min_psnr: float | None) -> None:
    try:
        from sdedit.export.int8 import MIN_PSNR, PROMISED_T0, add_int8
    except ImportError as error:
        raise SdeditError(f"export needs the package {error.name}: pip install 'sdedit[export]'") from None
    report = add_int8(
        source,
        out,
        min_psnr=MIN_PSNR if min_psnr is None else min_psnr,
        say=lambda line: click.echo(line, err=True),
    )
    psnr = report.psnr[f"{PROMISED_T0:g}"]
    click.echo(
        f"{click.format_filename(out)}: int8, {len(report.left)} of {report.convolutions} convolutions left in float, "
        f"edits from t0 = {PROMISED_T0:g} within {psnr['worst']:.1f} dB of float32 (mean {psnr['mean']:.1f})"
    )
