"""How a command of this project runs and ends: exit codes, one line for a mistake, and the streams it prints to.

What a command changes in its process (streams, warnings, the handling of Ctrl-C) is changed here and nowhere else.
"""

import io
import json
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import Any, NoReturn, TextIO

import click

from .errors import SdeditError, comes_from_interrupt, printable, reason

MISTAKE = 2
INTERRUPTED = 130
"""Exit codes: the user can correct it; the user pressed Ctrl-C."""


class StdoutError(SdeditError):
    """stdout cannot be written: the disk is full, or its reader has gone."""


class Stdout(io.FileIO):
    """The process's stdout. Its errors are told apart from those of other files."""

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override] # typeshed's buffer type has no name
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutError(f"stdout cannot be written: {reason(error)}") from None


class Number(click.FloatRange):
    """A finite number of the range. Every option that is a float has this type: click's own types accept NaN."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", parameter, context)
        return number


def run_command(command: click.Command, name: str) -> None:
    """Run the click command as this process. A mistake is one line on stderr, after `name`, and exit code 2."""
    prepare_streams()
    warnings.formatwarning = one_line
    try:
        command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt) as error:
        end_interrupted(error)
    except StdoutError as error:
        discard_stdout()
        fail(name, str(error))
    except Exception as error:
        if comes_from_interrupt(error):
            end_interrupted(error)
        message = mistake(error)
        if message is None:
            raise
        fail(name, message)


def end_interrupted(error: BaseException) -> NoReturn:
    """End the process after a Ctrl-C. Further ones are ignored while what the command used is freed.

    An editor waits then for the evaluation under way (15 s at most): onnxruntime aborts a process that ends during one.
    The old handling of Ctrl-C comes back afterwards, for a host that goes on.
    """
    own = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if own else None
    try:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__context__
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
    sys.exit(INTERRUPTED)


def mistake(error: Exception) -> str | None:
    """The line for an error that a user or their machine can cause, else None."""
    if isinstance(error, click.ClickException):
        return " ".join(error.format_message().split())
    if isinstance(error, SdeditError):
        return str(error)
    if isinstance(error, OSError):
        return reason(error) if error.filename is None else f"{os.fsdecode(error.filename)}: {reason(error)}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {reason(error)}" if str(error) else "not enough memory"
    return None


def to_json(value: object, *, indent: int | None = 2, sort_keys: bool = False) -> str:
    """The value as JSON. NaN and infinities, which JSON does not have, become null."""
    return json.dumps(without_nonfinite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def without_nonfinite(value: Any) -> Any:
    """The value with None in place of every float that is not finite, at any depth of dicts, lists and tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: without_nonfinite(inner) for name, inner in value.items()}
    return [*map(without_nonfinite, value)] if isinstance(value, list | tuple) else value


def fail(name: str, message: str) -> NoReturn:
    """Print the mistake on one line and end the process."""
    click.echo(f"{name}: {printable(message)}", err=True)
    sys.exit(MISTAKE)


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning for people: without the place in our code that raised it."""
    return f"{printable(' '.join(str(message).split()))}\n"


def prepare_streams() -> None:
    """Let stdout and stderr take any text, and exist; characters that they cannot encode are escaped."""
    for descriptor in range(3):  # a file opened later must not become the stdout or stderr of a library in C
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    own = sys.stdout is not None and sys.stdout is sys.__stdout__  # not one that a host put in its place
    stdout, stderr = sys.stdout or open_nowhere(), sys.stderr or open_nowhere()
    if own and not stdout.isatty():
        file = Stdout(stdout.fileno(), "wb", closefd=False)
        stdout = io.TextIOWrapper(io.BufferedWriter(file), encoding=stdout.encoding)
    for stream in (stdout, stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = stdout, stderr


def open_nowhere() -> TextIO:
    """A stream for text that nobody reads, open until the process ends."""
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123


def discard_stdout() -> None:
    """Send what is left in stdout's buffers nowhere, so that nothing fails again when the process ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)
