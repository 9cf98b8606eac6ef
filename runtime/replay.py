"""From an image's recipe to the same image again. A recipe is data from outside: everything in it is checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdedit.errors import ImageError, PlanError

from .devices import check_recipe
from .editor import EditedImage, Editor
from .editor.arguments import load
from .images import file_sha256, load_result
from .option import to_path
from .recipe import parse_recipe
from .settings import Settings


@dataclass(frozen=True)
class Replay:
    """image: as made now. differences: of versions and the like. inputs: the files used.

    pixels: how many differ; None for a JPEG, which does not keep the pixels that were made.
    """

    image: EditedImage
    pixels: int | None
    differences: list[str]
    inputs: list[Path]


def replay(
    path: str | os.PathLike[str],
    *,
    guide: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    bundle: str | os.PathLike[str] | None = None,
) -> Replay:
    """Make the image of `path` again, with the engine, precision and threads of its recipe.

    Inputs that are not given are looked for beside `path` by the recipe's names. Raises ImageError for an input that is
    missing or another than the recipe's, PlanError for a recipe that is unusable, BundleError and EngineError.
    """
    path = to_path("path", path, ImageError)
    picture = load_result(path)
    recipe = parse_recipe(path, picture)
    if recipe.get("session") is not None:
        raise PlanError(
            f"{path} was made in a session, whose edits are near, not equal, to those of the whole picture: "
            "Editor.session with its photo and place makes it again, replay does not"
        )
    given = {
        what: None if file is None else to_path(what, file, ImageError)
        for what, file in (("guide", guide), ("mask", mask), ("base", base))
    }
    sources = {what: _find(path, what, recipe, given[what]) for what in given}
    if sources["guide"] is None:
        raise PlanError(f"{path}: the recipe names no guide")
    settings = Settings.from_recipe(recipe)
    index = recipe.get("image")
    if type(index) is not int or not 0 <= index < settings.images:
        raise PlanError(f"{path}: the recipe's image {index!r} is not in 0..{settings.images - 1}")
    engine = _mapping(path, recipe, "engine")
    wanted = _mapping(path, recipe, "bundle").get("sha256")
    device: Any = recipe.get("device")
    name: Any = engine.get("name")
    precision: Any = engine.get("precision")
    threads, batch = engine.get("threads"), engine.get("batch", 1)
    for field, value, kind in (("threads", threads, int if device == "cpu" else type(None)), ("batch", batch, int)):
        if type(value) is not kind:
            raise PlanError(f"{path}: the recipe's {field} {value!r} is no number that device {device} takes")
    check_recipe(device, threads, batch)
    loaded = load(bundle)
    if loaded.sha256 != wanted:
        raise PlanError(f"{path} was made with another bundle, sha256 {str(wanted)[:12]}: say which with --bundle")
    settings.plan(loaded.schedule, loaded.prediction)  # refused before an engine is loaded
    with Editor.open(loaded, engine=name, precision=precision, threads=threads, slots=batch, device=device) as editor:
        inputs = (sources["guide"], sources["mask"], sources["base"])
        edit = editor.edit(inputs[0], inputs[1], base=inputs[2], image_numbers=[index], **settings.options())
        (again,) = edit.images
    used = [source for source in inputs if source is not None]
    pixels = None if picture.format == "JPEG" else _count_differences(picture, again.pil)
    return Replay(again, pixels, _compare(recipe, again.recipe), used)


def _find(path: Path, what: str, recipe: Mapping[str, Any], given: Path | None) -> Path | None:
    """The file that the recipe means, verified by its hash; None where it means none."""
    said = recipe.get(what)
    if said is None:
        if given is not None:
            raise ImageError(f"{path} was made without a {what}, but {given} is given")
        return None
    name, sha256 = (said.get("name"), said.get("sha256")) if isinstance(said, dict) else (None, None)
    if given is None:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise ImageError(f"{path}: its {what} was no file: say --{what}")
        given = path.parent / name
        if not os.path.isfile(given):  # noqa: PTH113 - Path.is_file raises for names that are too long
            raise ImageError(f"{path} was made from {what} {name}, which is not beside it: say --{what}")
    found = file_sha256(given, what)
    if found != sha256:
        raise ImageError(
            f"{what} {given} is not what {path} was made from: sha256 {found[:12]}, not {str(sha256)[:12]}"
        )
    return given


def _mapping(path: Path, recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = recipe.get(name)
    if not isinstance(value, dict):
        raise PlanError(f"{path}: the recipe does not say {name}")
    return value


def _count_differences(a: Image.Image, b: Image.Image) -> int:
    """Pixels that look different: an opaque alpha channel or a palette changes nothing."""
    if a.size != b.size:
        return max(a.width * a.height, b.width * b.height)
    differs = np.asarray(a.convert("RGBA")) != np.asarray(b.convert("RGBA"))
    return int(differs.any(axis=2).sum())


def _compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of machine and versions that may explain another result."""
    return [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]
