"""Models that are loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdedit.errors import shown
from sdedit.runtime import Editor

from .problems import Problem


@dataclass(frozen=True)
class Model:
    """A loaded model. seconds: of one evaluation at the native size, measured when it was loaded."""

    name: str
    editor: Editor
    seconds: float

    @property
    def native_area(self) -> int:
        """Pixels of the native size."""
        return self.editor.bundle.image.height * self.editor.bundle.image.width


def load_models(open_editors: Mapping[str | None, Callable[[], Editor]]) -> dict[str, Model]:
    """Open an editor for each name (None: the bundle's own) and make two short edits with it.

    The first warms the engine up, the second is measured. Raises BundleError and EngineError; editors that were opened
    before are closed then.
    """
    models: dict[str, Model] = {}
    try:
        for name, open_editor in open_editors.items():
            editor = open_editor()
            given = editor.bundle.name if name is None else name
            models[given] = Model(given, editor, 1.0)  # before it is measured: so it is closed if that fails
            models[given] = Model(given, editor, measure(editor))
    except BaseException:
        close_models(models)
        raise
    return models


def close_models(models: Mapping[str, Model]) -> None:
    """Close the editors of models."""
    for model in models.values():
        model.editor.close()


def measure(editor: Editor) -> float:
    """Seconds of one evaluation at the native size."""
    bundle = editor.bundle
    guide = np.full((bundle.image.height, bundle.image.width, 3), 128, np.uint8)
    label = 0 if bundle.classes and bundle.null_label is None else None
    editor.edit(guide, t0=0.5, steps=1, label=label)
    timings = editor.edit(guide, t0=0.5, steps=1, label=label).timings
    return max(timings["loop"], 1e-4)


def choose(models: Mapping[str, Model], name: str | None) -> Model:
    """The model of that name; the first for None. Raises Problem 404."""
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise no_model(name, list(models))
    return models[name]


def no_model(name: str | None, names: Sequence[str]) -> Problem:
    """The answer for a model that is not loaded."""
    return Problem(404, f"model {shown(name)} is not one of {', '.join(names)}", "model_not_found")
