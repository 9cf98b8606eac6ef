"""sdedit export: a checkpoint becomes a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CheckpointError, printable, raise_interrupt
from .additions import ADDITIONS, PARTS, needs, parse_additions
from .options import Decorator, GroupedCommand, option, together
from .outputs import shown

if TYPE_CHECKING:
    from sdedit.runtime import Bundle

DDPM = "Networks of the official SDEdit and DDIM code, and every family"
SCORE_SDE = "score_sde (NCSN++, DDPM++)"
ADM = "guided-diffusion and improved-diffusion"
LABELS = "Networks with labels"
LATENT = "Latent text-to-image pipelines of diffusers"

QUESTIONS: tuple[Decorator, ...] = (
    option(DDPM, "--prediction", help="Output of the network: eps, v, x0."),
    option(
        DDPM,
        "--schedule",
        help="Noise of its training: linear, scaled_linear, cosine; ve, ve-discrete, vp, vp-discrete, subvp.",
    ),
    option(DDPM, "--size", help="Size of its images: PIXELS of a side, or HEIGHTxWIDTH."),
    option(SCORE_SDE, "--config", help="Configuration, such as ve/church_ncsnpp_continuous; it answers the rest."),
    option(SCORE_SDE, "--centred", help="Whether the training data were in [-1, 1]: yes, no."),
    option(SCORE_SDE, "--skip-rescale", help="Whether sums of branches are divided by sqrt 2: yes, no."),
    option(SCORE_SDE, "--fir", help="Whether resampling has FIR filters: yes, no."),
    option(SCORE_SDE, "--scale-by-sigma", help="Whether outputs are divided by sigma: yes, no.  [default: yes for VE]"),
    option(ADM, "--preset", help="The released file that SOURCE is; it answers the rest."),
    option(ADM, "--attention-order", help="Order of heads and of queries, keys, values: legacy, new."),
    option(ADM, "--heads", help="Heads of each attention."),
    option(ADM, "--head-channels", help="Channels of each head, instead of --heads."),
    option(ADM, "--steps", help="Steps of the training process (diffusion_steps)."),
    option(ADM, "--rescale-timesteps", help="Whether times were scaled to 0..1000 in training: yes, no."),
    option(LATENT, "--vae", help="Folder of another autoencoder, such as a tiny one."),
    option(LATENT, "--like", help="For a single file: diffusers folder of the same kind; it needs no weights."),
    option(LATENT, "--distilled", help="Whether it was distilled without guidance, as Turbo models: yes, no."),
    option(LABELS, "--null-label", help="The label that was trained to stand for no class, if there is one."),
)
"""Facts that a file may leave open. The error for a file names the options that it needs."""

EXAMPLE = "Example: sdedit export church.ckpt --prediction eps --schedule linear --size 256 --out church"


@click.command(cls=GroupedCommand, epilog=EXAMPLE)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dry-run", is_flag=True, help="Only show what SOURCE is recognised as.")
@click.option("--name", help="Name of the model.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights, kept in the bundle.")
@click.option("--weights", default="half", show_default=True, help="How weights are stored: half, float32.")
@click.option("--fixed", is_flag=True, help="Take images of the network's own size only, as some targets need.")
@click.option("--max-pixels", type=int, help="Largest area that the network does well.  [default: 4 times its own]")
@click.option("--card", type=click.Path(path_type=Path), help="Text about the model, kept as MODEL_CARD.md.")
@together(QUESTIONS, ADDITIONS)
def export_command(
    source: Path,
    out: Path | None,
    dry_run: bool,
    name: str | None,
    licence: str,
    weights: str,
    fixed: bool,
    max_pixels: int | None,
    card: Path | None,
    **options: Any,
) -> None:
    """Turn the checkpoint SOURCE into a bundle, verified against torch before anything is replaced.

    SOURCE is a file or a folder, or on the Hugging Face Hub hf:OWNER/NAME or hf:OWNER/NAME/FILE, each with @REVISION
    where one is wanted.

    If SOURCE leaves something unsaid, one error lists every option to add. `sdedit extend` adds parts to a bundle.
    """
    parts = {part: options.pop(part) for part in PARTS}
    if is_bundle(source):
        raise CheckpointError(f"{source} is a bundle already: `sdedit extend {source}` adds parts to it")
    if dry_run:
        show(fetched(source), options)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    from sdedit.runtime.bundle import refuse_installed

    refuse_installed(out)  # before the checkpoint is loaded
    additions = parse_additions(**parts)
    try:
        from sdedit.export.bundle import export_bundle
    except ImportError as error:
        raise_interrupt(error)
        raise needs(error) from None
    checkpoint = load(fetched(source), options)
    lines: list[str] = []
    bundle = export_bundle(
        checkpoint,
        out,
        name=name or out.resolve().name,
        licence=licence,
        weights=weights,
        fixed=fixed,
        max_pixels=max_pixels,
        card=card,
        additions=additions,
        release=True,
        say=lines.append,
    )
    report(out, bundle)
    for line in lines:
        click.echo(f"{shown(out)}: {line}")


def fetched(source: Path) -> Path:
    """SOURCE, or if it is a name on the Hugging Face Hub, what was downloaded of it; raises HubError."""
    from sdedit.runtime.hub import HubName, download, is_hub_name, parse_hub_name

    if not is_hub_name(source):
        return source
    try:
        from sdedit_ref.checkpoints.hub import needed_files
    except ImportError as error:
        raise_interrupt(error)
        raise needs(error) from None
    name = parse_hub_name(source)
    return download(name, lambda files: needed_files(str(HubName(name.model)), files))


def is_bundle(source: Path) -> bool:
    """Whether the folder holds a bundle's manifest."""
    from sdedit.runtime.bundle import MANIFEST

    try:
        return (source / MANIFEST).exists()
    except OSError:  # a name that is too long: reading it as a checkpoint names it
        return False


def show(source: Path, answers: dict[str, str | None]) -> None:
    """Print what the checkpoint was recognised as, one fact a line."""
    for name, value in load(source, answers).facts().items():
        click.echo(printable(f"{name}: {value}"))


def load(source: Path, answers: dict[str, str | None]) -> Any:
    """The checkpoint; raises CheckpointError."""
    try:
        from sdedit_ref.checkpoints import load_checkpoint
    except ImportError as error:
        raise_interrupt(error)
        raise needs(error) from None
    return load_checkpoint(source, **answers)


def report(out: Path, bundle: "Bundle") -> None:
    """Print the bundle's size and its errors against torch."""
    parity = bundle.manifest.parity
    size_mb = sum(entry.bytes for entry in bundle.manifest.files.values()) / 1e6
    click.echo(
        f"{shown(out)}: {bundle.name}, {size_mb:.1f} MB, "
        f"error against torch {parity.max_relative_error:.1e}, "
        f"rounding of weights to {parity.weights} {parity.weights_rounding:.1e}"
    )
    for name, errors in parity.engines.items():
        found = ", ".join(f"{error:.1e} at {k}" for k, error in zip(parity.levels, errors, strict=True))
        click.echo(f"  {name}: {found}")
    for size, largest in parity.sizes.items():
        click.echo(f"  at {size}: {', '.join(f'{name} {error:.1e}' for name, error in largest.items())}")
