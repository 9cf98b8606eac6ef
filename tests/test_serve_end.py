"""`sdedit serve` as a command: how it begins, what it refuses, and how it ends."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from command_line import Run, assert_mistake
from serving import COAST, WAIT, Gate, Served, read_events, serving, wait_for
from stubs import stub_editor

import sdedit.serve
from sdedit.serve.limits import Limits


def test_edits_under_way_are_finished_at_the_end() -> None:
    gate = Gate()
    with ThreadPoolExecutor(2) as pool:
        with serving({"earth": stub_editor(gate)}, Limits(grace_seconds=WAIT)) as served:
            waiting = [pool.submit(served.edit, guide=COAST, steps=3, seed=seed) for seed in range(2)]
            served.until("sdedit_edits_in_flight", 2)
            served.stop()
            wait_for(lambda: served.server.should_exit)
            wait_for(lambda: refused(served))
            gate.open()
        assert [edit.result(WAIT).status_code for edit in waiting] == [200, 200]


def refused(served: Served) -> bool:
    """Whether a new connection is refused; until then a new edit is."""
    try:
        assert served.edit(guide=COAST, steps=1).status_code == 503
    except requests.ConnectionError:
        return True
    return False


def test_edits_that_do_not_end_in_time_are_told() -> None:
    gate = Gate()
    with ThreadPoolExecutor(2) as pool:
        with serving({"earth": stub_editor(gate, slots=2)}, Limits(grace_seconds=0.2)) as served:
            png = pool.submit(served.edit, guide=COAST, steps=3)
            stream = served.edit(accept="text/event-stream", guide=COAST, steps=3)
            served.until("sdedit_edits_in_flight", 2)
            served.stop()
            answer, events = png.result(WAIT), list(read_events(stream))
            gate.open()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert events[-1][0] == "error"
        assert events[-1][1]["error"]["message"] == "the server is ending, and the edit was not done in time"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdedit", "serve", "--port", "0", "--threads", "1", "--no-page"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("sdedit serves earth64 at http://127.0.0.1:")
        url = line.split()[4]
        answer = requests.post(f"{url}/v1/edits", {"steps": "2"}, files={"guide": COAST}, timeout=WAIT)
        assert answer.status_code == 200
        assert requests.get(f"{url}/", timeout=WAIT).status_code == 404  # no page
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT)
    finally:
        process.kill()
        process.wait(WAIT)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == ["loading the shipped model"]


def test_an_address_of_others_needs_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDEDIT_API_KEY", raising=False)
    message = "--host 0.0.0.0 is reached from other machines: give --api-key or SDEDIT_API_KEY"
    assert_mistake(run("serve", "--host", "0.0.0.0", "--port", "0"), message)


def test_a_port_in_use_is_a_mistake(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_mistake(run("serve", "--port", port), f"--port {port}: Address already in use")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "a=", "--port", "0"], "'a=' is not NAME=PATH"),
        (["--bundle", "a=x", "--bundle", "a=y"], "each of several needs a name of its own"),
        (["--bundle", "x", "--bundle", "y"], "each of several needs a name of its own"),
        (["--host", "nowhere.invalid", "--api-key", "k"], "--host nowhere.invalid --port 8765: "),
        (["--max-wait", "0"], "'--max-wait'"),
        (["--bundle", "nowhere", "--port", "0"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, run: Run) -> None:
    code, stdout, stderr = run("serve", *arguments)
    assert (code, stdout) == (2, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("sdedit: ")
    assert message in last


def test_without_its_packages_it_names_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdedit, "serve", sdedit.serve)  # the import below would leave another module there
    for name in [name for name in sys.modules if name.startswith(("sdedit.serve", "starlette", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert_mistake(run("serve"), "pip install 'PATH[serve]'")
