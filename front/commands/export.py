"""sdedit export: a checkpoint becomes a bundle, and a bundle gets what some targets need besides."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import SdeditError, printable
from .options import Decorator, together

if TYPE_CHECKING:
    from sdedit.runtime import Bundle

Addition = Callable[[Path, Path], str]
"""Copies the bundle at the first path to the second with something added, and says what."""

ANSWERS: tuple[Decorator, ...] = (
    click.option("--prediction", help="What the network predicts: eps, v, x0."),
    click.option(
        "--schedule", help="Its noise: linear, scaled_linear, cosine; ve, ve-discrete, vp, vp-discrete, subvp."
    ),
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

ADDITIONS: tuple[Decorator, ...] = (
    click.option("--cubins", help="Add GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120."),
    click.option("--tensorrt", help="Add TensorRT engines: all, or some of sm75,sm80,sm86,sm89,sm120,sm121."),
    click.option("--engine-precision", help="Of those engines: float32, float16.  [default: one of each]"),
    click.option("--engine-batch", default=1, show_default=True, help="Images at once that they can take."),
    click.option("--int8", is_flag=True, help="Add the network in int8, where edits stay close to float32."),
    click.option("--min-psnr", type=float, help="dB that edits in int8 must reach against float32.  [default: 30]"),
)
"""What a bundle may have besides; these may be added to one that exists."""

ADDED = ("cubins", "tensorrt", "engine_precision", "engine_batch", "int8", "min_psnr")

EXAMPLE = "Example: sdedit export church.ckpt --prediction eps --schedule linear --size 256 --out church"


@click.command(epilog=EXAMPLE)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dry-run", is_flag=True, help="Only say what SOURCE is recognised as.")
@click.option("--name", help="Of the model.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Of the weights, kept in the bundle.")
@click.option("--weights", default="half", show_default=True, help="How weights are stored: half, float32.")
@click.option("--card", type=click.Path(path_type=Path), help="Text about the model, kept as MODEL_CARD.md.")
@together(ANSWERS, ADDITIONS)
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
    **options: Any,
) -> None:
    """Turn the checkpoint SOURCE into a bundle, verified against torch before anything is replaced.

    What SOURCE does not tell is asked for, all at once. SOURCE may be a bundle, to add GPU kernels, TensorRT engines or
    the network in int8 to it.
    """
    added = {key: options.pop(key) for key in ADDED}
    if dry_run:
        show(source, options)
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    given = {p for p in context.params if context.get_parameter_source(p) is ParameterSource.COMMANDLINE}
    additions = parse_additions(given, **added)
    if is_bundle(source):
        if not additions or not given <= {"source", "out", *ADDED}:
            raise click.UsageError(f"{source} is a bundle: to it only --cubins, --tensorrt and --int8 can be added")
        add_all(source, out, additions)
        return
    try:
        from sdedit.export.bundle import export_bundle
    except ImportError as error:
        raise needs(error) from None
    checkpoint = load(source, options)
    with TemporaryDirectory() as folder:
        first = Path(folder) / "exported" if additions else out  # nothing is at `out` until all of it has passed
        name = name or out.resolve().name
        report(out, export_bundle(checkpoint, first, name=name, licence=licence, weights=weights, card=card))
        if additions:
            add_all(first, out, additions)


def parse_additions(
    given: set[str],
    cubins: str | None,
    tensorrt: str | None,
    engine_precision: str | None,
    engine_batch: int,
    int8: bool,
    min_psnr: float | None,
) -> list[Addition]:
    """What is to be added, in order; what is asked for is checked before anything is computed."""
    if tensorrt is None and given & {"engine_precision", "engine_batch"}:
        raise click.UsageError("--engine-precision and --engine-batch go with --tensorrt")
    if min_psnr is not None and not int8:
        raise click.UsageError("--min-psnr goes with --int8")
    additions = []
    if int8:
        additions.append(int8_addition(min_psnr))
    if cubins is not None:
        additions.append(kernels_addition(cubins))
    if tensorrt is not None:
        additions.append(engines_addition(tensorrt, engine_precision, engine_batch))
    return additions


def add_all(source: Path, out: Path, additions: list[Addition]) -> None:
    """Each to what the one before made; only the last writes to `out`."""
    with TemporaryDirectory() as folder:
        for index, add in enumerate(additions):
            last = index + 1 == len(additions)
            target = out if last else Path(folder) / str(index)
            click.echo(f"{click.format_filename(out)}: {add(source, target)}")
            source = target


def kernels_addition(cubins: str) -> Addition:
    from sdedit.export.kernels import add_kernels, parse_targets

    targets = parse_targets(cubins)

    def add(source: Path, out: Path) -> str:
        return f"{add_kernels(source, out, targets).name}, kernels as {', '.join(('PTX', *targets))}"

    return add


def engines_addition(tensorrt: str, engine_precision: str | None, batch: int) -> Addition:
    from sdedit.export.tensorrt import PRECISIONS, add_engines, check_request, parse_architectures
    from sdedit.runtime.bundle.engines import FOLDER, read_engines

    architectures = parse_architectures(tensorrt)
    precisions = PRECISIONS if engine_precision is None else tuple(p.strip() for p in engine_precision.split(","))
    check_request(precisions, batch)

    def add(source: Path, out: Path) -> str:
        bundle = add_engines(source, out, architectures, precisions, batch)
        lines = []
        for entry in read_engines(bundle):
            size = bundle.manifest["files"][f"{FOLDER}/{entry['file']}"]["bytes"] / 1e6
            lines.append(
                f"TensorRT-RTX {entry['version']} engine, {entry['precision']}, {size:.1f} MB, "
                f"for {', '.join(entry['architectures'])}; error of its network against torch {entry['error']:.1e}"
            )
        return "\n  ".join(lines)

    return add


def int8_addition(min_psnr: float | None) -> Addition:
    try:
        from sdedit.export.int8 import MIN_PSNR, PROMISED_T0, add_int8
    except ImportError as error:
        raise needs(error) from None
    wanted = MIN_PSNR if min_psnr is None else min_psnr

    def add(source: Path, out: Path) -> str:
        found = add_int8(source, out, min_psnr=wanted, say=lambda line: click.echo(line, err=True))
        psnr = found.psnr[f"{PROMISED_T0:g}"]
        return (
            f"int8, {len(found.left)} of {found.convolutions} convolutions left in float, edits from "
            f"t0 = {PROMISED_T0:g} within {psnr['worst']:.1f} dB of float32 (mean {psnr['mean']:.1f})"
        )

    return add


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
        from sdedit_ref.checkpoints import load_checkpoint
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
