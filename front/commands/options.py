"""Options that several commands share, and how help shows options in groups.

Names are checked by the runtime. Help and completion take them from the runtime's own lists.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from sdedit.runtime.option import Option

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

BUNDLE = click.option(
    "--bundle", type=click.Path(path_type=Path), help="Folder of the model.  [default: the shipped model]"
)


class Name(click.ParamType):
    """A text. Shells complete it to one of `accepted`; the runtime refuses others with a line that lists them."""

    name = "text"

    def __init__(self, accepted: tuple[str, ...]) -> None:
        self.accepted = accepted

    def shell_complete(self, context: click.Context, parameter: click.Parameter, text: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.accepted if name.startswith(text)]


class NumberOrRandom(click.ParamType):
    """An integer, or "random", which shells complete."""

    name = "integer"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return value if value == "random" else int(value)
        except ValueError:
            self.fail(f"{value!r} is not an integer or random", parameter, context)

    def shell_complete(self, context: click.Context, parameter: click.Parameter, text: str) -> list[CompletionItem]:
        return Name(("random",)).shell_complete(context, parameter, text)


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
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for name in sorted(groups, key=lambda name: name != "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])


def option(group: str, *names: str, **options: Any) -> Decorator:
    """An option of that group of a GroupedCommand."""
    return click.option(*names, cls=GroupedOption, group=group, **options)


def setting_options() -> tuple[Decorator, ...]:
    """An option for each field of Settings, as Settings declares it."""
    from sdedit.runtime.settings import KINDS, OPTIONS, Settings

    return tuple(
        setting_option(name, declared, KINDS[name], getattr(Settings, name)) for name, declared in OPTIONS.items()
    )


def setting_option(name: str, declared: "Option", kind: type, default: Any) -> Decorator:
    word = NumberOrRandom() if declared.drawn else kind
    return option(
        "What the edit does",
        f"--{name.replace('_', '-')}",
        type=Name(declared.choices) if declared.choices else word,
        default=default,
        show_default=default is not None,
        help=f"{declared.sentence}  [default: {declared.unset}]" if declared.unset else declared.sentence,
    )


def engine_options(slots: int = 1, several_gpus: bool = False) -> tuple[Decorator, ...]:
    """The options of the engine and device that evaluate the network, with the names that this version has.

    slots: the default number. several_gpus: whether --device takes more than one name.
    """
    from sdedit.runtime.devices import DEVICES
    from sdedit.runtime.engines import ENGINE_NAMES, PRECISION_NAMES

    group = "What runs it"

    def names(what: str, flag: str, accepted: tuple[str, ...], more: str = "") -> Decorator:
        text = f"{what}: {', '.join(accepted)}{more}."
        return option(group, flag, type=Name(accepted), default=accepted[0], show_default=True, help=text)

    return (
        names("Engine that evaluates the network", "--engine", ("auto", *ENGINE_NAMES)),
        names("Precision of the network", "--precision", ("auto", *PRECISION_NAMES)),
        option(
            group,
            "--threads",
            type=int,
            help="Number of CPU threads of the engine.  [default: measured by tune, or all processors]",
        ),
        option(group, "--slots", default=slots, show_default=True, help="Images that are edited at the same time."),
        names(
            "Device", "--device", DEVICES, ", several GPUs as cuda:0,cuda:1, all GPUs as all" if several_gpus else ""
        ),
    )


def together(*groups: tuple[Decorator, ...]) -> Decorator:
    """One decorator of several, in the order in which help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed([decorator for group in groups for decorator in group]):
            command = decorator(command)
        return command

    return decorate
