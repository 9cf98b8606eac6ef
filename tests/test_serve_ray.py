"""The server on Ray: a node dies while it makes edits, and every edit is answered."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

LONGEST = 280.0
"""Seconds after which the cluster is ended."""


ALONE = ("unshare", "--net")
"""Runs a program with no network but a loopback."""


def obstacle() -> str | None:
    """Why the cluster cannot run here, if it cannot."""
    if importlib.util.find_spec("ray") is None:
        return "ray is not installed: it is in the extra ray only"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "there is no unshare or no ip here"
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        return "a network namespace needs root"
    return None


@pytest.mark.slow
def test_a_node_that_dies_loses_no_edit(tmp_path: Path) -> None:
    """Ray's ports bind to the machine's address, so it runs in a network that has nothing but a loopback."""
    if reason := obstacle():
        pytest.skip(reason)
    here = Path(__file__).parent
    script = 'ip link set lo up && exec "$0" "$@"'
    process = subprocess.Popen(
        [*ALONE, "sh", "-c", script, sys.executable, str(here / "ray_cluster.py"), str(tmp_path / "result")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(here), "RAY_TMPDIR": "/tmp"},  # its sockets' paths must be short
    )
    try:
        out, _ = process.communicate(timeout=LONGEST)
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "result").exists(), out[-3000:]
    result = json.loads((tmp_path / "result").read_text(encoding="utf-8"))
    assert result["right"] == len(result["steps"]) == 8
    assert all(steps == sorted(set(steps)) for steps in result["steps"])
    assert result["mistakes"] == [404, 422]
    assert result["models"] == ["earth"]
