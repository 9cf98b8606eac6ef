"""/v1/jobs: edits whose answers are fetched later. Gateways close a request that takes longer than about 100 s."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .answers import attended
from .desk import Running
from .forms import read_form
from .limits import Limits
from .native import desk_of
from .problems import Problem
from .wire import PNG, read_request


class Shelf:
    """Jobs by id. Finished ones are kept for some time, and no more than fit the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: dict[str, Running] = {}

    def add(self, running: Running) -> None:
        """Keep a job until it is dropped, or so long after its end."""
        self._jobs[running.id] = running
        running.task.add_done_callback(lambda _: self._ended(running))

    def find(self, name: str) -> Running:
        """The job of that id. Raises Problem 404."""
        if name not in self._jobs:
            raise Problem(404, "there is no such job: results are kept for a limited time", "job_not_found")
        return self._jobs[name]

    def drop(self, running: Running) -> None:
        """Forget a job."""
        self._jobs.pop(running.id, None)

    def _ended(self, running: Running) -> None:
        asyncio.get_running_loop().call_later(self._limits.kept_seconds, self.drop, running)
        finished = [job for job in self._jobs.values() if job.done]
        while len(finished) > self._limits.kept_jobs or sum(map(size_of, finished)) > self._limits.kept_bytes:
            self.drop(finished.pop(0))


def size_of(running: Running) -> int:
    """Bytes of the images of a job that has ended."""
    return 0 if running.problem is not None else sum(len(image.png) for image in running.task.result().images)


def describe(running: Running) -> dict[str, Any]:
    """A job as JSON."""
    step = running.newest
    problem = running.problem
    status = "done" if problem is None else "cancelled" if problem.status in (409, 499) else "failed"
    described: dict[str, Any] = {
        "id": running.id,
        "status": status if running.done else "running",
        "created": int(running.created),
        "step": step.step if step else 0,
        "steps": step.steps if step else None,
        "seconds_left": step.seconds_left if step else None,
    }
    if problem is not None:
        return described | problem.as_json()
    if running.done:
        finished = running.task.result()
        images = [
            {"url": f"/v1/jobs/{running.id}/images/{number}", "recipe": image.recipe}
            for number, image in enumerate(finished.images)
        ]
        return described | {
            "step": described["steps"],
            "seconds_left": 0.0,
            "images": images,
            "timings": finished.timings,
        }
    return described


def shelf_of(request: Request) -> Shelf:
    """The shelf of the server that got the request."""
    shelf: Shelf = request.app.state.shelf
    return shelf


async def post_job(request: Request) -> Response:
    """Begin an edit and answer at once; errors in its arguments are found here."""
    desk = desk_of(request)
    with desk.arriving(request) as arrival:
        form = await read_form(arrival.request, desk.limits)
        running = desk.open(read_request(form.files, form.fields), arrival)
        await attended(request, running, running.started())
    shelf_of(request).add(running)
    return JSONResponse(describe(running), 202, {"location": f"/v1/jobs/{running.id}"})


async def get_job(request: Request) -> Response:
    """Look at a job."""
    return JSONResponse(describe(shelf_of(request).find(request.path_params["job"])))


async def delete_job(request: Request) -> Response:
    """Cancel a job that runs; forget one that has ended."""
    shelf = shelf_of(request)
    running = shelf.find(request.path_params["job"])
    if running.done:
        shelf.drop(running)
        return JSONResponse(describe(running))
    running.cancel(Problem(409, "the edit was cancelled", "cancelled"))
    await asyncio.wait([running.task])
    return JSONResponse(describe(running))


async def get_image(request: Request) -> Response:
    """An image of a job that is done."""
    running = shelf_of(request).find(request.path_params["job"])
    number = request.path_params["number"]
    if not running.done:
        raise Problem(409, "the job is not done", "not_done")
    if running.problem is not None:
        raise running.problem
    images = running.task.result().images
    if number >= len(images):
        raise Problem(404, f"image {number} is not in 0..{len(images) - 1}", "image_not_found")
    return Response(images[number].png, media_type=PNG)


ROUTES: list[BaseRoute] = [
    Route("/v1/jobs", post_job, methods=["POST"]),
    Route("/v1/jobs/{job}", get_job, methods=["GET"]),
    Route("/v1/jobs/{job}", delete_job, methods=["DELETE"]),
    Route("/v1/jobs/{job}/images/{number:int}", get_image, methods=["GET"]),
]
