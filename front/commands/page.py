"""sdedit page: the page to paint on as files, which need no server of ours."""

import os
from pathlib import Path

import click

from .options import BUNDLE
from .outputs import shown

PACKAGE = Path("node_modules", "onnxruntime-web")
"""Where npm puts onnxruntime-web."""


@click.command(epilog="Example: sdedit page --out site; python -m http.server --bind 127.0.0.1 --directory site")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@BUNDLE
@click.option(
    "--onnxruntime-web",
    "package",
    type=click.Path(path_type=Path),
    help="Folder of the npm package onnxruntime-web, which evaluates the network.  "
    "[default: node_modules/onnxruntime-web, here or in NODE_PATH]",
)
def page_command(out: Path, bundle: Path | None, package: Path | None) -> None:
    """Write the page to paint on as static files, with the model inside: browsers make the edits themselves.

    Put the folder on any static host. Nobody's pictures leave their browser. A folder that this command wrote before is
    replaced; others are not.
    """
    from sdedit.runtime.bundle import SHIPPED, read_bundle
    from sdedit.serve.static_page import find_runtime, write_page

    runtime = find_runtime(installed_package() if package is None else package)
    size = write_page(read_bundle(SHIPPED if bundle is None else bundle), runtime, out)
    click.echo(f"{shown(out)}: {size / 1e6:.1f} MB")
    click.echo(f"Try it: python -m http.server --bind 127.0.0.1 --directory {shown(out)}")


def installed_package() -> Path:
    """The folder of onnxruntime-web among the packages that npm put here, or that NODE_PATH names."""
    named = [Path(folder) / PACKAGE.name for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    return next((folder for folder in (PACKAGE, *named) if folder.is_dir()), PACKAGE)
