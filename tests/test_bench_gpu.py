"""The proof on a GPU: its processes, limits and files with parts that are stand-ins, its parts on the fake driver."""

import dataclasses
import importlib.util
import json
import socket
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_driver import FakeDriver
from torch_on_fake import use_torch_on

from sdedit.benchmarks import gpu, gpu_parts, gpu_programs
from sdedit.benchmarks.gpu_parts import Request
from sdedit.benchmarks.gpu_peers import TorchLoop
from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime.bundle import SHIPPED, Bundle, network_inputs, read_bundle
from sdedit.runtime.checks import gpu as gpu_checks
from sdedit.runtime.checks.parity import TOLERANCES
from sdedit.runtime.cuda import driver
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.torch_operators import OPERATORS
from sdedit.runtime.loop import Task
from sdedit.runtime.plan import make_plan

WAIT = 60
"""Seconds after which a test that hangs fails instead."""

SCRIPTS = {
    "good": 'import sys; open(sys.argv[1], \'w\').write(\'{"edits": 3, "speed": {"ms": 1.5}}\')',
    "crashing": "import os; os.abort()",
    "hanging": "import time; time.sleep(600)",
    "wrong": "raise SystemExit('7 of 48 values | differ')",
    "silent": "",
    "half": "import sys, time; open(sys.argv[1], 'w').write('{\"edits\": 3}'); sys.stderr.write('yet'); time.sleep(99)",
}


def command(name: str, file: Path) -> list[str]:
    return [sys.executable, "-c", SCRIPTS[name], str(file)]


def test_a_part_that_crashes_or_hangs_costs_itself_alone(tmp_path: Path) -> None:
    seconds = {"crashing": 20, "hanging": 1, "wrong": 20, "silent": 20, "good": 20}
    said: list[str] = []
    results = gpu.run_parts(seconds, tmp_path, command, said.append)
    assert {name: result["ok"] for name, result in results.items()} == {
        "crashing": False,
        "hanging": False,
        "wrong": False,
        "silent": False,
        "good": True,
    }
    assert results["crashing"]["why"].startswith("exit code -6")
    assert results["hanging"]["why"] == "it took more than 1 s: "
    assert results["wrong"]["why"] == "exit code 1: 7 of 48 values | differ"
    assert results["silent"]["why"] == "it found nothing"
    assert results["good"]["found"] == {"edits": 3, "speed": {"ms": 1.5}}
    assert said[-1] == "good: ok"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [*(f"{name}.{kind}" for name in seconds for kind in ("json", "log")), "gpu.json", "gpu.md"]
    )
    assert (tmp_path / "wrong.log").read_text() == "7 of 48 values | differ\n"
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    page = (tmp_path / "gpu.md").read_text()
    assert "## hanging\n\nFAILED" in page
    assert "| speed | ms 1.5 |" in page


def test_what_a_part_found_before_its_limit_is_kept(tmp_path: Path) -> None:
    result = gpu.run_parts({"half": 2}, tmp_path, command, str)["half"]
    assert (result["ok"], result["why"], result["found"]) == (False, "it took more than 2 s: yet", {"edits": 3})
    page = (tmp_path / "gpu.md").read_text()
    assert "FAILED" in page
    assert "| edits | 3 |" in page


