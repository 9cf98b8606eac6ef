"""Edits of a folder of guides with every combination of some options, into files: a run that was ended goes on.

Each result is `OUT/RUN/GUIDE-SEED.png` with its recipe. A file that is there, and whose recipe says that it is this
edit, is not made again; a file of another edit is never replaced.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdedit.errors import ImageError, reason
from sdedit.runtime import Editor
from sdedit.runtime.codec import to_state
from sdedit.runtime.images import file_sha256, open_mask, open_picture, whole_canvas
from sdedit.runtime.images.listing import list_pictures
from sdedit.runtime.recipe import read_recipe

if TYPE_CHECKING:
    from sdedit.runtime.editor import PrecisionName

logger = logging.getLogger("sdedit")

OnEdit = Callable[[int, int], object]
"""A function that is called with the results that are there, and those that there will be."""


@dataclass(frozen=True)
class Run:
    """The options of one combination. precision: as asked for."""

    t0: float
    steps: int
    sampler: str
    precision: str

    @property
    def name(self) -> str:
        """Its folder's name."""
        return f"t0-{self.t0:g}_steps-{self.steps}_{self.sampler}_{self.precision}"


@dataclass(frozen=True)
class Inputs:
    """Guides by their stem, and the masks of those that have one."""

    guides: dict[str, Path]
    masks: dict[str, Path]


@dataclass(frozen=True)
class Results:
    """Files of results and, in their order, the stems of their guides and their seeds: every guide for each seed."""

    paths: list[Path]
    stems: list[str]
    seeds: list[int]


def combinations(
    t0s: Sequence[float], steps: Sequence[int], samplers: Sequence[str], precisions: Sequence[str]
) -> list[Run]:
    """Every combination, those of one precision together: a network is loaded once for each precision."""
    return [Run(t0, n, sampler, p) for p, sampler, n, t0 in itertools.product(precisions, samplers, steps, t0s)]


def find_inputs(guides: Path, masks: Path | None) -> Inputs:
    """The pictures of both folders; a mask has its guide's name, whatever its suffix. Raises ImageError."""
    found = by_stem(guides)
    found_masks = {} if masks is None else by_stem(masks)
    if masks is not None and found.keys() - found_masks.keys():
        missing = sorted(found.keys() - found_masks.keys())
        raise ImageError(f"folder {masks} has no mask for guide {missing[0]} ({len(missing)} of {len(found)} lack one)")
    return Inputs(found, {stem: found_masks[stem] for stem in found if stem in found_masks})


