"""Conditions of an edit: the label or the text that the network is told besides the state."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdedit.errors import PlanError, shown

from ..bundle import Bundle
from ..loop import Conditions
from ..prompts import Prompts, Run, Tokens
from ..settings import Settings


@dataclass(frozen=True)
class Told:
    """conditions, null_conditions: of both passes, see loop.Task. recipe: what the recipe says of them."""

    conditions: Conditions
    null_conditions: Conditions
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Conditioner:
    """Makes the conditions of a bundle's edits. Any thread may call it."""

    def __init__(self, bundle: Bundle, load: Callable[[str], Run]) -> None:
        """load: loads the network in a file of the bundle."""
        self._bundle = bundle
        self._prompts = Prompts(bundle, load) if bundle.manifest.text else None
        self._lock = threading.Lock()

    def check(self, settings: Settings) -> None:
        """Raise PlanError for a label, text or guidance that the bundle's network does not take."""
        if self._prompts is None:
            refuse_text(settings, self._bundle.name)
            settings.label_for(self._bundle.name, self._bundle.classes, self._bundle.null_label)
            return
        if settings.label is not None:
            raise PlanError(f"label {settings.label}: {self._bundle.name} takes none, but a prompt")
        if settings.prompt is None:
            raise PlanError(f"a prompt is needed: {self._bundle.name} takes a text")
        text = self._bundle.manifest.text
        assert text is not None
        if text.guidance == "none" and settings.guidance != 1:
            raise PlanError(f"guidance {settings.guidance:g}: {self._bundle.name} was distilled without: accepted is 1")
        if settings.negative is not None and (text.guidance != "free" or settings.guidance == 1):
            raise PlanError(f"negative {shown(settings.negative)} has no effect: guidance is {settings.guidance:g}")

    def tell(self, settings: Settings, height: int, width: int) -> Told:
        """The conditions of an edit that `check` accepts. height, width: of the picture that the network makes."""
        self.check(settings)
        if self._prompts is None:
            return self._label(settings)
        with self._lock:
            return self._text(self._prompts, settings, height, width)

    def _label(self, settings: Settings) -> Told:
        null_label = self._bundle.null_label
        label = settings.label_for(self._bundle.name, self._bundle.classes, null_label)
        conditions: Conditions = {} if label is None else {"label": np.int64(label)}
        return Told(conditions, {} if null_label is None else {"label": np.int64(null_label)})

    def _text(self, prompts: Prompts, settings: Settings, height: int, width: int) -> Told:
        bundle, text = self._bundle, self._bundle.manifest.text
        assert text is not None
        assert settings.prompt is not None
        tokens: dict[str, Tokens] = {"prompt": prompts.tokens("prompt", settings.prompt)}
        wanted = {settings.prompt: tokens["prompt"]}
        if bundle.guided:
            tokens["negative"] = prompts.tokens("negative", settings.negative or "")
            if settings.guidance != 1:
                wanted[settings.negative or ""] = tokens["negative"]
        embedded = prompts.embed(wanted)
        shared: dict[str, np.ndarray | np.generic] = {}
        if "size" in bundle.manifest.inputs:
            shared["size"] = np.array([height, width, 0, 0, height, width], np.float32)
        if "guidance" in bundle.manifest.inputs:
            shared["guidance"] = np.float32(settings.guidance)
        conditions = {**embedded[settings.prompt], **shared}
        null = {**embedded.get(settings.negative or "", embedded[settings.prompt]), **shared}
        if text.zero_negative and settings.negative is None:
            null |= {name: np.zeros_like(null[name]) for name in ("context", "pooled") if name in null}
        said = {name: [list(ids) for ids in lists] for name, lists in tokens.items()}
        return Told(conditions, null if bundle.guided else {}, {"tokens": said})


def refuse_text(settings: Settings, bundle: str) -> None:
    """Raise PlanError if a text is given to a network that takes none."""
    for name in ("prompt", "negative"):
        if getattr(settings, name) is not None:
            raise PlanError(f"{name}: {bundle} takes none")
