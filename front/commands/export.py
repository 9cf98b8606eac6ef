"""sdedit export: a checkpoint becomes a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import SdeditError, printable
from .options import Decorator, together

if TYPE_CHECKING:
    from sdedit.runtime import Bundle

ANSWERS: tuple[Decorator, ...] = (
    click.option("--prediction", help="What the network predicts: eps, v, x0."),
    click.option("--schedule", help="Its noise: linear, cosine; ve, ve-discrete, vp, vp-discrete, subvp."),
    click.option("--size", help="Of its images: PIXELS of a side, or HEIGHTxWIDTH."),
    click.option("--config", help="score_sde's configuration, such as ve/church_ncsnpp_continuous: answers the rest."),
    click.option("--centred", help="score_sde: whether its data were in [-1, 1]: yes, no."),
    click.option("--skip-rescale", help="score_sde: whether sums of branches are divided by sqrt 2: yes, no."),
    click.option("--fir", help="score_sde: whether resampling has FIR filters: yes, no."),
    click.option("--scale-by-sigma", help="score_sde: whether outputs are divided by sigma.  [default: of VE, yes]"),
    click.option("--null-label", help="The label that was trained to stand for no class, where one was."),
    click.option("--preset", help="guided- and improved-diffusion: the released file that SOURCE is."),
    click.option("--attention-order", help="guided-diffusion: legacy, new (use_new_attention_order)."),
    click.option("--heads", help="Of each attention of guided- or improved-diffusion."),
    click.option("--head-channels", help="Of each head, instead of --heads."),
    click.option("--steps", help="Of guided- or improved-diffusion's training process (diffusion_steps)."),
    click.option("--rescale-timesteps", help="Whether the network was told times in 0..1000: yes, no."),
)
"""What a file may leave unsaid; which of them a file needs, the error for it names."""

EXAMPLE = "Example: sdedit export church.ckpt --prediction eps --schedule linear --size 256 --out church"


@click.command(epilog=EXAMPLE)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dry-run", is_flag=True, help="Only say what SOURCE is recognised as.")
@click.option("--name", help="Of the model.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Of the weights, kept in the bundle.")
@click.option("--weights", default="half", show_default=True, help="How weights are stored: half, float32.")
@click.option("--card", type=click.Path(path_type=Path), help="Text about the model, kept as MODEL_CARD.md.")
@together(ANSWERS)
@click.option("--cubins", help="Add GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120.")
@click.pass_context
def command(
    context: click.Context,
    source: Path,
    out: Path | None,
    dry_run: bool,
    name: str | None,
    licence: str,
    weights: str,
    card: Path | None,
    cubins: str | None,
    **answers: str | None,
) -> None:
    """Turn the checkpoint SOURCE into a bundle, verified against torch before anything is replaced.

    What SOURCE does not tell is asked for, all at once. SOURCE may be a bundle, to add GPU kernels to it.
    """
    if dry_run:
        show(source, answers)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    from sdedit.export.kernels import add_kernels, parse_targets

    targets = None if cubins is None else parse_targets(cubins)
    if is_bundle(source):
        given = {p for p in context.params if context.get_parameter_source(p) is ParameterSource.COMMANDLINE}
        if targets is None or given != {"source", "out", "cubins"}:
            raise click.UsageError(f"{source} is a bundle: to it only --cubins can be added")
        bundle = add_kernels(source, out, targets)
        click.echo(f"{click.format_filename(out)}: {bundle.name}, kernels as {', '.join(('PTX', *targets))}")
        return
    try:
        from sdedit.export.bundle import export_bundle
    except ImportError as error:
        raise needs(error) from None
    checkpoint = load(source, answers)
    bundle = export_bundle(
        checkpoint, out, name=name or out.resolve().name, licence=licence, weights=weights, cubins=targets, card=card
    )
    report(out, bundle)


def is_bundle(source: Path) -> bool:
    from sdedit.runtime.bundle import MANIFEST

    try:
        return (source / MANIFEST).exists()
    except OSError:  # a name that is too long: reading it as a checkpoint says so
        return False


def show(source: Path, answers: dict[str, str | None]) -> None:
    """What it was recognised as, one fact a line."""
    for name, value in load(source, answers).facts().items():
        click.echo(printable(f"{name}: {value}"))


def load(source: Path, answers: dict[str, str | None]) -> Any:
    try:
        from sdedit_ref.checkpoint import load_checkpoint
    except ImportError as error:
        raise needs(error) from None
    return load_checkpoint(source, **answers)


def needs(error: ImportError) -> SdeditError:
    return SdeditError(f"export needs the package {error.name}: pip install 'sdedit[export]'")


def report(out: Path, bundle: "Bundle") -> None:
    parity = bundle.manifest["parity"]
    size_mb = sum(entry["bytes"] for entry in bundle.manifest["files"].values()) / 1e6
    click.echo(
        f"{click.format_filename(out)}: {bundle.name}, {size_mb:.1f} MB, "
        f"error against torch {parity['max_relative_error']:.1e}, "
        f"rounding of weights to {parity['weights']} {parity['weights_rounding']:.1e}"
    )
    for name, errors in parity["engines"].items():
        found = ", ".join(f"{error:.1e} at {k}" for k, error in zip(parity["levels"], errors, strict=True))
        click.echo(f"  {name}: {found}")
