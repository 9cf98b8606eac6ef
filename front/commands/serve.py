"""sdedit serve: edits over HTTP."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Number
from ..errors import EngineError, install_hint, printable, raise_interrupt, reason
from .options import Decorator, GroupedCommand, engine_options, option, together

if TYPE_CHECKING:
    from sdedit.runtime import Editor

LIMITS = "What it refuses"


class NamedBundle(click.ParamType):
    """PATH or NAME=PATH of a bundle's folder."""

    name = "[NAME=]PATH"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> tuple[str | None, Path | None]:
        if isinstance(value, tuple):
            return value
        name, equals, path = value.partition("=")
        if equals and not (name and path):
            self.fail(f"{value!r} is not NAME=PATH", parameter, context)
        return (name, Path(path)) if equals else (None, Path(value))


def limit(flag: str, field: str, default: float, kind: click.ParamType, help: str) -> Decorator:  # noqa: A002
    """The option of one field of Limits."""
    return option(LIMITS, flag, field, default=default, show_default=True, type=kind, help=help)


SECONDS, COUNT = Number(min=0, min_open=True), click.IntRange(1)

LIMIT_OPTIONS = (
    limit("--max-wait", "wait_seconds", 10.0, SECONDS, "Longest estimated wait of an edit that is taken (seconds)."),
    limit("--max-pixels", "pixels", 4096 * 4096, COUNT, "Largest picture that is taken (pixels)."),
    limit("--max-body", "body_bytes", 32 << 20, COUNT, "Largest request that is taken (bytes)."),
    limit("--max-evaluations", "evaluations", 1000, COUNT, "Most network evaluations of an edit, at the native size."),
    limit("--receive-within", "receive_seconds", 20.0, SECONDS, "Time in which a request must arrive (seconds)."),
    limit("--grace", "grace_seconds", 30.0, SECONDS, "Time for edits to end after Ctrl-C or SIGTERM (seconds)."),
)


@click.command(cls=GroupedCommand, epilog="Example: sdedit serve --bundle earth=earth64 --bundle church --port 8765")
@click.option(
    "--bundle",
    "bundles",
    type=NamedBundle(),
    multiple=True,
    help="Folder of a model, and the name that clients know it by; may be given several times.  "
    "[default: the shipped model]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. One that other machines reach needs a key.",
)
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--allow-host", multiple=True, help="Further host name that clients ask for, such as a reverse proxy's.")
@click.option(
    "--api-key", envvar="SDEDIT_API_KEY", help="Key that clients must send. Better: the variable SDEDIT_API_KEY."
)
@click.option("--no-page", is_flag=True, help="Serve the API without the page.")
@together(LIMIT_OPTIONS, engine_options(slots=2, several_gpus=True))
def serve_command(
    bundles: tuple[tuple[str | None, Path | None], ...],
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    api_key: str | None,
    no_page: bool,
    **options: Any,
) -> None:
    """Serve edits over HTTP, and a page to paint on, until Ctrl-C or SIGTERM."""
    try:
        from sdedit.serve.app import make_app
        from sdedit.serve.guard import is_loopback, served_hosts
        from sdedit.serve.limits import Limits
        from sdedit.serve.server import address_of, bind, make_server, run_server
        from sdedit.serve.spreading import SpreadingBackend, device_names, load_on_devices
        from sdedit.serve.telemetry import Telemetry
    except ImportError as error:
        raise_interrupt(error)
        raise EngineError(f"{error.name or error} is not installed: {install_hint('serve')}") from None

    if not is_loopback(host) and not api_key:
        raise click.UsageError(f"--host {host} is reached from other machines: give --api-key or SDEDIT_API_KEY")
    wanted = dict(bundles or ((None, None),))
    if len(wanted) < len(bundles):
        raise click.UsageError("--bundle: each of several needs a name of its own, NAME=PATH")
    devices = device_names(options.pop("device"))
    limits = Limits(**{field.name: options.pop(field.name) for field in fields(Limits) if field.name in options})
    telemetry = Telemetry()
    try:
        bound = bind(host, port)
    except OSError as error:
        raise click.UsageError(f"--host {host} --port {port}: {reason(error)}") from None
    with bound:
        open_editors = {name: partial(open_editor, path, options) for name, path in wanted.items()}
        models = load_on_devices(devices, open_editors)

        async def open_backend() -> SpreadingBackend:
            return SpreadingBackend(models, limits, telemetry)

        hosts = served_hosts(host, allow_host)
        app = make_app(open_backend, limits=limits, telemetry=telemetry, hosts=hosts, key=api_key, page=not no_page)
        line = f"sdedit serves {printable(', '.join(models[devices[0]]))} at {address_of(bound)} (Ctrl-C ends it)"
        run_server(make_server(app, limits, telemetry, lambda: click.echo(line)), bound)


def open_editor(path: Path | None, options: dict[str, Any], device: str) -> "Editor":
    """Load a model on a device and say so on stderr."""
    from sdedit.runtime import Editor

    there = "" if device == "cpu" else f" on {device}"
    click.echo(f"loading {printable(str(path or 'the shipped model'))}{there}", err=True)
    return Editor.open(path, device=device, **options)
