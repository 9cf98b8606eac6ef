"""sdedit inspect: what a bundle or an image is."""

from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import to_json
from ..errors import printable

if TYPE_CHECKING:
    from sdedit.runtime import Bundle


@click.command(epilog="Example: sdedit inspect church; sdedit inspect result.png --json")
@click.argument("source", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest, or the recipe, as JSON.")
def inspect_command(source: Path | None, as_json: bool) -> None:
    """Show what the bundle SOURCE is, verified (default: the shipped one), or what recipe the image SOURCE carries."""
    from sdedit.runtime.bundle import SHIPPED, read_bundle
    from sdedit.runtime.bundle.palette import read_palette
    from sdedit.runtime.recipe import read_recipe

    if source is not None and source.is_file():
        recipe = read_recipe(source)
        click.echo(to_json(recipe, sort_keys=True) if as_json else "\n".join(lines(recipe)))
        return
    bundle = read_bundle(SHIPPED if source is None else source, verify_all=True)
    palette = read_palette(bundle)
    if as_json:
        click.echo(to_json({**bundle.manifest.to_json(), "sha256": bundle.sha256}, sort_keys=True))
        return
    click.echo(
        "\n".join(
            [
                *lines({"path": bundle.path, "sha256": bundle.sha256, **bundle.manifest.to_json()}),
                *accepted(),
                *(printable(f"palette: {name} {colour}") for name, colour in map(astuple, palette)),
                *card(bundle),
            ]
        )
    )


def lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """One line a value, names of nested ones joined by dots."""
    out = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            out += lines(value, f"{prefix}{name}.")
        else:
            out.append(printable(f"{prefix}{name}: {value}"))
    return out


def accepted() -> list[str]:
    from sdedit.runtime.plan import KEEPS, SAMPLERS

    return [f"samplers: {', '.join(SAMPLERS)}", f"keep: {', '.join(KEEPS)}"]


def card(bundle: "Bundle") -> list[str]:
    """Where the text about the model is, if the bundle has one."""
    from sdedit.runtime.bundle import MODEL_CARD

    return [printable(f"card: {bundle.path / MODEL_CARD}")] if MODEL_CARD in bundle.manifest.files else []
