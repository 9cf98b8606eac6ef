"""Several devices behind one server: who makes an edit, and what a lost device costs. test_cuda_several has GPUs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from command_line import Run, assert_mistake
from serving import COAST, WAIT, Gate, Served, fade, read_events, serving, wait_for
from stubs import stub_editor

from sdedit.errors import DeviceLostError, EngineError
from sdedit.runtime import Editor
from sdedit.serve.limits import Limits
from sdedit.serve.spreading import device_names, load_on_devices
from sdedit.serve.wire import text_of

LOST = "fake GPU failed in mid-edit: CUDA_ERROR_ILLEGAL_ADDRESS"


class Dying:
    """A network whose device is lost in its evaluation number `last`."""

    def __init__(self, last: int, network: Callable[[np.ndarray, float], np.ndarray] = fade) -> None:
        self.calls = 0
        self._last = last
        self._network = network

    def __call__(self, x: np.ndarray, time: float) -> np.ndarray:
        self.calls += 1
        out = self._network(x, time)
        if self.calls >= self._last:
            raise DeviceLostError(LOST)
        return out


def of_device(served: Served, name: str, device: str) -> float:
    return served.metric(f'sdedit_device_{name}{{device="{device}"}}')


def test_an_edit_goes_where_it_waits_the_least() -> None:
    gates = [Gate(), Gate()]
    editors = [{"earth": stub_editor(gate)} for gate in gates]
    with (
        serving(editors[0], Limits(wait_seconds=60), others={"cuda:1": editors[1]}, seconds=1.0) as served,
        ThreadPoolExecutor(4) as pool,
    ):
        edits = []
        for steps, waits in ((25, 0), (5, 5), (10, 15), (25, 25)):  # on the first; the others on the other
            edits.append(pool.submit(served.edit, guide=COAST, steps=steps))
            served.until("sdedit_edits_in_flight", len(edits))
            assert served.metric("sdedit_wait_seconds") == waits
        assert [of_device(served, "edits_in_flight", device) for device in ("cpu", "cuda:1")] == [1, 3]
        assert [of_device(served, "wait_seconds", device) for device in ("cpu", "cuda:1")] == [25, 40]
        for gate in gates:
            gate.open()
        assert [edit.result(WAIT).status_code for edit in edits] == [200] * 4
        assert [model["id"] for model in served.get("/v1/models").json()["data"]] == ["earth"]
        assert [of_device(served, "edits_total", device) for device in ("cpu", "cuda:1")] == [1, 3]


def test_a_lost_device_loses_no_edit_and_no_step_comes_twice() -> None:
    """Beside it, an edit on the other device. Its queue is full, but an edit that was taken is not refused."""
    gates = [Gate(), Gate()]
    with stub_editor(fade) as editor:
        expected = [editor.edit(COAST, steps=20, seed=seed).images[0].to_bytes() for seed in range(2)]
    dying, other = {"earth": stub_editor(Dying(9, gates[0]))}, {"earth": stub_editor(gates[1])}
    with (
        serving(dying, Limits(wait_seconds=15), others={"cuda:1": other}, seconds=1.0) as served,
        ThreadPoolExecutor(1) as pool,
    ):
        stream = served.edit(accept="text/event-stream", guide=COAST, steps=20, seed=0, preview_every=2)
        events = read_events(stream)
        seen = []
        for _ in range(8):  # one after another, so that the client sees them
            gates[0].permits.release()
            seen.append(next(events)[1])
        beside = pool.submit(served.edit, guide=COAST, steps=20, seed=1)
        served.until('sdedit_device_edits_in_flight{device="cuda:1"}', 1)
        gates[0].permits.release()
        served.until('sdedit_device_edits_in_flight{device="cuda:1"}', 2)
        gates[1].open()
        rest = [data for _, data in events]
        assert beside.result(WAIT).content == expected[1]
        steps = [data["step"] for data in [*seen, *rest[:-1]]]
        assert steps == sorted(set(steps))
        assert rest[-1]["b64_json"] == text_of(expected[0])
        assert [of_device(served, "lost", device) for device in ("cpu", "cuda:1")] == [1, 0]
        assert served.edit(guide=COAST, steps=1).status_code == 200
        assert [of_device(served, "edits_total", device) for device in ("cpu", "cuda:1")] == [1, 3]
        assert served.get("/readyz").status_code == 200


@pytest.mark.parametrize("devices", [1, 2])
def test_when_all_devices_are_lost_the_server_says_so(devices: int) -> None:
    others = {"cuda:1": {"earth": stub_editor(Dying(1))}} if devices == 2 else {}
    with serving({"earth": stub_editor(Dying(3))}, others=others) as served:
        assert served.edit(guide=COAST, steps=2).status_code == 200
        for _ in range(2):
            answer = served.edit(guide=COAST, steps=2)
            assert (answer.status_code, answer.json()["error"]["message"]) == (500, LOST)
        ready = served.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "lost\n")
        assert served.metric('sdedit_edits_total{outcome="failed"}') == 2


def test_an_error_that_is_no_loss_is_not_tried_elsewhere() -> None:
    others = {"cuda:1": {"earth": stub_editor(fade)}}
    with serving({"earth": stub_editor(lambda x, t: x * np.nan)}, others=others) as served:
        assert served.edit(guide=COAST, steps=2).status_code == 500
        assert of_device(served, "edits_total", "cuda:1") == 0
        assert of_device(served, "lost", "cpu") == 0


def test_a_client_that_goes_ends_its_edit_on_its_device() -> None:
    gate = Gate()
    with serving({"earth": stub_editor(gate)}, others={"cuda:1": {"earth": stub_editor(fade)}}) as served:
        stream = served.edit(accept="text/event-stream", guide=COAST, steps=400, t0=0.9)
        wait_for(lambda: gate.calls == 1)
        stream.close()
        served.until("sdedit_edits_in_flight", 0)
        assert of_device(served, "edits_in_flight", "cpu") == 0
        gate.open()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cpu", ["cpu"]),
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,cuda:1", ["cuda", "cuda:1"]),
        ("cuda:3,cuda", ["cuda:3", "cuda"]),
    ],
)
def test_devices_are_named_with_commas(text: str, names: list[str]) -> None:
    assert device_names(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "device '' is not one of cpu, cuda"),
        ("cuda,", "device '' is not one of cpu, cuda"),
        ("cuda, cuda:1", "device ' cuda:1' is not one of cpu, cuda"),
        ("cuda,cuda:0", "device 'cuda,cuda:0' names a GPU twice"),
        ("cpu,cuda", "device 'cpu,cuda': cpu stands alone, since its bytes are not a GPU's"),
        ("cpu,cpu", "device 'cpu,cpu': cpu stands alone"),
        ("cuda:0,all", "device 'all' is not one of cpu, cuda"),
    ],
)
def test_other_devices_are_one_line(text: str, message: str, run: Run) -> None:
    assert_mistake(run("serve", "--port", "0", "--device", text), message)


def test_all_gpus_need_a_driver(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit.runtime.cuda.driver.LIBRARY", "libnone.so")
    assert_mistake(run("serve", "--port", "0", "--device", "all"), "there is no NVIDIA driver here")


def test_if_a_device_does_not_open_the_others_are_closed() -> None:
    opened: list[Editor] = []

    def open_editor(device: str) -> Editor:
        if device == "cuda:1":
            raise EngineError("there is no GPU 1")
        opened.append(stub_editor(fade))
        return opened[-1]

    openers: dict[str | None, Callable[[str], Editor]] = {"earth": open_editor}
    with pytest.raises(EngineError, match="there is no GPU 1"):
        load_on_devices(["cuda", "cuda:1"], openers)
    with pytest.raises(EngineError, match="closed"):
        opened[0].edit(COAST, steps=1)
