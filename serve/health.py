"""Questions of machines that look after the server: does it live, does it take edits, how much did it do."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .native import desk_of
from .openapi import document

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def healthz(request: Request) -> Response:
    """200 as long as the process answers."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """200 if a new edit would be taken, else 503."""
    desk = desk_of(request)
    if desk.draining:
        return PlainTextResponse("ending\n", 503)
    if desk.backend.lost:
        return PlainTextResponse("lost\n", 503)
    if desk.wait > desk.limits.wait_seconds:
        return PlainTextResponse("full\n", 503)
    return PlainTextResponse("ready\n")


async def metrics(request: Request) -> Response:
    """Counters in Prometheus's format."""
    return Response(desk_of(request).telemetry.text(), media_type=METRICS_TYPE)


async def openapi(request: Request) -> Response:
    """The API's description."""
    return JSONResponse(document())


ROUTES: list[BaseRoute] = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
]
