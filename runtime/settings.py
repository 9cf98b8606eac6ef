"""What one edit may choose, with its defaults: checked once, written into every recipe."""

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from sdedit.errors import PlanError

from .images import check_placement
from .plan import SAMPLERS, Plan, make_plan
from .schedule import Schedule


class EditOptions(TypedDict, total=False):
    """The keyword arguments of Editor.edit and Editor.submit; Settings says what they mean and their defaults."""

    t0: float
    steps: int
    sampler: str
    eta: float | None
    keep: str
    repeats: int
    seed: int
    images: int
    clip: float
    fit: str
    context: float
    label: int | None
    guidance: float


@dataclass(frozen=True)
class Settings:
    """The choices of one edit. Numbers of other libraries become Python's; PlanError and ImageError for what is none.

    t0: in (0, 1]; little keeps the guide, much is realistic. steps: network evaluations a repeat. sampler: one of
    plan.SAMPLERS. eta: noise of sampler ddim, in [0, 1]. keep: one of plan.KEEPS. repeats: the paper's K. seed: 64
    bits. images: how many to make of the seed, each with noise of its own. clip: bound of predictions of x0; inf: none.
    fit: without a mask, how the guide is brought to the network's size. context: with one, how far around the mask the
    network sees, in fractions of the mask's size. label: what to make, of a network with classes; None: of no class.
    guidance: how much more like its label than like no class (Ho & Salimans 2022); 1: no more than the network does.
    """

    t0: float = 0.5
    steps: int = 25
    sampler: str = "dpmpp_2m"
    eta: float | None = None
    keep: str = "fresh"
    repeats: int = 1
    seed: int = 0
    images: int = 1
    clip: float = 1.0
    fit: str = "crop"
    context: float = 0.25
    label: int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "repeats", "seed", "images"):
            object.__setattr__(self, name, _integer(name, getattr(self, name)))
        for name in ("t0", "clip", "context", "guidance"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.eta is not None:
            object.__setattr__(self, "eta", _number("eta", self.eta))
        if self.label is not None:
            object.__setattr__(self, "label", _integer("label", self.label))
        if not 0 <= self.seed < 2**64:
            raise PlanError(f"seed {self.seed} is not in 0..2^64-1")
        if not 1 <= self.images <= 2**32:
            raise PlanError(f"images {self.images} is not in 1..2^32")
        check_placement(self.fit, self.context)

    def plan(self, schedule: Schedule, prediction: str) -> Plan:
        """Its rows for a network; raises PlanError."""
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
            guidance=self.guidance,
        )

    def label_for(self, bundle: str, classes: int, null_label: int | None) -> int | None:
        """What a bundle's network is told, None where it takes no labels; raises PlanError where they do not fit."""
        if self.guidance != 1 and null_label is None:
            raise PlanError(
                f"guidance {self.guidance:g} needs a label of no class, which {bundle} has not: accepted is 1"
            )
        if self.label is None:
            if classes and null_label is None:
                raise PlanError(f"a label is needed: {bundle} takes 0..{classes - 1}")
            if self.guidance != 1:
                raise PlanError(f"guidance {self.guidance:g} needs a label: {bundle} takes 0..{classes - 1}")
            return null_label
        if not 0 <= self.label < classes:
            taken = f"takes 0..{classes - 1}" if classes else "takes none"
            raise PlanError(f"label {self.label}: {bundle} {taken}")
        return self.label

    def options(self) -> EditOptions:
        """Itself as keyword arguments of Editor.edit."""
        return cast(EditOptions, dataclasses.asdict(self))

    def recipe(self) -> dict[str, Any]:
        """As resolved, in values that JSON has."""
        resolved = dataclasses.asdict(self)
        resolved["eta"] = SAMPLERS[self.sampler].eta if self.eta is None else self.eta
        resolved["clip"] = self.clip if math.isfinite(self.clip) else "inf"
        return resolved

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Settings":
        """The inverse of `recipe`, for one that nobody vouches for; raises PlanError and ImageError."""
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in recipe]
        if missing:
            raise PlanError(f"the recipe does not say {', '.join(missing)}")
        said = {name: recipe[name] for name in names}
        for name in ("sampler", "keep", "fit"):
            if not isinstance(said[name], str):
                raise PlanError(f"the recipe's {name} {said[name]!r} is not a name")
        if said["sampler"] != "ddim":
            said["eta"] = None  # only ddim may be told
        if said["clip"] == "inf":
            said["clip"] = math.inf
        return cls(**said)


def _integer(name: str, value: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise PlanError(f"{name} {value!r} is not an integer") from None


def _number(name: str, value: float) -> float:
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise PlanError(f"{name} {value!r} is not a number") from None
