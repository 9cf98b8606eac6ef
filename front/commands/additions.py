"""The parts that `sdedit extend` and `sdedit export` add to a bundle."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import Number
from ..errors import install_hint, raise_interrupt
from .options import Decorator, option

if TYPE_CHECKING:
    from sdedit.export.additions import Addition

GROUP = "Parts to add"

ADDITIONS: tuple[Decorator, ...] = (
    option(GROUP, "--cubins", help="GPU kernels: all, ptx (no cubins), or some of sm80,sm86,sm89,sm90,sm100,sm120."),
    option(GROUP, "--tensorrt", help="TensorRT engines: all, or some of sm75,sm80,sm86,sm89,sm120,sm121."),
    option(
        GROUP,
        "--engine-precision",
        help="Precision of those engines: some of float32,float16,int8.  [default: float32,float16]",
    ),
    option(GROUP, "--engine-batch", type=int, help="Images at once that those engines can take.  [default: 1]"),
    option(GROUP, "--int8", is_flag=True, help="The network in int8, if its edits stay close to float32."),
    option(GROUP, "--graph", is_flag=True, help="The whole edit as one ONNX graph, for hosts without Python."),
    option(GROUP, "--box", is_flag=True, help="Graphs that recompute only a box of the picture: Editor.session."),
    option(
        GROUP,
        "--palette",
        type=click.Path(path_type=Path),
        help='Colours to paint with: a JSON file like [{"name": "Ocean", "colour": "#0e285c"}].',
    ),
    option(
        GROUP,
        "--min-psnr",
        type=Number(min=0),
        help="Least PSNR of int8's edits against float32, in dB.  [default: 30]",
    ),
)
"""The options of both commands."""


def parse_additions(
    cubins: str | None,
    tensorrt: str | None,
    engine_precision: str | None,
    engine_batch: int | None,
    int8: bool,
    box: bool,
    min_psnr: float | None,
    palette: Path | None,
    graph: bool,
) -> "list[Addition]":
    """The parts, in the order in which they are added; every mistake is found before anything is computed."""
    if tensorrt is None and (engine_precision is not None or engine_batch is not None):
        raise click.UsageError("--engine-precision and --engine-batch go with --tensorrt")
    if min_psnr is not None and not int8:
        raise click.UsageError("--min-psnr goes with --int8")
    additions = []
    if palette is not None:
        from sdedit.export.palette import palette_addition

        additions.append(palette_addition(palette))
    if int8:
        additions.append(int8_addition(min_psnr))
    if graph:
        additions.append(graph_addition())
    if cubins is not None:
        from sdedit.export.triton_kernels import kernels_addition, parse_targets

        additions.append(kernels_addition(parse_targets(cubins)))
    if tensorrt is not None:
        additions.append(engines_addition(tensorrt, engine_precision, 1 if engine_batch is None else engine_batch))
    if box:
        from sdedit.export.box.addition import box_addition

        additions.append(box_addition())
    return additions


PARTS = tuple(inspect.signature(parse_additions).parameters)
"""Names of the options in ADDITIONS."""


def engines_addition(tensorrt: str, precisions: str | None, batch: int) -> "Addition":
    from sdedit.export.tensorrt import PRECISIONS, engines_addition, parse_architectures

    names = PRECISIONS if precisions is None else tuple(name.strip() for name in precisions.split(","))
    return engines_addition(parse_architectures(tensorrt), names, batch)


def int8_addition(min_psnr: float | None) -> "Addition":
    try:
        from sdedit.export.int8 import MIN_PSNR, int8_addition
    except ImportError as error:
        raise_interrupt(error)
        raise needs(error) from None
    return int8_addition(MIN_PSNR if min_psnr is None else min_psnr, say=lambda line: click.echo(line, err=True))


def graph_addition() -> "Addition":
    try:
        from sdedit.export.graph.addition import graph_addition
    except ImportError as error:
        raise_interrupt(error)
        raise needs(error) from None
    return graph_addition()


def needs(error: ImportError) -> click.ClickException:
    """The error for a package of the extra `export` that is missing."""
    return click.ClickException(f"export needs the package {error.name}: {install_hint('export')}")
