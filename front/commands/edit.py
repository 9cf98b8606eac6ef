"""sdedit edit: turn a guide, or each guide of a folder, into an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..console import to_json
from ..errors import ImageError, SdeditError, printable
from .options import BUNDLE, GroupedCommand, engine_options, setting_options, together
from .outputs import STREAM, Outputs, describe, is_folder, make_folder, plan_outputs, progress, shown, stdin

if TYPE_CHECKING:
    from sdedit.runtime import Edit, EditedImage, Editor

EXAMPLES = """\b
Examples:
  sdedit edit strokes.png --out result.png --t0 0.5 --seed 3
  sdedit edit painted.png --mask mask.png --out result.png
  sdedit edit painted.png --base photo.jpg --out result.png
  sdedit edit strokes.png --out sheet.png --sweep t0=0.2:0.8:7 --images 3
  sdedit edit guides/ --out results/ --images 4
  cat strokes.png | sdedit edit - --out - > result.png
"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@click.argument("guide", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="PNG, WebP or JPEG to write, by its suffix; a folder if GUIDE is one; - for a PNG on stdout.",
)
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="Image of GUIDE's size. White may change, black stays byte for byte, grey changes below that share of t0.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="Instead of --mask: the photo that GUIDE was painted over. What was painted may change.",
)
@click.option(
    "--sweep",
    metavar="OPTION=VALUES",
    help="Edit with several values and draw a sheet into OUT: t0=FIRST:LAST:NUMBER, or values of t0, steps or sampler "
    "with commas between them. The images go into a folder with OUT's name.",
)
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Print files, recipes and timings as JSON.")
@together(setting_options(), engine_options())
def edit_command(
    guide: Path,
    out: Path,
    mask: Path | None,
    base: Path | None,
    sweep: str | None,
    as_json: bool,
    bundle: Path | None,
    **options: Any,
) -> None:
    """Turn GUIDE (strokes, strokes over a photo, a pasted composite; - for stdin) into an image.

    Without a mask the result has the model's size. With one it is GUIDE with the masked part made anew. The file
    carries its recipe. With --images N the files are OUT-0.png, OUT-1.png, ...

    If GUIDE is a folder, all its images are edited, to PNGs. Failures are listed at the end.
    """
    if is_folder(guide) and (mask is not None or base is not None):
        raise click.UsageError("--mask and --base go with one guide, not with a folder")
    if as_json and out == STREAM:
        raise click.UsageError("--json and --out - both write to stdout: name an output")

    from sdedit.runtime import Editor
    from sdedit.runtime.settings import OPTIONS, Settings

    settings = given({name: options.pop(name) for name in OPTIONS})
    if sweep is not None:
        sweep_guide(guide, out, sweep, {"mask": mask, "base": base, **settings}, as_json, bundle, options)
        return
    images = Settings(**settings).images  # a mistake in any of them is found before files are named
    outputs = plan_outputs(guide, out, images, [path for path in (mask, base) if path is not None])
    with Editor.open(bundle, **options) as editor:
        failed = edit_all(editor, outputs, {"mask": mask, "base": base, **settings}, is_folder(guide), as_json)
    if outputs.left_out:
        click.echo(f"sdedit: {printable(describe(outputs.left_out).removeprefix('; '))}", err=True)
    if failed:
        raise SdeditError(f"{len(failed)} of {len(outputs.files)} guides were not edited: {'; '.join(failed)}")


def sweep_guide(
    guide: Path, out: Path, text: str, settings: dict[str, Any], as_json: bool, bundle: Path | None, engine: Any
) -> None:
    """Edit with each value that --sweep names. engine: options of Editor.open."""
    from sdedit.runtime import Editor

    from .sweep import check_sweep, make_sweep, parse_sweep

    sweep = parse_sweep(text)
    if sweep[0] in settings:
        raise click.UsageError(f"--{sweep[0]} and --sweep {sweep[0]} exclude each other")
    check_sweep(guide, out)
    with Editor.open(bundle, **engine) as editor:
        make_sweep(editor, guide, out, sweep, settings, as_json)


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user gave: the others have the defaults that the model suggests."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def edit_all(editor: "Editor", outputs: Outputs, options: dict[str, Any], folder: bool, as_json: bool) -> list[str]:
    """Edit guide after guide, write the files and report them; returns the errors of guides of a folder."""
    written, failed = [], []
    for count, (guide, targets) in enumerate(outputs.files.items(), 1):
        try:
            with progress(f"{guide.name} ({count} of {len(outputs.files)})" if folder else guide.name) as on_step:
                result = editor.edit(stdin() if guide == STREAM else guide, on_step=on_step, **options)
            if folder:
                make_folder(targets[0].parent)
            for image, target in zip(result.images, targets, strict=True):
                save(image, target)
        except ImageError as error:
            if not folder:
                raise
            failed.append(str(error))
            continue
        written.append(as_dict(targets, result))
        if not as_json:
            report(targets, result)
    if as_json:
        click.echo(to_json(written))
    return failed


def save(image: "EditedImage", target: Path) -> None:
    """Write the image to a file, or as a PNG to stdout."""
    if target == STREAM:
        click.echo(image.to_bytes(), nl=False)
    else:
        image.save(target)


def report(targets: list[Path], result: "Edit") -> None:
    """Print a line for each file; on stderr if the image went to stdout."""
    r = result.recipe
    for target, image in zip(targets, result.images, strict=True):
        click.echo(
            f"{shown(target)}: {image.pil.width}x{image.pil.height}, {printable(r['bundle']['name'])}, "
            f"{r['steps']} steps of {r['sampler']} from t0 {r['t0']:g}, seed {r['seed']}, "
            f"{result.timings['loop']:.2f} s",
            err=target == STREAM,
        )


def as_dict(targets: list[Path], result: "Edit") -> dict[str, Any]:
    """The entry of --json for one guide."""
    return {"out": list(map(str, targets)), "recipe": result.recipe, "timings": result.timings}
