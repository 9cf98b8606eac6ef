"""Options are declared once: Settings, EditOptions, the command line, its help and completion, docs and JSON schema."""

import dataclasses
import itertools
import json
import math
import re
import typing
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdedit.commands import COMMANDS, sdedit
from sdedit.commands.options import NumberOrRandom
from sdedit.errors import ImageError, PlanError, SdeditError
from sdedit.reference import table, with_tables
from sdedit.runtime.devices import DEVICES
from sdedit.runtime.engines.names import ENGINES
from sdedit.runtime.images.canvas import FITS
from sdedit.runtime.images.masks import MASKS_FROM
from sdedit.runtime.plan import KEEPS, SAMPLERS
from sdedit.runtime.settings import KINDS, OPTIONS, EditOptions, Settings

ROOT = Path(__file__).parent.parent

REGISTRIES: dict[str, set[str]] = {
    "sampler": set(SAMPLERS),
    "keep": set(KEEPS),
    "fit": set(FITS),
    "mask_from": set(MASKS_FROM),
    "engine": {"auto", *itertools.chain.from_iterable(ENGINES.values())},
    "precision": {"auto", *(name for engines in ENGINES.values() for names in engines.values() for name in names)},
    "device": set(DEVICES),
}
"""The names that the code accepts, by option."""


def command(name: str) -> click.Command:
    found = sdedit.get_command(click.Context(sdedit), name)
    assert found is not None
    return found


# One source


def test_the_keyword_arguments_of_an_edit_are_the_settings() -> None:
    assert typing.get_type_hints(EditOptions) == typing.get_type_hints(Settings)
    assert list(EditOptions.__annotations__) == [field.name for field in dataclasses.fields(Settings)] == list(OPTIONS)


def test_the_command_line_has_every_option_with_its_type_and_default() -> None:
    by_name = {parameter.name: parameter for parameter in command("edit").params}
    for name in OPTIONS:
        context = click.Context(command("edit"))
        assert by_name[name].get_default(context) == getattr(Settings, name)
        expected = NumberOrRandom if OPTIONS[name].drawn else {int: click.INT, float: click.FLOAT}.get(KINDS[name])
        assert expected is None or expected in (by_name[name].type, type(by_name[name].type))


@pytest.mark.parametrize("name", REGISTRIES)
def test_help_docs_and_completion_have_every_name(name: str) -> None:
    option = next(parameter for parameter in command("edit").params if parameter.name == name)
    assert isinstance(option, click.Option)
    named = set(re.findall(r"\w+", (option.help or "").split(": ")[1].split(".")[0]))
    assert named == REGISTRIES[name]
    line = next(line for line in table("edit").splitlines() if line.startswith(f"| `--{name.replace('_', '-')}` "))
    assert set(re.findall(r"\w+", line)) >= REGISTRIES[name]
    completed = {item.value for item in option.shell_complete(click.Context(command("edit")), "")}
    assert completed == REGISTRIES[name]


