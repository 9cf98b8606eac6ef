"""sdedit edit: a guide becomes an image, or each guide of a folder."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError, SdeditError
from .options import BUNDLE, ENGINE, PLAN, together

if TYPE_CHECKING:
    from sdedit.runtime import Edit
    from sdedit.runtime.editor import DeviceName, EngineName, PrecisionName

EXAMPLES = """\b
Examples:
  sdedit edit strokes.png --out result.png --t0 0.5 --seed 3
  sdedit edit painted.png --mask mask.png --out result.png
  sdedit edit painted.png --base photo.jpg --out result.png
  sdedit edit guides/ --out results/ --images 4
"""


@click.command(epilog=EXAMPLES)
@click.argument("guide", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="PNG to write, or folder for a folder.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="White may change, black stays byte for byte, grey is edited from that fraction of t0 on.",
)
@click.option(
    "--base", type=click.Path(path_type=Path), help="Instead of a mask: the photo that GUIDE was painted over."
)
@together(PLAN, (BUNDLE,), ENGINE)
@click.option("--json", "as_json", is_flag=True, help="What was written, with recipes and timings.")
def command(
    guide: Path,
    out: Path,
    mask: Path | None,
    base: Path | None,
    bundle: Path | None,
    engine: "EngineName",
    precision: "PrecisionName",
    threads: int | None,
    slots: int,
    device: "DeviceName",
    as_json: bool,
    **options: Any,
) -> None:
    """Turn GUIDE (strokes, strokes over a photo, a pasted composite) into an image.

    Without a mask the result has the model's size; with one, it is GUIDE with the masked part made anew. The PNG
    carries its recipe. Of a folder, every image is edited; those that cannot be are named at the end.
    """
    folder = guide.is_dir()
    if folder and (mask is not None or base is not None):
        raise click.UsageError("--mask and --base go with one guide, not with a folder")
    jobs = plan_outputs(guide, out, options["images"], [path for path in (mask, base) if path is not None])

    from sdedit.runtime import Editor

    written, failed = [], []
    with Editor.open(bundle, engine=engine, precision=precision, threads=threads, slots=slots, device=device) as editor:
        for number, (source, targets) in enumerate(jobs.items(), 1):
            title = f"{source.name} ({number} of {len(jobs)})" if folder else source.name
            try:
                with progress(title) as on_step:
                    result = editor.edit(source, mask, base=base, on_step=on_step, **options)
                if folder:
                    make_folder(out)
                for image, target in zip(result.images, targets, strict=True):
                    image.save(target)
            except ImageError as error:
                if not folder:
                    raise
                failed.append(str(error))
                continue
            written.append((targets, result))
            if not as_json:
                report(targets, result)
    if as_json:
        click.echo(json.dumps([as_dict(targets, result) for targets, result in written], indent=2))
    if failed:
        raise SdeditError(f"{len(failed)} of {len(jobs)} guides were not edited: {'; '.join(failed)}")


def plan_outputs(guide: Path, out: Path, images: int, inputs: list[Path]) -> dict[Path, list[Path]]:
    """Which guide goes to which files, before anything is computed; raises ImageError where one cannot be written."""
    from sdedit.runtime.images import SUFFIXES, check_output

    if not guide.is_dir():
        targets = numbered(out, images)
        for target in targets:
            check_output(target, [guide, *inputs])
        return {guide: targets}
    guides = sorted(path for path in guide.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not guides:
        raise ImageError(f"folder {guide} has no images; looked for {', '.join(SUFFIXES)}")
    if out.exists() and not out.is_dir():
        raise ImageError(f"output {out} is no folder, but {guide} is")
    if not out.parent.is_dir():
        raise ImageError(f"output {out} cannot be made: there is no folder {out.parent}")
    jobs = {source: numbered(out / f"{source.stem}.png", images) for source in guides}
    inputs_there = {source.resolve() for source in guides}
    owners: dict[Path, Path] = {}
    for source, targets in jobs.items():
        for target in targets:
            if target.resolve() in inputs_there:
                raise ImageError(f"output {target} would overwrite an input: choose another folder")
            if owners.setdefault(target, source) != source:
                raise ImageError(
                    f"output {target} would be both {owners[target].name}'s and {source.name}'s: rename one"
                )
    return jobs


def numbered(out: Path, images: int) -> list[Path]:
    """OUT, or OUT-0, OUT-1, ... of several."""
    if images <= 1:
        return [out]
    width = len(str(images - 1))
    return [out.with_name(f"{out.stem}-{index:0{width}}{out.suffix}") for index in range(images)]


def make_folder(folder: Path) -> None:
    from ..errors import reason

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ImageError(f"output {folder} cannot be made: {reason(error)}") from None


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=title, file=sys.stderr) as bar:

        def on_step(step: int, steps: int) -> None:
            bar.length = steps
            bar.update(step - bar.pos)

        yield on_step


def report(targets: list[Path], result: "Edit") -> None:
    r = result.recipe
    for target, image in zip(targets, result.images, strict=True):
        click.echo(
            f"{click.format_filename(target)}: {image.pil.width}x{image.pil.height}, {r['bundle']['name']}, "
            f"{r['steps']} steps of {r['sampler']} from t0 {r['t0']:g}, seed {r['seed']}, "
            f"{result.timings['loop']:.2f} s"
        )


def as_dict(targets: list[Path], result: "Edit") -> dict[str, Any]:
    return {"out": list(map(str, targets)), "recipe": result.recipe, "timings": result.timings}
