"""Options that are numbers with a fraction: none takes NaN or an infinity that it does not mean."""

import importlib
import math

import click
import pytest
from command_line import Run, assert_mistake

from sdedit.commands import COMMANDS, sdedit
from sdedit.console import Number
from sdedit.errors import SdeditError
from sdedit.runtime.settings import KINDS, OPTIONS, Settings

MODULES = (
    "sdedit.benchmarks.bench",
    "sdedit.evaluation.pareto",
    "sdedit.evaluation.weights",
    "sdedit_ref.training.command",
)
"""Modules whose `command` is a command beside those of `sdedit`."""

SETTINGS = tuple(name for name in OPTIONS if KINDS[name] is float)
"""Options that the runtime checks."""

MEANT = {("clip", "inf")}
"""No clamp at all: see docs/design.md, contract 2."""

NOT_FINITE = ("nan", "inf", "-inf", "1e999")


def float_options() -> list[click.Option]:
    context = click.Context(sdedit)
    commands = [sdedit.get_command(context, name) for name in COMMANDS]
    commands += [importlib.import_module(module).command for module in MODULES]
    return [
        option
        for command in commands
        if command is not None
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.type, click.types.FloatParamType)
    ]


def test_every_float_option_is_refused_what_is_not_finite() -> None:
    pytest.importorskip("torch", reason="sdedit.evaluation.weights needs torch")
    options = [option for option in float_options() if option.name not in SETTINGS]
    assert {"min_psnr", "seconds", "flat", "lr", "ema", "gamma", "save_minutes"} <= {o.name for o in options}
    for option in options:
        assert isinstance(option.type, Number), option.name
        for text in NOT_FINITE:
            with pytest.raises(click.BadParameter, match=r"finite|range"):
                option.type.convert(text, option, None)


@pytest.mark.parametrize("text", NOT_FINITE)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_number_of_an_edit_is_finite(name: str, text: str) -> None:
    value = float(text)
    if (name, str(value)) in MEANT:
        assert getattr(Settings(**{name: value}), name) == math.inf  # type: ignore[arg-type]
        return
    with pytest.raises(SdeditError, match=f"^{name} {value} is not "):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_what_is_not_finite_is_one_line(run: Run) -> None:
    for text in ("nan", "inf"):
        result = run("extend", "bundle", "--int8", "--min-psnr", text)
        assert_mistake(result, f"Invalid value for '--min-psnr': {text} is not a finite number")
