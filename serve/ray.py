"""Ray Serve: the same server on several machines. `python -m sdedit.serve.ray --help`; docs/serving.md.

A Gateway has the ASGI application. It sends each edit to a replica of Edits, and again to another one if that dies.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.serve.ray")
    raise SystemExit

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from starlette.applications import Starlette

from sdedit.console import run_command
from sdedit.errors import shown
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, read_bundle

from .app import make_app
from .backend import LocalBackend, Tell, check_amount
from .described import describe
from .guard import is_loopback, served_hosts
from .limits import Limits
from .models import load_models, no_model
from .problems import overloaded
from .resending import Item, edit_items, resend
from .telemetry import Telemetry
from .wire import EditRequest, Finished

LOST = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError, ReplicaUnavailableError)
"""Errors of Ray that say that a replica or its node is gone."""

KEPT_MODELS = 3
"""Models that a replica keeps loaded."""


@dataclass(frozen=True)
class Plan:
    """A server on Ray.

    bundles: folders by the models' names, the same on every machine. hosts: names that clients ask for. key: None: no
    key. replicas: processes that make edits; as many as most_replicas when edits wait. threads, slots: of each.
    """

    bundles: Mapping[str, str]
    hosts: frozenset[str]
    key: str | None = None
    replicas: int = 1
    most_replicas: int = 1
    threads: int = 1
    slots: int = 4
    page: bool = True
    limits: Limits = field(default_factory=Limits)


@serve.deployment(
    max_ongoing_requests=4, max_queued_requests=32, graceful_shutdown_timeout_s=30, health_check_period_s=2
)
class Edits:
    """Makes edits: a process with the models that it was asked for last."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @serve.multiplexed(max_num_models_per_replica=KEPT_MODELS)
    async def backend(self, name: str) -> LocalBackend:
        """Load a model. One that is not kept any more closes itself when its last edit has ended."""
        plan = self._plan
        open_editor = partial(Editor.open, plan.bundles[name], threads=plan.threads, slots=plan.slots)
        return LocalBackend(await asyncio.to_thread(load_models, {name: open_editor}), plan.limits)

    async def edit(self, request: EditRequest) -> AsyncIterator[Item]:
        """Make an edit with the model that the call is for."""
        backend = await self.backend(serve.get_multiplexed_model_id())
        async for item in edit_items(backend, request):
            yield item


class RayBackend:
    """Backend whose edits are made by replicas of Edits. Ray's queue bounds how many wait."""

    wait = typical = 0.0
    lost = False

    def __init__(self, edits: Any, plan: Plan) -> None:
        """edits: a handle of Edits."""
        self._edits = edits
        self._limits = plan.limits
        self._models = [describe(name, read_bundle(path)) for name, path in plan.bundles.items()]

    async def models(self) -> list[dict[str, Any]]:
        return self._models

    async def edit(self, request: EditRequest, tell: Tell) -> Finished:
        """See Backend."""
        names = [model["id"] for model in self._models]
        name = names[0] if request.model is None else request.model
        if name not in names:
            raise no_model(name, names)
        check_amount(request, self._limits)
        call = self._edits.options(stream=True, multiplexed_model_id=name).edit
        try:
            return await resend(lambda: call.remote(replace(request, model=name)), LOST, tell)
        except (BackPressureError, DeploymentUnavailableError):
            raise overloaded("too many edits wait", 1) from None

    async def close(self) -> None:
        """Ray ends the replicas."""


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=64,
    health_check_period_s=2,
    graceful_shutdown_timeout_s=30,
    ray_actor_options={
        "num_cpus": 0,
        "resources": {"node:__internal_head__": 0.001},
    },  # where Ray's port is
)
@serve.ingress()
class Gateway:
    """Has the application: its jobs and sessions live in this one process."""

    def __init__(self, edits: Any, plan: Plan) -> None:
        self._edits = edits
        self._plan = plan

    def __serve_build_asgi_app__(self) -> Starlette:
        plan = self._plan

        async def open_backend() -> RayBackend:
            return await asyncio.to_thread(RayBackend, self._edits, plan)

        return make_app(
            open_backend, limits=plan.limits, telemetry=Telemetry(), hosts=plan.hosts, key=plan.key, page=plan.page
        )


def application(plan: Plan) -> Any:
    """The application for `ray.serve.run`."""
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": plan.threads}}
    if plan.most_replicas > plan.replicas:
        options["autoscaling_config"] = {
            "min_replicas": plan.replicas,
            "max_replicas": plan.most_replicas,
            "target_ongoing_requests": 2,
        }
    else:
        options["num_replicas"] = plan.replicas
    gateway, edits = cast(Any, Gateway), cast(Any, Edits)  # the decorators made deployments of them
    return gateway.bind(edits.options(**options).bind(plan), plan)


class NamedFolder(click.ParamType):
    """NAME=PATH of a bundle's folder."""

    name = "NAME=PATH"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            self.fail(f"{shown(value)} is not NAME=PATH", parameter, context)
        return name, str(Path(path).absolute())


@click.command()
@click.option("--bundle", "bundles", type=NamedFolder(), multiple=True, help="A model; may be given several times.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(1, 65535))
@click.option("--allow-host", multiple=True, help="Further host name that clients ask for.")
@click.option("--api-key", envvar="SDEDIT_API_KEY", help="Key that clients must send.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Processes that make edits.")
@click.option("--most-replicas", default=1, type=click.IntRange(1), help="As many when edits wait.  [default: as few]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Processors of each.")
@click.option("--slots", default=4, show_default=True, type=click.IntRange(1), help="Edits at once in each.")
@click.option("--no-page", is_flag=True, help="Serve the API without the page.")
def ray_command(
    bundles: tuple[tuple[str, str], ...],
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    api_key: str | None,
    no_page: bool,
    **numbers: Any,
) -> None:
    """Serve edits from all machines of a Ray cluster (RAY_ADDRESS, else this machine), until Ctrl-C."""
    if not is_loopback(host) and not api_key:
        raise click.UsageError(f"--host {host} is reached from other machines: give --api-key or SDEDIT_API_KEY")
    named = dict(bundles) or {read_bundle(SHIPPED).name: str(SHIPPED)}
    plan = Plan(named, frozenset(served_hosts(host, allow_host)), api_key, page=not no_page, **numbers)
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    serve.run(application(plan), name="sdedit", route_prefix="/")
    click.echo(f"sdedit serves {', '.join(named)} at http://{host}:{port} (Ctrl-C ends it)")
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()


def main() -> None:
    """Run the command as this process."""
    run_command(ray_command, "python -m sdedit.serve.ray")
