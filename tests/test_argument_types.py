"""Arguments of every kind given to every public door: a mistake is one of sdedit.errors, on one line, and names it."""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stubs import stub_editor

import sdedit
from sdedit.errors import EngineError, SdeditError, shown
from sdedit.runtime import Editor
from sdedit.runtime.settings import OPTIONS, Settings

GUIDE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


class NoSize:
    """A file object that cannot be asked for a number of bytes."""

    def read(self) -> bytes:
        return b""


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


NUMBERS: list[Any] = [True, 3, -1, 0, 2.5, math.nan, math.inf, -math.inf, 10**30, 10**5000, 1j, np.float32("nan")]
TEXTS: list[Any] = ["nonsense", "", "two\nlines", "\0", "\ud800", "x" * 5000, b"x", b"", memoryview(b"a")]
GROUPS: list[Any] = [[], [1], ["a"], (), {}, {"a": 1}, set(), range(3), np.array([1, 2]), np.zeros((2, 2, 2, 2))]
OBJECTS: list[Any] = [object(), type, Ellipsis, io.StringIO("a"), NoSize(), Unprintable(), np.array(None), Path("no")]
WRONG: list[Any] = [*NUMBERS, *TEXTS, *GROUPS, *OBJECTS, None]

DOORS_OF_OPENING = ("bundle", "engine", "precision", "slots", "device", "eager", "max_waiting")
DOORS_OF_AN_EDIT = ("mask", "base", "on_step", "image_numbers", *OPTIONS)


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with stub_editor(lambda x, time: -x) as editor:
        yield editor


def refusals(name: str, door: Callable[[Any], object], accepted: Callable[[Any], bool]) -> int:
    """How many values were refused. accepted: whether a value may be taken; it then need not raise."""
    refused = 0
    for value in WRONG:
        try:
            door(value)
        except SdeditError as error:
            message = str(error)
            assert name in message, (name, message)
            assert message.isprintable(), message
            assert len(message) < 500 or f"{value}" in message, message  # a path is named whole
            refused += 1
        else:
            assert accepted(value), f"{name} takes {shown(value)}"
    return refused


def is_none(value: Any) -> bool:
    return value is None


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_integer(value) or (isinstance(value, float | np.floating) and not math.isnan(value))


@pytest.mark.parametrize("name", DOORS_OF_OPENING)
def test_opening(name: str) -> None:
    def door(value: Any) -> None:
        Editor.open(**{"threads": 1, "engine": "onnxruntime", name: value}).close()

    accepted = {"eager": lambda value: value is False, "max_waiting": lambda v: is_none(v) or is_integer(v)}
    few = {"slots": lambda value: value == 3, "bundle": is_none}
    assert refusals(name, door, {**accepted, **few}.get(name, lambda value: False)) > 30


def test_opening_with_threads() -> None:
    def door(value: Any) -> None:
        if not taken(value):
            Editor.open(threads=value)

    def taken(value: Any) -> bool:
        return is_none(value) or (is_integer(value) and value == 3)

    assert refusals("threads", door, taken) > 30


@pytest.mark.parametrize("name", DOORS_OF_AN_EDIT)
def test_an_edit(editor: Editor, name: str) -> None:
    def door(value: Any) -> None:
        if name == "on_step" and callable(value):
            raise EngineError("on_step is a function, which may do what it likes")
        editor.submit(GUIDE, **{"steps": 1, "image_numbers": [0], name: value}).result()

    assert refusals(name, door, lambda value: is_none(value) or is_number(value)) > 25


def test_guides(editor: Editor) -> None:
    assert refusals("guide", lambda value: editor.edit(value, steps=1), lambda value: False) == len(WRONG)


def test_a_job(editor: Editor) -> None:
    job = editor.submit(GUIDE, steps=1)
    (image,) = job.result().images
    number = lambda value: is_none(value) or is_number(value)  # noqa: E731
    assert refusals("timeout", job.result, number) > 20
    assert refusals("callback", job.subscribe, callable) > 30
    assert refusals("callback", job.add_done_callback, callable) > 30
    assert refusals("preview_every", lambda value: job.subscribe(print, preview_every=value), is_integer) > 30
    assert refusals("progress", job.preview, lambda value: False) == len(WRONG)

    def save(value: Any) -> None:
        if isinstance(value, str | bytes | Path):
            raise EngineError("a path would be written")
        image.save(value)

    assert refusals("path", save, lambda value: False) == len(WRONG)


def test_reading_a_bundle() -> None:
    assert refusals("bundle", sdedit.read_bundle, lambda value: False) == len(WRONG)


def test_replaying(editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    editor.edit(GUIDE, steps=1).images[0].save("guide.png")
    editor.edit("guide.png", np.ones((64, 64)), steps=1).images[0].save("made.png")
    assert refusals("", sdedit.replay, lambda value: False) == len(WRONG)
    for name in ("guide", "mask", "base", "bundle"):
        given = {"guide": "guide.png", "mask": "guide.png"}
        refusals("", lambda value, name=name, given=given: sdedit.replay("made.png", **{**given, name: value}), is_none)


def test_recipes(editor: Editor) -> None:
    recipe = dict(editor.edit(GUIDE, steps=1).recipe)
    assert refusals("recipe", Settings.from_recipe, lambda value: False) == len(WRONG)
    for name in OPTIONS:
        free = {"eta": object, "prompt": str, "negative": str}.get(name, ())
        accepted = lambda value, free=free: isinstance(value, free) or is_none(value) or is_number(value)  # noqa: E731
        refusals(name, lambda value, name=name: Settings.from_recipe({**recipe, name: value}), accepted)


def test_an_option_that_does_not_exist_is_an_error_of_python(editor: Editor) -> None:
    with pytest.raises(TypeError, match="tO"):
        editor.edit(GUIDE, tO=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("a\nb", "'a\\nb'"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        ("x" * 100, "'" + "x" * 76 + "..."),
        pytest.param(10**5000, "of thousands of digits", id="digits"),
        (Unprintable(), "of type Unprintable"),
    ],
)
def test_a_value_in_a_message_is_short_and_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text