def by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without suffix. Raises ImageError for none, and for two of one stem."""
    pictures: dict[str, Path] = {}
    for path in list_pictures(folder).pictures:
        if path.stem in pictures:
            raise ImageError(f"folder {folder} has both {pictures[path.stem].name} and {path.name}: rename one")
        pictures[path.stem] = path
    if not pictures:
        raise ImageError(f"folder {folder} has no images")
    return pictures


def make_results(
    bundle: Path | None, runs: Sequence[Run], inputs: Inputs, seeds: int, out: Path, on_edit: OnEdit, **options: Any
) -> None:
    """Edit what is missing of runs x seeds x guides. options: those of Editor.open but `precision`.

    Raises ImageError, PlanError, EngineError; what was made until then stays.
    """
    done, total = 0, len(runs) * seeds * len(inputs.guides)
    hashes = {stem: file_sha256(path, "guide") for stem, path in inputs.guides.items()}
    mask_hashes = {stem: file_sha256(path, "mask") for stem, path in inputs.masks.items()}
    for precision, group in itertools.groupby(runs, key=lambda run: run.precision):
        with Editor.open(bundle, precision=as_precision(precision), **options) as editor:
            for run, seed, stem in itertools.product(list(group), range(seeds), inputs.guides):
                target = result_path(out, run, stem, seed)
                wanted: dict[str, Any] = {"t0": run.t0, "steps": run.steps, "sampler": run.sampler, "seed": seed}
                hashed = {"bundle": editor.bundle.sha256, "guide": hashes[stem], "mask": mask_hashes.get(stem)}
                if not is_made(target, wanted, hashed):
                    result = editor.edit(inputs.guides[stem], inputs.masks.get(stem), **wanted)
                    make_folder(target.parent)
                    result.images[0].save(target)
                done += 1
                on_edit(done, total)


def as_precision(name: str) -> "PrecisionName":
    """The name as Editor.open takes it, which refuses those that it does not know."""
    return name  # type: ignore[return-value]


def result_path(out: Path, run: Run, stem: str, seed: int) -> Path:
    return out / run.name / f"{stem}-{seed}.png"


def results_of(out: Path, run: Run, inputs: Inputs, seeds: int) -> Results:
    """The results that make_results makes for one run."""
    stems, numbers = list(inputs.guides) * seeds, [seed for seed in range(seeds) for _ in inputs.guides]
    paths = [result_path(out, run, stem, seed) for stem, seed in zip(stems, numbers, strict=True)]
    return Results(paths, stems, numbers)


def find_results(folder: Path, inputs: Inputs) -> Results:
    """The pictures of a folder that have a guide's name, or that and a seed's number: NAME.png, NAME-3.png.

    Others are named in a warning. Raises ImageError unless each seed has a result of every guide.
    """
    found: dict[int, dict[str, Path]] = {}
    for stem, path in by_stem(folder).items():
        guide, _, number = stem.rpartition("-")
        if stem in inputs.guides:
            found.setdefault(0, {})[stem] = path
        elif guide in inputs.guides and number.isdecimal() and guide not in found.get(int(number), {}):
            found.setdefault(int(number), {})[guide] = path
        else:
            logger.warning("%s is not measured: no guide has its name", path)
    if not found:
        raise ImageError(
            f"folder {folder} has no result of a guide: none has a guide's name, as NAME.png or NAME-0.png"
        )
    for seed, own in sorted(found.items()):
        if missing := sorted(inputs.guides.keys() - own.keys()):
            raise ImageError(f"folder {folder} has no result of guide {missing[0]}, seed {seed}: {len(missing)} lack")
    stems, seeds = list(inputs.guides), sorted(found)
    order = [(seed, stem) for seed in seeds for stem in stems]
    return Results([found[seed][stem] for seed, stem in order], stems * len(seeds), [seed for seed, _ in order])


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it. Raises ImageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"folder {folder} cannot be made: {reason(error)}") from None


def is_made(path: Path, wanted: Mapping[str, Any], hashed: Mapping[str, str | None]) -> bool:
    """Whether the file holds this edit. Raises ImageError if it holds another."""
    if not path.exists():
        return False
    recipe = read_recipe(path)
    found = {name: recipe.get(name) for name in wanted}
    found |= {name: (recipe.get(name) or {}).get("sha256") for name in hashed}
    other = [name for name, value in {**wanted, **hashed}.items() if found[name] != value]
    if other:
        raise ImageError(f"{path} is there, from another {', '.join(other)}: choose another folder, or remove it")
    return True


def read_images(paths: Sequence[Path], what: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pictures as float32 [N, 3, H, W] in [-1, 1].

    size: (width, height), to which each is brought by a centred crop; None: they must all have one size. Raises
    ImageError.
    """
    states: list[np.ndarray] = []
    for path in paths:
        picture = open_picture(path, what).image
        state = to_state(picture if size is None else whole_canvas(picture, size, "crop").photo)
        if states and state.shape != states[0].shape:
            (_, h, w), (_, first_h, first_w) = state.shape, states[0].shape
            raise ImageError(f"{what} {path} is {w}x{h} pixels, {paths[0].name} is {first_w}x{first_h}: one is needed")
        states.append(state)
    return np.stack(states)


def read_masks(inputs: Inputs, stems: Sequence[str], size: tuple[int, int]) -> np.ndarray | None:
    """Where the masks edit at all: bool [N, H, W]; None without masks. Raises ImageError."""
    if not inputs.masks:
        return None
    return np.stack([open_mask(inputs.masks[stem], size)[0] > 0 for stem in stems])
