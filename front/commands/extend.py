"""sdedit extend: a bundle gets parts that some targets need."""

from pathlib import Path
from typing import Any

import click

from .additions import ADDITIONS, parse_additions
from .options import GroupedCommand, together
from .outputs import shown

EXAMPLE = "Example: sdedit extend church --cubins all --int8"


@click.command(cls=GroupedCommand, epilog=EXAMPLE)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: BUNDLE itself]")
@together(ADDITIONS)
def extend_command(bundle: Path, out: Path | None, **parts: Any) -> None:
    """Add parts to BUNDLE: GPU kernels, TensorRT engines, int8, graphs of boxes or of the whole edit, a palette.

    They replace older ones. The result is verified before anything is replaced. Files that do not change are linked,
    not copied.
    """
    additions = parse_additions(**parts)
    if not additions:
        raise click.UsageError("nothing to add: give --cubins, --tensorrt, --int8, --graph, --box or --palette")
    from sdedit.runtime.bundle import refuse_installed

    out = bundle if out is None else out
    refuse_installed(out)  # before slow packages are imported
    from sdedit.export.additions import extend_bundle

    extend_bundle(bundle, out, additions, lambda line: click.echo(f"{shown(out)}: {line}"))
