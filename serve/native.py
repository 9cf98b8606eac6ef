"""The native API: POST /v1/edits, and the models."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .answers import EventStream, attended, edit_events
from .desk import Desk, Running
from .forms import read_form
from .models import no_model
from .wire import JSON, PNG, STREAM, answer_kind, edit_json, read_request, server_timing


def desk_of(request: Request) -> Desk:
    """The desk of the server that got the request."""
    desk: Desk = request.app.state.desk
    return desk


async def post_edit(request: Request) -> Response:
    """Make an edit; the answer is a PNG, JSON or a stream of events."""
    desk = desk_of(request)
    with desk.arriving(request) as arrival:
        form = await read_form(arrival.request, desk.limits)
        wanted = read_request(form.files, form.fields)
        kind = answer_kind(request.headers.get("accept", ""), wanted.settings.images)
        running = desk.open(wanted, arrival)
        await attended(request, running, running.started())
    return await answer(request, running, kind)


async def answer(request: Request, running: Running, kind: str) -> Response:
    """The answer of an edit that was taken, as PNG, JSON or STREAM."""
    if kind == STREAM:
        return EventStream(running, edit_events(running))
    finished = await attended(request, running, running.result())
    timing = {"server-timing": server_timing(finished.timings)}
    if kind == JSON:
        return JSONResponse(edit_json(finished), headers=timing)
    return Response(finished.images[0].png, media_type=PNG, headers=timing)


async def find_model(request: Request, name: str | None) -> dict[str, Any]:
    """The model of that name as `describe` has it; the first for None. Raises Problem 404."""
    models = await desk_of(request).backend.models()
    for model in models:
        if name in (None, model["id"]):
            return model
    raise no_model(name, [model["id"] for model in models])


async def get_models(request: Request) -> Response:
    """List the models."""
    return JSONResponse({"object": "list", "data": await desk_of(request).backend.models()})


ROUTES: list[BaseRoute] = [
    Route("/v1/edits", post_edit, methods=["POST"]),
    Route("/v1/models", get_models, methods=["GET"]),
]
