"""sdedit export: a checkpoint becomes a bundle."""

from pathlib import Path

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
@click.option(
    "--schedule", help="The noise it was trained with, where the file does not say: linear, scaled_linear, cosine."
)
@click.option("--size", type=int, help="Pixels of its images' sides, where the file does not say.")
@click.option("--cubins", help="Add GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120.")
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
) -> None:
    """Turn the checkpoint SOURCE into a bundle, verified against torch before anything is replaced.

    SOURCE may be a bundle, to add GPU kernels to it.
    """
    from sdedit.export.kernels import add_kernels, parse_targets

    targets = None if cubins is None else parse_targets(cubins)
    if source.is_dir():
        given = {p for p in context.params if context.get_parameter_source(p) is ParameterSource.COMMANDLINE}
        if targets is None or given != {"source", "out", "cubins"}:
            raise click.UsageError(f"{source} is a folder: to a bundle only --cubins can be added")
        bundle = add_kernels(source, out, targets)
        click.echo(f"{click.format_filename(out)}: {bundle.name}, kernels as {', '.join(('PTX', *targets))}")
        return
    try:
        from sdedit.export.bundle import export_bundle
        from sdedit_ref.checkpoint import load_checkpoint
    except ImportError as error:
        raise SdeditError(f"export needs the package {error.name}: pip install 'sdedit[export]'") from None
    checkpoint = load_checkpoint(source, prediction=prediction, schedule=schedule, size=size)
    bundle = export_bundle(
        checkpoint, out, name=name or out.resolve().name, licence=licence, weights=weights, cubins=targets
    )
    parity = bundle.manifest["parity"]
    size_mb = sum(entry["bytes"] for entry in bundle.manifest["files"].values()) / 1e6
    click.echo(
        f"{click.format_filename(out)}: {bundle.name}, {size_mb:.1f} MB, "
        f"error against torch {parity['max_relative_error']:.1e}, "
        f"rounding of weights to {parity['weights']} {parity['weights_rounding']:.1e}"
    )