def test_the_pages_are_there_after_each_part(tmp_path: Path) -> None:
    """A machine that is taken away in the middle leaves what it found."""

    def interrupted(name: str, file: Path) -> list[str]:
        if name == "wrong":
            raise KeyboardInterrupt
        return command(name, file)

    with pytest.raises(KeyboardInterrupt):
        gpu.run_parts({"good": 20, "wrong": 20}, tmp_path, interrupted, str)
    assert list(json.loads((tmp_path / "gpu.json").read_text())) == ["good"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes to end")
def test_the_children_of_a_part_end_with_it(tmp_path: Path) -> None:
    """A test run or a sanitizer would go on to use the GPU beside the next part."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        child = f"import socket, time; s = socket.create_connection({address!r}); print(flush=True); time.sleep(600)"
        started = f"c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)"
        script = f"import subprocess, sys; {started}; c.stdout.readline(); sys.exit('its child goes on')"
        why = gpu.why_it_failed([sys.executable, "-c", script], WAIT, tmp_path / "log")
        assert why == "exit code 1: its child goes on"
        server.settimeout(WAIT)
        connection, _ = server.accept()
    with connection:
        connection.settimeout(WAIT)
        assert connection.recv(1) == b""  # the child has ended


def test_what_has_ended_well_is_not_run_again(tmp_path: Path) -> None:
    first = gpu.run_parts({"good": 20, "wrong": 20}, tmp_path, command, str)
    ran: list[str] = []

    def again(name: str, file: Path) -> list[str]:
        ran.append(name)
        return command("good", file)

    second = gpu.run_parts({"good": 20, "wrong": 20}, tmp_path, again, str)
    assert ran == ["wrong"]
    assert second["good"] == first["good"]
    assert second["wrong"]["ok"]


def test_a_damaged_result_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"ok": tr')
    assert gpu.run_parts({"good": 20}, tmp_path, command, str)["good"]["ok"]
    assert json.loads((tmp_path / "good.json").read_text())["ok"] is True


def test_without_a_gpu_it_says_so_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-of-nowhere.so.1")
    monkeypatch.setattr(sys, "argv", ["gpu", "--bundle", "b", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "there is no NVIDIA driver here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_part_has_a_limit_and_all_together_stay_below_10_minutes() -> None:
    assert list(gpu.SECONDS) == list(gpu_parts.PARTS)
    assert sum(gpu.SECONDS.values()) < 600


@pytest.fixture
def request_(fake: FakeDriver, bundle_with_kernels: Bundle, monkeypatch: pytest.MonkeyPatch) -> Request:
    """engines would meet the fake driver, so there are none."""
    monkeypatch.setattr(gpu_checks, "ENGINES", {"cuda": ()})
    monkeypatch.setattr(gpu_parts, "installed_engines", lambda device: [])
    return Request(bundle_with_kernels, 0, True)


def test_parts_on_the_fake_driver(fake: FakeDriver, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_programs.shutil, "which", lambda program: None)
    assert dict(gpu_parts.machine(request_))["architecture"] == "sm89"
    assert dict(gpu_parts.doctor(request_))["kernels on the GPU"].startswith("ok")
    found = dict(gpu_parts.kernels(request_))
    assert found == {"edits with numpy's bits, cubin": 8, "edits with numpy's bits, ptx": 8}
    assert dict(gpu_parts.PARTS["sanitizers"](request_)) == {"compute-sanitizer": "not installed"}
    assert {file.split(".", 1)[1] for file in fake.loaded} == {"sm89.cubin", "ptx"}
    assert fake.fault is None
    assert fake.counts()["allocations"] == 0


def test_a_wrong_bit_fails_the_part(fake: FakeDriver, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu_parts.Copying.bind

    def almost(self: gpu_parts.Copying, inputs: object, out: object) -> object:
        evaluate = real(self, inputs, out)  # type: ignore[arg-type]

        def evaluate_wrongly() -> None:
            evaluate()
            out[0, 0, 0, 0] += 1  # type: ignore[index]

        return evaluate_wrongly

    monkeypatch.setattr(gpu_parts.Copying, "bind", almost)
    with pytest.raises(EngineError, match=r"^\d+ of 48 values of 4x4 differ, round 0, ptx False$"):
        gpu_parts.compare_bits(request_, 0, False)


def test_the_errors_behind_an_error_are_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """The one line for people hides them with `from None`."""
    try:
        try:
            raise ZeroDivisionError("the cause")
        except ZeroDivisionError:
            raise EngineError("the one line") from None
    except EngineError as error:
        gpu.print_all(error)
    printed = capsys.readouterr().err
    assert printed.index("the one line") < printed.index("ZeroDivisionError: the cause")


def test_a_program_that_fails_is_an_error_and_its_output_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    run = gpu_programs.last_line_of
    assert run("it", [sys.executable, "-c", "print('one'); print('two')"]) == "two"
    with pytest.raises(EngineError, match=r"^it, exit code 9: wrong$"):
        run("it", [sys.executable, "-c", "print('wrong'); raise SystemExit(9)"])
    assert capfd.readouterr().out.split() == ["one", "two", "wrong"]


def test_a_part_says_where_it_is_before_its_limit(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def waits(request: Request) -> gpu_parts.Found:
        time.sleep(1)
        yield "waited", 1

    monkeypatch.setattr(gpu_parts, "PARTS", {"waits": waits})
    arguments = ["waits", str(tmp_path / "found"), "--bundle", str(request_.bundle.path), "--seconds", "0.2"]
    gpu_parts.part_command.main(arguments, standalone_mode=False)
    assert "in waits" in capfd.readouterr().err
    assert json.loads((tmp_path / "found").read_text()) == {"waited": 1}


def test_speed_is_measured_in_every_way(fake: FakeDriver, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers mean nothing on the fake driver."""
    monkeypatch.setattr(gpu_parts, "of_size", lambda bundle, height, width: bundle)
    monkeypatch.setattr(gpu_parts, "timed", lambda gpu, function, rounds: (function(), 1.0)[1])
    found = dict(gpu_parts.speed(request_))
    assert set(found) == {
        "ms a step of 8 slots, eager",
        "ms a step of 8 slots, graph",
        "step kernel, 8 slots, GB/s",
        "copy of one array, 8 slots, GB/s",
        "whole edit",
    }
    assert fake.fault is None
    assert fake.counts()["allocations"] == 0


def test_engines_are_judged_and_timed(
    fake: FakeDriver, request_: Request, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engine torch in all its precisions, on torch's CPU. Its times mean nothing on the fake driver."""
    use_torch_on(fake, monkeypatch)
    monkeypatch.setattr(gpu_parts, "installed_engines", lambda device: ["torch"])
    monkeypatch.setattr(gpu_parts, "timed", lambda gpu, function, rounds: (function(), 1.0)[1])
    found = dict(gpu_parts.engines(request_))
    assert list(found) == ["torch, float32", "torch, float16", "torch, bfloat16"]
    for facts in found.values():
        assert facts.keys() >= {"version", "captured", "error", "accepted", "ms a step, 8 slots"}
        assert facts["accepted"]
        assert facts["captured"]
    assert fake.fault is None
    assert fake.counts()["allocations"] == 0


def test_an_engine_that_is_wrong_is_not_accepted(
    fake: FakeDriver, request_: Request, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_torch_on(fake, monkeypatch)
    monkeypatch.setitem(OPERATORS, "Mul", lambda torch, attributes, a, b: a * b * 1.01)  # type: ignore[misc]
    monkeypatch.setattr(gpu_parts, "timed", lambda gpu, function, rounds: 1.0)
    facts = gpu_parts.engine_facts(request_, "torch", "float32")
    assert facts["accepted"] is False
    assert 0.009 < facts["error"] < 0.011


@pytest.mark.parametrize("name", ["torch_loop", "official", "torch_compile", "diffusers"])
def test_peers_are_measured_or_named(
    request_: Request, one_thread: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On torch's CPU, the shipped network. Dynamo's own backend stands in for the compiler, which takes a minute."""
    peers = pytest.importorskip("sdedit.benchmarks.gpu_peers")
    monkeypatch.setattr(peers, "gpu_name", lambda index: "cpu")
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))
    found = dict(gpu_parts.PARTS[name](dataclasses.replace(request_, bundle=read_bundle(SHIPPED))))
    if name == "torch_loop":
        assert list(found) == ["eager, ms a step"]
    elif importlib.util.find_spec("diffusers") is None and name == "diffusers":
        assert found["diffusers"].startswith("not run: diffusers is not installed")
    else:
        assert list(found) == ["version", "error", "ms a step"]
        assert found["error"] <= TOLERANCES["float32"]
        assert ("diffusers" in found["version"]) == (name == "diffusers")


@pytest.mark.parametrize("name", ["torch_loop", "official", "torch_compile", "diffusers"])
def test_a_peer_that_cannot_run_here_says_why(request_: Request, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dict(gpu_parts.PARTS[name](request_))[name] == f"not run: torch {torch.__version__} finds no GPU"
    monkeypatch.setattr(gpu_parts, "not_installed", lambda packages: "torch is not installed")
    assert dict(gpu_parts.PARTS[name](request_)) == {name: "not run: torch is not installed"}


def test_a_peer_of_a_network_that_it_does_not_have_says_so(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = pytest.importorskip("sdedit.benchmarks.gpu_peers")
    monkeypatch.setattr(peers, "gpu_name", lambda index: "cpu")
    found = dict(gpu_parts.PARTS["official"](request_))
    assert found == {"official": "not run: the weights cannot be read back: its graph has no conv_in.weight"}


def test_the_torch_loop_is_the_same_edit(one_thread: None) -> None:
    """On torch's CPU, without noise: the peer does the work that it is compared in."""
    bundle = read_bundle(SHIPPED)
    plan = make_plan(bundle.schedule, bundle.prediction, t0=0.5, steps=3, sampler="ddim", keep="fresh")
    rows = plan.rows.copy()
    rows["k_z"] = 0
    plan = dataclasses.replace(plan, rows=rows, alpha0=1.0, sigma0=0.0)
    rng = np.random.default_rng(0)
    guide = rng.uniform(-1, 1, (3, 16, 16)).astype(np.float32)
    mask = rng.integers(0, 3, (16, 16)).astype(np.float32) / 2
    peer = TorchLoop(bundle, plan, guide, mask, "cpu")
    with torch.inference_mode():
        for at in range(3):
            peer.step(at)
    engine = load_engine(bundle, "onnxruntime", "float32", 1)
    device = CpuDevice(engine, network_inputs((3, 16, 16)), 1, twin())
    (expected,) = gpu_parts.results_of(device, [Task(plan, guide, mask, 0, 0)])
    assert np.abs(peer.x.numpy()[0] - expected).max() <= 1e-4
    assert np.abs(expected - guide).max() > 0.1
