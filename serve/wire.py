"""Requests and answers as values: form fields to an edit, and an edit to JSON, a PNG or an event of a stream.

Everything here is a function of its arguments. Nothing that a client sends is taken as a path.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdedit.console import without_nonfinite
from sdedit.errors import PlanError, shown
from sdedit.runtime.settings import KINDS, OPTIONS, Settings

from .problems import Problem

PICTURES = ("guide", "mask", "base")
PREVIEW_EVERY = 3
"""Evaluations between two previews of a stream, unless the client says otherwise."""

MAX_NAME = 200
"""Longest name of a model or session."""

PNG, JSON, STREAM = "image/png", "application/json", "text/event-stream"


@dataclass(frozen=True)
class EditRequest:
    """An edit that a client asked for. It decides every byte of the result.

    guide, mask, base: encoded images. model: its name; None: the first. preview_every: evaluations between two
    previews, 0 for none. session: a new edit of a session cancels the one before it.
    """

    guide: bytes
    settings: Settings
    mask: bytes | None = None
    base: bytes | None = None
    model: str | None = None
    preview_every: int = 0
    session: str | None = None

    @property
    def pictures(self) -> dict[str, bytes]:
        """The pictures that were sent, by name."""
        found = {"guide": self.guide, "mask": self.mask, "base": self.base}
        return {name: data for name, data in found.items() if data is not None}

    @property
    def evaluations(self) -> int:
        """Network evaluations of all images."""
        return self.settings.steps * self.settings.repeats * self.settings.images


@dataclass(frozen=True)
class Step:
    """State of an edit after `step` of `steps` evaluations. preview: a PNG, if this step has one."""

    step: int
    steps: int
    image: int
    seconds_left: float | None = None
    preview: bytes | None = None


@dataclass(frozen=True)
class MadeImage:
    """One image of an edit: the PNG, which carries the recipe too."""

    png: bytes
    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished edit. timings: seconds by phase, and the number of evaluations."""

    images: tuple[MadeImage, ...]
    timings: Mapping[str, float]


def read_request(files: Mapping[str, bytes], fields: Mapping[str, str]) -> EditRequest:
    """An edit from a form's files and texts. Raises Problem, PlanError and ImageError."""
    for name in files:
        if name not in PICTURES:
            raise Problem(422, f"file {shown(name)} is not one of {', '.join(PICTURES)}")
    for name in PICTURES:
        if name in fields:
            raise Problem(422, f"{name} is sent as a text: send it as a file of the form")
    if "guide" not in files:
        raise Problem(400, "the file guide is missing: send it as multipart/form-data")
    rest = dict(fields)
    model, session = (named(name, rest.pop(name, "")) for name in ("model", "session"))
    every = rest.pop("preview_every", "")
    return EditRequest(
        files["guide"],
        read_settings(rest),
        files.get("mask"),
        files.get("base"),
        model,
        read_count("preview_every", every) if every else PREVIEW_EVERY,
        session,
    )


def named(name: str, text: str) -> str | None:
    """A name that a client chose; None for an empty one. It is only compared with others."""
    if len(text) > MAX_NAME:
        raise Problem(422, f"{name} {shown(text)} is longer than {MAX_NAME} characters")
    return text or None


def read_settings(fields: Mapping[str, str]) -> Settings:
    """Settings from texts; an empty text is an option that is not given. Raises Problem, PlanError and ImageError."""
    for name in fields:
        if name not in OPTIONS:
            raise Problem(422, f"field {shown(name)} is not one of {', '.join(OPTIONS)}, model, session, preview_every")
    return Settings(**{name: read_option(name, text) for name, text in fields.items() if text})


def read_option(name: str, text: str) -> Any:
    """The value of an option's text: a number where it should be one, else the text. Raises PlanError."""
    kind = KINDS[name]
    if kind is str or text == "random":
        return text
    try:
        return kind(text)
    except ValueError:
        raise PlanError(f"{name} {shown(text)} is not {'an integer' if kind is int else 'a number'}") from None


def read_count(name: str, text: str) -> int:
    """An integer of at least 0. Raises PlanError."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise PlanError(f"{name} {shown(text)} is not an integer of at least 0")
    return int(text)


def answer_kind(accept: str, images: int) -> str:
    """PNG, JSON or STREAM: what the Accept header asks for. Raises Problem if there is no such answer."""
    accepted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if STREAM in accepted:
        return STREAM
    if JSON in accepted:
        return JSON
    if not {"", "*/*", "image/*", PNG} & set(accepted):
        raise Problem(406, f"Accept {shown(accept)} has none of {PNG}, {JSON}, {STREAM}")
    if images > 1:
        raise Problem(406, f"{images} images do not fit into one PNG: send Accept: {JSON} or {STREAM}")
    return PNG


def edit_json(finished: Finished) -> dict[str, Any]:
    """The JSON answer of an edit."""
    images = [{"b64_json": text_of(image.png), "recipe": image.recipe} for image in finished.images]
    return {"created": int(time.time()), "output_format": "png", "images": images, "timings": finished.timings}


def server_timing(timings: Mapping[str, float]) -> str:
    """The Server-Timing header: milliseconds by phase."""
    return ", ".join(f"{phase};dur={1000 * s:.1f}" for phase, s in timings.items() if phase != "evaluations")


def text_of(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def event(name: str, data: Mapping[str, Any]) -> str:
    """One event of a stream."""
    text = json.dumps(without_nonfinite({"type": name, **data}), separators=(",", ":"), allow_nan=False)
    return f"event: {name}\ndata: {text}\n\n"


def step_event(step: Step, index: int) -> str:
    """The event of a step: a partial image if it has a preview, else progress. index: the preview's number, from 0."""
    data = {"step": step.step, "steps": step.steps, "image": step.image, "seconds_left": step.seconds_left}
    if step.preview is None:
        return event("image_edit.progress", data)
    picture = {"b64_json": text_of(step.preview), "partial_image_index": index, "output_format": "png"}
    return event("image_edit.partial_image", data | picture)


def finished_events(finished: Finished) -> str:
    """The last events of a stream: one for each image."""
    return "".join(
        event(
            "image_edit.completed",
            {
                "image": image.recipe["image"],
                "b64_json": text_of(image.png),
                "output_format": "png",
                "created_at": int(time.time()),
                "recipe": image.recipe,
                "timings": finished.timings,
            },
        )
        for image in finished.images
    )


def error_event(problem: Problem) -> str:
    """The last event of a stream that failed."""
    return event("error", problem.as_json() | {"status": problem.status})
