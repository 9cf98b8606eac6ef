"""The door for OpenAI's clients: POST /v1/images/edits, with the fields and answers of their API.

https://platform.openai.com/docs/api-reference/images/createEdit. Options of ours are taken as further fields.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sdedit.errors import shown
from sdedit.runtime.settings import OPTIONS

from ..answers import EventStream, attended
from ..desk import Running
from ..forms import Form, read_form
from ..native import desk_of, find_model
from ..pictures import accepted_size, has_transparency
from ..problems import Problem
from ..wire import EditRequest, Step, error_event, event, named, read_count, read_settings, text_of

MOST_PREVIEWS = 3
"""Most partial images of one stream; OpenAI's API has the same limit."""

IMAGE_FIELDS = ("image", "image[]")

NEUTRAL = {
    "quality": ("auto",),
    "background": ("auto", "opaque"),
    "output_format": ("png",),
    "response_format": ("b64_json",),
}
"""Values of fields that ask for nothing but what every answer is."""

USED = ("model", "n", "size", "stream", "partial_images", "prompt", "user", "session")

SAME = {"background": "opaque", "output_format": "png", "quality": "auto"}
"""Fields that every answer has in OpenAI's API."""

NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


async def post_edit(request: Request) -> Response:
    """Make an edit. The mask's transparent pixels may change; without a mask, the image's own."""
    desk = desk_of(request)
    with desk.arriving(request) as arrival:
        form = await read_form(arrival.request, desk.limits)
        data = next((form.files[name] for name in IMAGE_FIELDS if name in form.files), None)
        if data is None:
            raise Problem(400, "the file image is missing: send it as multipart/form-data")
        model = await find_model(request, named("model", form.fields.get("model", "")))
        by_alpha = "mask" in form.files
        if not by_alpha:
            async with desk.decoders:
                by_alpha = await asyncio.to_thread(has_transparency, data, "image", desk.limits)
        wanted, warnings = read_edit(form, data, model, by_alpha)
        running = desk.open(wanted, arrival)
        await attended(request, running, running.started())
    if form.fields.get("stream", "").lower() in ("true", "1"):
        return EventStream(running, events(running, warnings))
    finished = await attended(request, running, running.result())
    images = [{"b64_json": text_of(image.png), "recipe": image.recipe} for image in finished.images]
    size = size_of(finished.images[0].png)
    return JSONResponse({"created": int(time.time()), **SAME, "size": size, "data": images, "warnings": warnings})


def read_edit(form: Form, data: bytes, model: Mapping[str, Any], by_alpha: bool) -> tuple[EditRequest, list[str]]:
    """The edit that a form asks for, and what of it is not done. by_alpha: transparent pixels may change.

    Raises Problem, PlanError and ImageError.
    """
    unused = ("size",) if model["sdedit"]["text"] else ("size", "prompt")
    options = {name: text for name, text in form.fields.items() if name in OPTIONS and name not in unused}
    warnings = [
        f"{name} is not used"
        for name, text in form.fields.items()
        if name not in (*OPTIONS, *USED) and text not in NEUTRAL.get(name, ("",))
    ] + [f"file {shown(name)} is not used" for name in form.files if name not in (*IMAGE_FIELDS, "mask")]
    if "prompt" in unused and form.fields.get("prompt"):
        warnings.append(f"prompt is not used: {model['id']} takes no text")
    if form.fields.get("n"):
        options["images"] = form.fields["n"]
    size = form.fields.get("size", "auto") or "auto"
    if by_alpha:
        options["mask_from"] = "alpha"
        if size != "auto":
            warnings.append("size is not used: with a mask the result has the image's size")
    elif size != "auto":
        options["size"] = read_size(size, model)
    settings = read_settings(options)
    most = min(read_count("partial_images", form.fields.get("partial_images") or "0"), MOST_PREVIEWS)
    evaluations = settings.steps * settings.repeats * settings.images
    every = max(1, -(-evaluations // (most + 1))) if most else 0
    mask, session = form.files.get("mask"), named("session", form.fields.get("session", ""))
    return EditRequest(data, settings, mask, None, model["id"], every, session), warnings


def read_size(text: str, model: Mapping[str, Any]) -> str:
    """The option `size` of a text WIDTHxHEIGHT. Raises Problem 422 if the model does not take it."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    size = accepted_size(model, int(found[1]), int(found[2])) if found else None
    if size is None:
        about = model["sdedit"]
        native = f"{about['native']['width']}x{about['native']['height']}"
        other = f", or multiples of {about['multiple_of']} with at most {about['max_pixels']} pixels"
        raise Problem(422, f"size {shown(text)}: {model['id']} takes auto, {native}{other * about['free']}")
    return size


async def events(running: Running, warnings: list[str]) -> AsyncIterator[str]:
    """The events of OpenAI's stream: partial images, then a completed one for each image, or an error."""
    sent = 0
    async for step in running.steps():
        if step is None:
            yield ": waiting\n\n"
        elif step.preview is not None and sent < MOST_PREVIEWS:
            yield partial_event(step, sent)
            sent += 1
    if running.problem is not None:
        yield error_event(running.problem)
        return
    for image in running.task.result().images:
        picture = {"b64_json": text_of(image.png), "size": size_of(image.png), "created_at": int(time.time())}
        yield event("image_edit.completed", {**SAME, **picture, "usage": NO_TOKENS, "warnings": warnings})


def partial_event(step: Step, index: int) -> str:
    """The event of a preview."""
    assert step.preview is not None
    picture = {"b64_json": text_of(step.preview), "size": size_of(step.preview), "created_at": int(time.time())}
    return event("image_edit.partial_image", {**SAME, **picture, "partial_image_index": index})


def size_of(png: bytes) -> str:
    """WIDTHxHEIGHT of a PNG, from its header."""
    return f"{int.from_bytes(png[16:20], 'big')}x{int.from_bytes(png[20:24], 'big')}"


ROUTES: list[BaseRoute] = [Route("/v1/images/edits", post_edit, methods=["POST"])]
