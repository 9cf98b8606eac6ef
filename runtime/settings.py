"""The options of one edit, declared once: the command line, recipes, documents and a JSON schema come from here."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, cast

from sdedit.errors import ImageError, PlanError, shown
from sdedit.kernels.layout import MAX_ELEMENTS

from .images.canvas import FITS, MAX_SIDE, FitName
from .images.masks import FEATHER, MASKS_FROM, MAX_FEATHER, MaskFromName
from .option import Option
from .plan import KEEPS, MAX_ROWS, SAMPLERS, KeepName, Plan, SamplerName, make_plan
from .schedule import Schedule

MAX_PROMPT = 10_000
"""Most characters of a text: models take a few hundred."""


class EditOptions(TypedDict, total=False):
    """Keyword arguments of Editor.edit and Editor.submit."""

    t0: float
    steps: int
    sampler: SamplerName
    eta: float | None
    keep: KeepName
    repeats: int
    seed: int | Literal["random"]
    images: int
    clip: float
    fit: FitName
    context: float
    size: str | int | None
    max_pixels: int | None
    tile: int | None
    mask_from: MaskFromName
    feather: int
    label: int | None
    guidance: float
    prompt: str | None
    negative: str | None


def declare(default: Any, help: str, **declared: Any) -> Any:  # noqa: A002 - click's name for it
    """A field of Settings: its default, and the rest of its Option."""
    return field(default=default, metadata={"option": Option(help, **declared)})


@dataclass(frozen=True)
class Settings:
    """The choices of one edit. Each option is declared here and nowhere else; OPTIONS has the declarations by name.

    Numbers of other libraries become Python's, and a random seed a number. Raises PlanError, for fit, context and
    mask_from ImageError, if a value is not accepted.
    """

    t0: float = declare(
        0.5,
        "Noise level at which the edit starts",
        low=0,
        high=1,
        above=True,
        unit="fraction of the schedule",
        note="0.3 stays close to the guide, 0.7 is free.",
    )
    steps: int = declare(25, "Network evaluations of each repeat", low=1, high=MAX_ROWS)
    sampler: SamplerName = declare("dpmpp_2m", "Sampler of the reverse process", choices=tuple(SAMPLERS))
    eta: float | None = declare(None, "Noise of sampler ddim", low=0, high=1, unset="0")
    keep: KeepName = declare(
        "fresh",
        "Noise on the pixels that the mask keeps, during the edit",
        choices=KEEPS,
        note="With fresh and fixed they end exactly as they were; paper and official are as published.",
    )
    repeats: int = declare(
        1, "Number of times that the edit is run, each from the result before (the paper's K)", low=1, high=MAX_ROWS
    )
    seed: int | Literal["random"] = declare(
        0,
        "Seed of the noise",
        low=0,
        high=2**64 - 1,
        drawn=32,
        note="The same seed gives the same noise on every machine; the recipe has the one that random drew.",
    )
    images: int = declare(1, "Number of variants", low=1, high=2**32, note="They have the same seed, different noise.")
    clip: float = declare(
        1.0, "Bound of the predicted image's values", low=0, above=True, infinite=True, note="inf: no bound."
    )
    fit: FitName = declare(
        "crop", "How a guide without a mask is brought to the model's size", choices=FITS, error=ImageError
    )
    context: float = declare(0.25, "Margin around the mask", low=0, unit="fraction of its size", error=ImageError)
    size: str | int | None = declare(
        None,
        "Size at which the network works",
        choices=("native", "guide"),
        pattern=r"[1-9][0-9]{0,5}(x[1-9][0-9]{0,5})?",
        forms=("LONGER_SIDE", "HEIGHTxWIDTH"),
        unset="native; with a mask, the photo's own scale",
    )
    max_pixels: int | None = declare(
        None, "Largest area that is edited at once", low=1, high=MAX_ELEMENTS, unit="pixels", unset="the model's"
    )
    tile: int | None = declare(
        None,
        "Side of overlapping tiles, in which a larger area is edited",
        low=1,
        high=MAX_SIDE,
        unit="pixels",
        unset="no tiles",
    )
    mask_from: MaskFromName = declare(
        "brightness",
        "Where a mask's values are taken from",
        choices=MASKS_FROM,
        error=ImageError,
        note="alpha: transparent pixels may change; without --mask, GUIDE's own.",
    )
    feather: int = declare(
        FEATHER,
        "Width of the strip inside the mask's border in which the edit grows to full strength",
        low=0,
        high=MAX_FEATHER,
        unit="pixels of the photo",
    )
    label: int | None = declare(
        None, "Class of the image, if the model has classes", unset="no class, if the model has that label"
    )
    guidance: float = declare(
        1.0, "Strength of the label or the prompt", note="1: as the network predicts; more: more typical."
    )
    prompt: str | None = declare(
        None, "Text that describes the image, if the model takes one", longest=MAX_PROMPT, unset="no text"
    )
    negative: str | None = declare(
        None, "Text that describes what the image should not be", longest=MAX_PROMPT, unset="the model's own"
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is not None or not option.unset:
                object.__setattr__(self, name, option.check(name, value, KINDS[name]))

    def plan(self, schedule: Schedule, prediction: str, guidance_is_input: bool = False) -> Plan:
        """Its rows for a network, which may take guidance as an input; raises PlanError."""
        return make_plan(
            schedule,
            prediction,
            t0=self.t0,
            steps=self.steps,
            sampler=self.sampler,
            eta=self.eta,
            keep=self.keep,
            repeats=self.repeats,
            clip=self.clip,
            guidance=1.0 if guidance_is_input else self.guidance,
        )

    def label_for(self, bundle: str, classes: int, null_label: int | None) -> int | None:
        """The label that a bundle's network gets, None if it takes none. Raises PlanError if they do not fit."""
        if self.guidance != 1 and null_label is None:
            raise PlanError(f'{bundle} has no "no class" label, so guidance must be 1 (it is {self.guidance:g})')
        if self.label is None:
            if classes and null_label is None:
                raise PlanError(f"a label is needed: {bundle} takes 0..{classes - 1}")
            if self.guidance != 1:
                raise PlanError(f"guidance {self.guidance:g} needs a label: {bundle} takes 0..{classes - 1}")
            return null_label
        if not 0 <= self.label < classes:
            taken = f"takes 0..{classes - 1}" if classes else "takes none"
            raise PlanError(f"label {shown(self.label)}: {bundle} {taken}")
        return self.label

    def options(self) -> EditOptions:
        """Itself as keyword arguments of Editor.edit."""
        return cast(EditOptions, dataclasses.asdict(self))

    def recipe(self) -> dict[str, Any]:
        """The options as JSON has them: eta as the sampler uses it, an infinite clip as "inf"."""
        resolved = dataclasses.asdict(self)
        resolved["eta"] = SAMPLERS[self.sampler].eta if self.eta is None else self.eta
        resolved["clip"] = self.clip if math.isfinite(self.clip) else "inf"
        return resolved

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Settings":
        """The inverse of `recipe`, which may come from anywhere; raises PlanError and ImageError."""
        if not isinstance(recipe, Mapping):
            raise PlanError(f"recipe {shown(recipe)} is not a mapping")
        known = {**BEFORE, **recipe}
        missing = [name for name in OPTIONS if name not in known]
        if missing:
            raise PlanError(f"the recipe lacks {', '.join(missing)}")
        values = {name: known[name] for name in OPTIONS}
        unresolved = [name for name, option in OPTIONS.items() if option.drawn and isinstance(values[name], str)]
        if unresolved:
            raise PlanError(f"{unresolved[0]} {shown(values[unresolved[0]])} is not an integer")
        if isinstance(values["sampler"], str) and values["sampler"] != "ddim":
            values["eta"] = None  # the others have their own
        if isinstance(values["clip"], str) and values["clip"] == "inf":
            values["clip"] = math.inf
        return cls(**values)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema (draft 2020-12) of an edit's options; those left out have their defaults.

        An infinite clip is "inf". What depends on the bundle, such as its labels, is not in the schema.
        """
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Options of an sdedit edit",
            "type": "object",
            "properties": {name: o.schema(KINDS[name], getattr(cls, name)) for name, o in OPTIONS.items()},
            "additionalProperties": False,
            "if": {"properties": {"eta": {"type": "number"}}, "required": ["eta"]},
            "then": {"properties": {"sampler": {"const": "ddim"}}, "required": ["sampler"]},
        }


BEFORE: dict[str, Any] = {"size": "native", "max_pixels": None, "tile": None, "mask_from": "brightness", "feather": 0}
BEFORE |= {"prompt": None, "negative": None}
"""The values that recipes from before these options mean."""

OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in dataclasses.fields(Settings)}
"""The declarations, by name."""


def kind_of(annotation: Any) -> type:
    """int, float or str: the type of a field's values that are not None."""
    if typing.get_origin(annotation) is Literal:
        return str
    return cast(type, next(iter(typing.get_args(annotation)), annotation))


KINDS: dict[str, type] = {name: kind_of(annotation) for name, annotation in typing.get_type_hints(Settings).items()}
"""int, float or str, by name."""

EditOptions.__doc__ = "\n".join(
    [
        f"{EditOptions.__doc__}\n",
        *(f"- {name}: {o.sentence} Default: {o.unset or getattr(Settings, name)}." for name, o in OPTIONS.items()),
    ]
)
