"""The command line. Heavy rooms are imported inside the command that needs them."""

import sys
import warnings
from pathlib import Path

import click
from click.core import ParameterSource

from . import __version__
from .errors import SdeditError


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="sdedit")
@click.pass_context
def cli(context: click.Context) -> None:
    """Edit images by noising a guide up to t0 and bringing it back to a clean image (SDEdit)."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command(epilog="Example: sdedit edit strokes.png --out result.png --t0 0.5 --seed 3")
@click.argument("guide", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write; it carries its recipe.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="White may change, black stays byte for byte, grey is edited from that fraction of t0 on.",
)
@click.option("--t0", default=0.5, show_default=True, help="In (0, 1]: little is faithful, much is realistic.")
@click.option("--steps", default=25, show_default=True, help="Network evaluations a repeat.")
@click.option(
    "--sampler",
    default="ancestral",
    show_default=True,
    help="ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, euler, euler_maruyama.",
)
@click.option("--eta", type=float, help="Noise of sampler ddim, in [0, 1].  [default: 0]")
@click.option(
    "--keep",
    default="fresh",
    show_default=True,
    help="What is kept outside the mask on the way: fresh, fixed, paper, official.",
)
@click.option("--repeats", default=1, show_default=True, help="The paper's K: start again from the result.")
@click.option("--seed", default=0, show_default=True, help="64 bits; the same seed gives the same noise everywhere.")
@click.option(
    "--fit",
    default="crop",
    show_default=True,
    help="Without a mask, how the guide is brought to the model's size: crop, pad, stretch.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped one]")
def edit(guide: Path, out: Path, mask: Path | None, bundle: Path | None, **options: object) -> None:
    """Turn GUIDE (strokes, strokes over a photo, a pasted composite) into an image.

    Without a mask the result has the model's size; with one, it is GUIDE with the masked part made anew.
    """
    from sdedit.runtime.images import check_output

    check_output(out)
    from sdedit.runtime.editor import Editor

    editor = Editor.open(bundle)
    result = editor.edit(guide, mask, **options)  # type: ignore[arg-type] # click gives what the options above declare
    result.images[0].save(out)
    image, r = result.images[0].pil, result.recipe
    click.echo(
        f"{click.format_filename(out)}: {image.width}x{image.height}, {r['bundle']['name']}, "
        f"{r['steps']} steps of {r['sampler']} from t0 {r['t0']:g}, seed {r['seed']}, {result.timings['loop']:.2f} s"
    )


@cli.command(epilog="Example: sdedit export church.ckpt --prediction eps --schedule linear --size 256 --out church")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--name", help="Of the model.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Of the weights, kept in the bundle.")
@click.option("--weights", default="half", show_default=True, help="How weights are stored: half, float32.")
@click.option("--prediction", help="What the network predicts, where the file does not say: eps, v, x0.")
@click.option("--schedule", help="The noise it was trained with, where the file does not say: linear, cosine.")
@click.option("--size", type=int, help="Pixels of its images' sides, where the file does not say.")
@click.option("--cubins", help="Add GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120.")
@click.pass_context
def export(
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


def main() -> None:
    """Entry point: every error that a user can cause is one line on stderr and exit code 2."""
    warnings.formatwarning = one_line
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SdeditError as error:
        fail(str(error))


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the place in our code where it was raised."""
    return f"{message}\n"


def fail(message: str) -> None:
    click.echo(f"sdedit: {' '.join(message.split())}", err=True)
    sys.exit(2)
