"""Convert the field's weights: `python -m sdedit.evaluation.features NAME WEIGHTS... --out FILE.onnx`."""

from pathlib import Path

import click

from sdedit.console import run_command

from .converting import convert


@click.command(epilog="Example: ... inception pt_inception-2015-12-05-6726825d.pth --out inception.onnx")
@click.argument("name")
@click.argument("weights", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--unverified", is_flag=True, help="Take files other than the published ones, by their SHA-256.")
def command(name: str, weights: tuple[Path, ...], out: Path, unverified: bool) -> None:
    """Convert NAME (inception, dinov2, alexnet-lpips, vgg-lpips) from WEIGHTS, as its project publishes them.

    LPIPS takes two files: the trunk of torchvision, and the heads in the package lpips, lpips/weights/v0.1/.
    """
    convert(name, list(weights), out, verify=not unverified)
    click.echo(f"{out}: {name}")


if __name__ == "__main__":
    run_command(command, "features")