def contract() -> dict[str, set[str]]:
    """The names that docs/design.md gives, by option, and the engines by device."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    formula = re.findall(r"^\| (.*?) \|", text.partition("**One formula.**")[2].partition("\n\n")[2], re.MULTILINE)
    keep = re.findall(r"\*\*Keep rule\*\*, by name:(.*?)Results of", text)
    lines = re.findall(r"^    (\w+) +(?:name,|the same) .*  (.*)$", text, re.MULTILINE)
    last = {what: set(re.findall(r"\w+", names)) for what, names in lines}
    return {
        "sampler": {name for cell in formula for name in re.findall(r"`(\w+)`", cell)},
        "keep": set(re.findall(r"`(\w+)`", keep[0])),
        "fit": set(re.findall(r"\w+", re.findall(r"by `fit` = (.*?)\.", text)[0])) - {"or"},
        "cpu": last["Engine"],
        "cuda": last["CudaEngine"],
        "device": last["Device"],
    }


def test_the_contract_has_every_name() -> None:
    by_device = {device: set(engines) for device, engines in ENGINES.items()}
    options = {name: REGISTRIES[name] for name in ("sampler", "keep", "fit", "device")}
    assert contract() == options | by_device


def test_the_page_on_engines_has_every_engine_and_precision() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    named = {engine: set(re.findall(r"float32|float16|bfloat16|int8", cell)) for engine, cell in rows.items()}
    assert named == {engine: set(precisions) for engine, precisions in ENGINES["cpu"].items()}


def test_docs_have_the_tables_that_the_commands_give() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert with_tables(text) == text, "run python -m sdedit.reference docs/cli.md"
    assert set(re.findall("<!-- options: (.*) -->", text)) == {
        "edit",
        "evaluate",
        "serve",
        "page",
        "strokes",
        "export",
        "extend",
    }


def test_a_table_of_no_command_is_refused() -> None:
    with pytest.raises(click.UsageError, match="sdedit has no command 'paint'"):
        with_tables("<!-- options: paint -->\n<!-- end -->")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help[0].isupper(), parameter.help


# Checks


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, PlanError, "steps 0 is not in 1..4096"),
        ({"repeats": 5000}, PlanError, "repeats 5000 is not in 1..4096"),
        ({"images": 10**20}, PlanError, f"images {10**20} is not in 1..2^32"),
        ({"images": 10**5000}, PlanError, "images of thousands of digits is not in 1..2^32"),
        ({"seed": 2**64}, PlanError, f"seed {2**64} is not in 0..2^64-1"),
        ({"seed": None}, PlanError, "seed None is not an integer"),
        ({"seed": "Random"}, PlanError, "seed 'Random' is not an integer"),
        ({"seed": b"random"}, PlanError, "seed b'random' is not an integer"),
        ({"steps": "random"}, PlanError, "steps 'random' is not an integer"),
        ({"t0": 0}, PlanError, r"t0 0.0 is not in (0, 1]"),
        ({"t0": 10**400}, PlanError, "is not a number"),
        ({"t0": [0.5]}, PlanError, "t0 [0.5] is not a number"),
        ({"t0": b"1"}, PlanError, "t0 b'1' is not a number"),
        ({"eta": -0.1}, PlanError, "eta -0.1 is not in [0, 1]"),
        ({"clip": math.nan}, PlanError, "clip nan is not above 0"),
        ({"guidance": math.inf}, PlanError, "guidance inf is not finite"),
        ({"context": math.inf}, ImageError, "context inf is not at least 0"),
        ({"context": math.nan}, ImageError, "context nan is not at least 0"),
        ({"context": -0.1}, ImageError, "context -0.1 is not at least 0"),
        ({"fit": "zoom"}, ImageError, "fit 'zoom' is not one of crop, pad, stretch"),
        ({"fit": ["crop"]}, ImageError, "fit ['crop'] is not one of"),
        ({"sampler": []}, PlanError, "sampler [] is not one of ancestral"),
        ({"label": 1.5}, PlanError, "label 1.5 is not an integer"),
        ({"steps": math.inf}, PlanError, "steps inf is not an integer"),
        ({"steps": np.float32(math.nan)}, PlanError, "steps np.float32(nan) is not an integer"),
        ({"steps": "3"}, PlanError, "steps '3' is not an integer"),
        ({"steps": 0.0}, PlanError, "steps 0 is not in 1..4096"),
        ({"seed": 2.0**64}, PlanError, f"seed {2**64} is not in 0..2^64-1"),
        ({"images": Fraction(10**5000, 3)}, PlanError, "images of type Fraction is not an integer"),
    ],
)
def test_values_that_are_refused(options: dict[str, Any], error: type[SdeditError], message: str) -> None:
    with pytest.raises(error) as raised:
        Settings(**options)
    assert message in str(raised.value)


def test_numbers_become_pythons_own() -> None:
    taken = Settings(t0=np.float32(0.5), steps=np.int64(7), clip=math.inf, label=np.int8(3))
    assert [type(value) for value in (taken.t0, taken.steps, taken.clip, taken.label)] == [float, int, float, int]
    assert taken == Settings(t0=0.5, steps=7, clip=math.inf, label=3)


@pytest.mark.parametrize("three", [3.0, np.float16(3), np.float64(3), Fraction(3), np.uint64(3)])
def test_a_number_that_is_an_integer_is_taken_as_one(three: Any) -> None:
    """JSON does not tell 3.0 from 3, so a schema cannot refuse it."""
    taken = Settings(steps=three, repeats=three, seed=three, images=three, label=three)
    assert taken == Settings(steps=3, repeats=3, seed=3, images=3, label=3)
    assert {type(getattr(taken, name)) for name in ("steps", "repeats", "seed", "images", "label")} == {int}


def test_a_random_seed_is_a_number_of_its_own_each_time() -> None:
    seeds = {Settings(seed="random").seed for _ in range(20)}
    assert {type(seed) for seed in seeds} == {int}
    assert len(seeds) > 18  # of 2^32
    assert max(seeds) < 2**32


def test_a_recipe_with_a_seed_that_was_not_drawn_is_refused() -> None:
    with pytest.raises(PlanError, match="seed 'random' is not an integer"):
        Settings.from_recipe({**Settings().recipe(), "seed": "random"})


def test_large_integers_are_exact() -> None:
    assert Settings(seed=np.uint64(2**64 - 1)).seed == 2**64 - 1  # type: ignore[arg-type] # numpy's are not ints
    assert Settings(seed=2.0**63).seed == 2**63  # type: ignore[arg-type] # nor are floats


@pytest.mark.parametrize("name", ["sampler", "keep", "fit", "mask_from"])
def test_signatures_have_the_names_that_are_accepted(name: str) -> None:
    """Editors complete them, and type checkers refuse others."""
    annotation = typing.get_type_hints(EditOptions)[name]
    assert typing.get_origin(annotation) is typing.Literal
    assert set(typing.get_args(annotation)) == REGISTRIES[name]


def test_a_recipe_is_read_as_it_was_written() -> None:
    for taken in (Settings(), Settings(sampler="ddim", eta=0.3, clip=math.inf), Settings(label=2, guidance=3.5)):
        assert Settings.from_recipe(json.loads(json.dumps(taken.recipe()))) == taken


# JSON schema

jsonschema = pytest.importorskip("jsonschema")


def validator() -> Any:
    schema = json.loads(json.dumps(Settings.json_schema(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"t0": 1, "steps": 25.0, "seed": 0.0},
        {"t0": 1, "steps": 4096, "sampler": "euler", "seed": 2**64 - 1, "images": 2**32},
        {"sampler": "ddim", "eta": 0.5},
        {"eta": None, "label": None},
        {"clip": "inf", "context": 0, "guidance": -1.5, "label": 3},
        {"seed": "random", "mask_from": "alpha"},
    ],
)
def test_the_schema_accepts(options: dict[str, Any]) -> None:
    validator().validate(options)


@pytest.mark.parametrize(
    "options",
    [
        {"t0": 0},
        {"t0": "0.5"},
        {"steps": 2.5},
        {"steps": True},
        {"steps": None},
        {"sampler": "heun"},
        {"eta": 0.5},
        {"sampler": "ancestral", "eta": 1.0},
        {"seed": -1},
        {"clip": 0},
        {"clip": "none"},
        {"context": -0.1},
        {"colour": "red"},
        [],
    ],
)
def test_the_schema_refuses(options: Any) -> None:
    assert not validator().is_valid(options)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**65),
    st.floats(-3, 3),
    st.integers(-5, 2**65).map(float),
    st.sampled_from(["inf", "random", "", *SAMPLERS, *KEEPS, *FITS, *MASKS_FROM]),
    st.just([]),
)


@settings(deadline=None)
@given(st.sampled_from(list(OPTIONS)), VALUES)
def test_schema_and_settings_agree(name: str, value: Any) -> None:
    options = {"sampler": "ddim", name: value} if name == "eta" else {name: value}
    try:
        Settings(**{**options, **({"clip": math.inf} if options.get("clip") == "inf" else {})})
        accepted = True
    except (PlanError, ImageError):
        accepted = False
    assert validator().is_valid(options) == accepted
