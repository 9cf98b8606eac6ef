"""Options that several commands share. Names are checked by the runtime, which lists what it accepts."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def names_of(module: str, attribute: str) -> Callable[..., list[str]]:
    """Completion from a list of the runtime, imported only when a shell asks."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        accepted = getattr(importlib.import_module(module), attribute)
        return [name for name in accepted if name.startswith(incomplete)]

    return complete


BUNDLE = click.option(
    "--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped one]"
)

ENGINE: tuple[Decorator, ...] = (
    click.option(
        "--engine",
        default="auto",
        show_default=True,
        help="auto, onnxruntime, openvino, tensorrt.",
        shell_complete=names_of("sdedit.runtime.engines", "ENGINE_NAMES"),
    ),
    click.option(
        "--precision",
        default="auto",
        show_default=True,
        help="auto, float32, bfloat16, float16, int8.",
        shell_complete=names_of("sdedit.runtime.engines", "PRECISION_NAMES"),
    ),
    click.option("--threads", type=int, help="Of the engine.  [default: measured by tune, or all processors]"),
    click.option("--slots", default=1, show_default=True, help="Images in flight at once."),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="cpu, cuda.",
        shell_complete=names_of("sdedit.runtime.devices", "DEVICES"),
    ),
)

PLAN: tuple[Decorator, ...] = (
    click.option("--t0", default=0.5, show_default=True, help="In (0, 1]: little is faithful, much is realistic."),
    click.option("--steps", default=25, show_default=True, help="Network evaluations a repeat."),
    click.option(
        "--sampler",
        default="dpmpp_2m",
        show_default=True,
        help="ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, euler, euler_maruyama.",
        shell_complete=names_of("sdedit.runtime.plan", "SAMPLERS"),
    ),
    click.option("--eta", type=float, help="Noise of sampler ddim, in [0, 1].  [default: 0]"),
    click.option(
        "--keep",
        default="fresh",
        show_default=True,
        help="What is kept outside the mask on the way: fresh, fixed, paper, official.",
        shell_complete=names_of("sdedit.runtime.plan", "KEEPS"),
    ),
    click.option("--repeats", default=1, show_default=True, help="The paper's K: start again from the result."),
    click.option(
        "--seed", default=0, show_default=True, help="64 bits; the same seed gives the same noise everywhere."
    ),
    click.option(
        "--images", default=1, show_default=True, help="How many to make of the seed: OUT-0.png, OUT-1.png, ..."
    ),
    click.option("--clip", default=1.0, show_default=True, help="Bound of the network's predictions; inf: none."),
    click.option(
        "--fit",
        default="crop",
        show_default=True,
        help="Without a mask, how the guide is brought to the model's size: crop, pad, stretch.",
        shell_complete=names_of("sdedit.runtime.images.canvas", "FITS"),
    ),
    click.option("--context", default=0.25, show_default=True, help="Seen around the mask, in sizes of the mask."),
    click.option("--label", type=int, help="What to make, of a model with classes.  [default: no class, where it can]"),
    click.option("--guidance", default=1.0, show_default=True, help="How much more like the label than like no class."),
)


class GroupedOption(click.Option):
    """An option that help shows under the heading `group`."""

    def __init__(self, *arguments: Any, group: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help has a section for each group of options."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for name in sorted(groups, key=lambda name: name != "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])


def option(group: str, *names: str, **options: Any) -> Decorator:
    """An option of that group of a GroupedCommand."""
    return click.option(*names, cls=GroupedOption, group=group, **options)


def together(*groups: tuple[Decorator, ...]) -> Decorator:
    """One decorator of several, in the order in which help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate
