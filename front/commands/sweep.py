"""sdedit edit --sweep: the edits of one guide with several values of an option, on a sheet."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import to_json
from ..errors import ImageError, PlanError, printable, shown
from .outputs import STREAM, check_count, is_folder, make_folder, number, progress
from .outputs import shown as shown_path

if TYPE_CHECKING:
    from sdedit.runtime import Edit, Editor

SWEPT = ("t0", "steps", "sampler")
"""Options of which a sheet takes several values."""

MOST_VALUES = 50


def parse_sweep(text: str) -> tuple[str, list[Any]]:
    """ "t0=0.2:0.8:7" (first, last, number), "steps=4,8" or "sampler=ddim,euler": the option and its values.

    The values are Settings' to check. Raises PlanError.
    """
    name, _, values = text.partition("=")
    if name not in SWEPT or not values:
        accepted = "t0=FIRST:LAST:NUMBER or VALUE,VALUE,... of t0, steps, sampler"
        raise PlanError(f"sweep {shown(text)} is not {accepted}")
    try:
        found: list[Any]
        if name == "sampler":
            found = [part.strip() for part in values.split(",")]
        else:
            numbers = spaced(*values.split(":")) if ":" in values else [float(part) for part in values.split(",")]
            found = [round(value) if name == "steps" else round(value, 6) for value in numbers]
    except (TypeError, ValueError, OverflowError):
        raise PlanError(f"sweep {shown(text)}: {shown(values)} is not FIRST:LAST:NUMBER or VALUE,VALUE,...") from None
    if len(found) > MOST_VALUES:
        raise PlanError(f"sweep {shown(text)} has {len(found)} values: at most {MOST_VALUES} fit on a sheet")
    return name, list(dict.fromkeys(found))


def spaced(first: str, last: str, number: str) -> list[float]:
    """`number` values from first to last. Raises ValueError."""
    count, low, high = int(number), float(first), float(last)
    if not 2 <= count <= MOST_VALUES:
        raise PlanError(f"sweep from {first} to {last}: its number {shown(count)} is not in 2..{MOST_VALUES}")
    return [low + (high - low) * index / (count - 1) for index in range(count)]


def make_sweep(
    editor: "Editor", guide: Path, out: Path, sweep: tuple[str, list[Any]], options: dict[str, Any], as_json: bool
) -> None:
    """Edit with each value, write the images into the folder OUT without its suffix, and the sheet to OUT.

    options: those of Editor.edit. Raises ImageError, PlanError, EngineError; images that were made until then stay.
    """
    from sdedit.runtime.images import check_output, save_image

    name, values = sweep
    inputs = [path for path in (guide, options["mask"], options["base"]) if path is not None]
    settings = {key: value for key, value in options.items() if key not in ("mask", "base")}
    for value in values:  # a mistake in any is found before the first edit
        chosen = editor.settings(**{**settings, name: value})
        chosen.plan(editor.bundle.schedule, editor.bundle.prediction, "guidance" in editor.bundle.manifest.inputs)
    check_count(len(values) * chosen.images)
    check_output(out, inputs)
    folder = out.with_suffix("")
    files = {value: number(folder / f"{name}-{value}.png", chosen.images) for value in values}
    make_folder(folder)
    for target in [target for targets in files.values() for target in targets]:
        check_output(target, inputs)
    edits: dict[Any, Edit] = {}
    for value, targets in files.items():
        with progress(f"{name} {value}") as on_step:
            edits[value] = editor.edit(guide, on_step=on_step, **{**options, name: value})
        for image, target in zip(edits[value].images, targets, strict=True):
            image.save(target)
    save_image(sheet_of(guide, chosen.fit, name, edits), out, {})
    if as_json:
        made = [{"out": list(map(str, files[v])), "recipe": e.recipe, "timings": e.timings} for v, e in edits.items()]
        click.echo(to_json({"sheet": str(out), "edits": made}))
    else:
        count = sum(map(len, files.values()))
        click.echo(f"{shown_path(out)}: {count} edits by {name}; images with recipes: {shown_path(folder)}")


def sheet_of(guide: Path, fit: str, name: str, edits: "dict[Any, Edit]") -> Any:
    """The PIL image: a column a value and a row an image, each with its L2 to the guide; the guide stands first."""
    from sdedit.evaluation.pairs import l2_each
    from sdedit.evaluation.sheet import Cell, draw_sheet
    from sdedit.runtime.codec import to_state
    from sdedit.runtime.images import open_picture, whole_canvas

    first = next(iter(edits.values()))
    example = first.images[0].pil
    photo = open_picture(guide, "guide", len(example.getbands()), keep_alpha=True).image
    photo = whole_canvas(photo, example.size, fit).photo
    rows: list[list[Cell | None]] = []
    for index in range(len(first.images)):
        row: list[Cell | None] = [Cell(photo) if index == 0 else None]
        for edit in edits.values():
            picture = edit.images[index].pil
            distance = l2_each(to_state(picture)[None], to_state(photo)[None])[0]
            row.append(Cell(picture, f"L2 {distance:.1f}"))
        rows.append(row)
    columns = ["guide", *(value if name == "sampler" else f"{name} {value:g}" for value in edits)]
    recipe = first.recipe
    fixed = [("t0", f"t0 {recipe['t0']:g}"), ("steps", f"{recipe['steps']} steps"), ("sampler", str(recipe["sampler"]))]
    words = [
        printable(recipe["bundle"]["name"]),
        f"seed {recipe['seed']}",
        *(text for key, text in fixed if key != name),
    ]
    return draw_sheet(", ".join(words), columns, [f"image {index}" for index in range(len(rows))], rows)


def check_sweep(guide: Path, out: Path) -> None:
    """Raise ImageError unless guide and sheet are files."""
    if is_folder(guide) or STREAM in (guide, out):
        raise ImageError(f"--sweep takes a file as GUIDE and as --out, not {shown_path(guide)} and {shown_path(out)}")
    if not out.suffix or not out.stem:
        raise ImageError(f"output {out} has no suffix: name a PNG, WebP or JPEG for the sheet")
