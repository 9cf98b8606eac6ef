"""The ASGI application: all routes behind the guard."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from sdedit.errors import SdeditError

from . import health, jobs, native
from .backend import Backend
from .desk import Desk
from .doors import a1111, openai
from .guard import Access, Guard
from .limits import Limits
from .problems import Problem, client_gone, problem_of
from .shedding import Shedder
from .telemetry import Telemetry

PAGE = Path(__file__).parent / "page"

ERRORS = (HTTPException, Problem, SdeditError, ClientDisconnect, OSError, Exception)

Open = Callable[[], Awaitable[Backend]]
"""Makes the backend, in the event loop that it will be used in."""


def make_app(
    open_backend: Open,
    *,
    limits: Limits,
    telemetry: Telemetry,
    hosts: Collection[str],
    key: str | None = None,
    page: bool = True,
) -> Starlette:
    """The application. hosts: names that it is asked by. key: needed by the API; None: no key. page: serve the page."""
    access = Access(hosts, key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        backend = await open_backend()
        app.state.desk = Desk(backend, limits, telemetry)
        app.state.shedder = Shedder(app.state.desk, access)
        app.state.shelf = jobs.Shelf(limits)
        try:
            yield
        finally:
            app.state.desk.drain()
            app.state.desk.cancel_all()
            await backend.close()

    routes: list[BaseRoute] = [*native.ROUTES, *jobs.ROUTES, *openai.ROUTES, *a1111.ROUTES, *health.ROUTES]
    if page and PAGE.is_dir():
        routes.append(Mount("/", StaticFiles(directory=PAGE, html=True)))
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, access=access, limits=limits, telemetry=telemetry)],
        exception_handlers=dict.fromkeys(ERRORS, on_error),
    )


async def on_error(request: Request, error: Exception) -> Response:
    """The answer to any error."""
    problem = client_gone() if isinstance(error, ClientDisconnect) else problem_of(error)
    as_json = problem.as_a1111() if request.url.path.startswith("/sdapi/") else problem.as_json()
    return JSONResponse(as_json, problem.status, problem.headers)
