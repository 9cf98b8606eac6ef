"""The server under test: a process of its own, as `sdedit serve` starts it."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

START_SECONDS, END_SECONDS = 60.0, 60.0


class ServerProcess:
    """A running server of this machine."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process

    def memory(self, key: str = "VmRSS") -> float:
        """Resident memory in MiB, or its peak (VmHWM); NaN where there is no /proc."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return float("nan")
        found = re.search(rf"^{key}:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) / 1024 if found else float("nan")

    def forget_peak(self) -> None:
        """Let the peak of memory begin anew, where the system allows it."""
        try:
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        return await asyncio.wait_for(self._process.wait(), END_SECONDS)


@asynccontextmanager
async def server_process(arguments: Sequence[str] = ()) -> AsyncIterator[ServerProcess]:
    """Start a server with these options, and end it."""
    command = [sys.executable, "-m", "sdedit", "serve", "--port", "0", "--no-page", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        found = re.search(rb"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield ServerProcess(process, int(found[1]))
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), END_SECONDS)
            except TimeoutError:
                process.kill()
