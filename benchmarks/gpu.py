"""Prove the CUDA device on a real GPU: `python -m sdedit.benchmarks.gpu --bundle BUNDLE --out FOLDER [--quick]`.

BUNDLE has kernels and, if wanted, engines: `sdedit extend BUNDLE --cubins all --tensorrt all`. Nothing is downloaded.
Each part runs in a process of its own with a time limit, so a crash or a hang costs one part, and of that part only
what it had not found yet. FOLDER gets a JSON file and a log for each part, and after each part gpu.json with all of
them and gpu.md for people. Parts that FOLDER has already are not run again, so the command can be repeated after an
interruption; delete a part's file to run it again.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.gpu")
    raise SystemExit

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from sdedit.console import run_command, to_json
from sdedit.errors import EngineError
from sdedit.runtime.bundle import read_bundle, read_kernels
from sdedit.runtime.cuda.driver import probe

SECONDS: Mapping[str, int] = {
    "machine": 20,
    "kernels": 60,
    "tests": 60,
    "doctor": 50,
    "speed": 60,
    "engines": 85,
    "torch_loop": 40,
    "official": 40,
    "diffusers": 40,
    "torch_compile": 80,
    "sanitizers": 60,
}
"""Parts in the order in which they run, with their time limits in seconds: below 10 minutes together. The first import
of torch on a machine takes a third of a minute."""

SHOWN = 2000
"""Characters of a failed part's output that the pages tell; its log has all."""

BEFORE = 1.0
"""Seconds before its time limit at which a part prints where it is."""

ENDING = 10.0
"""Seconds in which a process that was killed ends."""

Command = Callable[[str, Path], Sequence[str]]
"""Name of a part, and the file that it writes -> the command that runs it."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="Bundle with GPU kernels.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--quick", is_flag=True, help="Fewer plans, shapes and repetitions.")
@click.option("--device", type=int, default=0, show_default=True, help="Number of the GPU.")
def gpu_command(bundle: Path, out: Path, quick: bool, device: int) -> None:
    """Prove the CUDA device on this machine's GPU, in less than 10 minutes."""
    probe(device)
    read_kernels(read_bundle(bundle))

    def command(part: str, file: Path) -> list[str]:
        options = ["--bundle", str(bundle), "--device", str(device), *(["--quick"] if quick else [])]
        options += ["--seconds", str(SECONDS[part] - BEFORE)]
        return [sys.executable, "-m", "sdedit.benchmarks.gpu_parts", part, str(file), *options]

    out.mkdir(parents=True, exist_ok=True)
    results = run_parts(SECONDS, out, command, click.echo)
    click.echo(f"{out / 'gpu.md'}")
    failed = [name for name, result in results.items() if not result["ok"]]
    if failed:
        raise EngineError(f"of {len(results)} parts failed: {', '.join(failed)}; {out / 'gpu.md'} says why")


def run_parts(
    seconds: Mapping[str, int], out: Path, command: Command, say: Callable[[str], object]
) -> dict[str, dict[str, Any]]:
    """Run the parts that `out` does not have, and write the pages after each.

    Returns all results by part: ok, seconds, found, and why if it failed.
    """
    results: dict[str, dict[str, Any]] = {}
    for name, limit in seconds.items():
        file = out / f"{name}.json"
        results[name] = read_result(file) or run_part(name, limit, file, command)
        write(out / "gpu.json", to_json(results) + "\n")
        write(out / "gpu.md", page(results))
        say(f"{name}: {'ok' if results[name]['ok'] else results[name]['why']}")
    return results


def read_result(file: Path) -> dict[str, Any] | None:
    """The result of a part that ended well in an earlier run; None if there is none."""
    result = read_object(file)
    return result if result.get("ok") is True else None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_part(name: str, limit: int, file: Path, command: Command) -> dict[str, Any]:
    """Run a part in a process of its own and write its result, whatever comes of the process."""
    begun = time.perf_counter()
    found = file.with_suffix(".found")
    found.unlink(missing_ok=True)
    why = why_it_failed(command(name, found), limit, file.with_suffix(".log"))
    facts = read_object(found)
    why = why or ("" if facts else "it found nothing")
    result: dict[str, Any] = {"ok": not why, "seconds": round(time.perf_counter() - begun, 1), "found": facts}
    if why:
        result["why"] = why
    found.unlink(missing_ok=True)
    write(file, to_json(result) + "\n")
    return result


def why_it_failed(command: Sequence[str], limit: int, log: Path) -> str:
    """Run a command, for `limit` seconds at most; returns why it failed, "" if it did not. Its output goes into `log`.

    At the limit its children end with it: they would use the GPU beside the parts that follow.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    if code == 0:
        return ""
    printed = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-SHOWN:]
    return f"{f'it took more than {limit} s' if code is None else f'exit code {code}'}: {printed}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children; on Windows the process alone."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(ENDING)


def print_all(error: BaseException | None) -> None:
    """Print the traceback of an error and of those behind it, which the one line for people hides."""
    while error is not None:
        traceback.print_exception(error, chain=False)
        error = error.__cause__ or error.__context__


def write(file: Path, text: str) -> None:
    """Write a file that is complete or not there."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(file)


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results for people: a table a part."""
    lines = ["# The CUDA device on this machine", ""]
    for name, result in results.items():
        lines += [f"## {name}", "", f"{'ok' if result['ok'] else 'FAILED'}, {result['seconds']} s", ""]
        if not result["ok"]:
            lines += [str(result["why"]), ""]
        if result["found"]:
            lines += ["| what | found |", "|---|---|"]
            lines += [f"| {what} | {said(value)} |" for what, value in result["found"].items()]
            lines.append("")
    return "\n".join(lines)


def said(value: Any) -> str:
    """A value in a cell of a table."""
    text = ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)
    return text.replace("|", "/")


def main() -> None:
    """Run the command as this process."""
    run_command(gpu_command, "sdedit.benchmarks.gpu")
