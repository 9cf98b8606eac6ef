"""Hostile checkpoints: whatever would take unbounded memory or time is refused in one line that names the file."""

import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import state
from command_line import Run, assert_mistake
from safetensors.torch import save_file
from tiny import TINY

from sdedit.errors import CheckpointError, ImageError
from sdedit_ref.checkpoints import files, load_checkpoint
from sdedit_ref.training.crops import find_pictures
from sdedit_ref.training.run import new_run, resume, start_from

pytestmark = pytest.mark.usefixtures("one_thread")

ANSWERS: dict[str, str | int] = {"prediction": "eps", "schedule": "linear", "size": 16}
TEXT, GLOBAL, INT = b"X", b"c", b"J"


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, **ANSWERS)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def text(value: str) -> bytes:
    return TEXT + struct.pack("<I", len(value)) + value.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a global with arguments."""
    module, _, own = name.rpartition(".")
    return GLOBAL + f"{module}\n{own}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def whole(number: int) -> bytes:
    return INT + struct.pack("<i", number)


def nested_tuples(levels: int) -> bytes:
    """A tuple of two of itself, and so on: 2^levels parts in a few bytes."""
    return b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(levels))


def as_archive(path: Path, opcodes: bytes) -> Path:
    """A torch file of today whose pickle is {"a": the value of the opcodes}."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, pickle_of(opcodes) if name.endswith("data.pkl") else data)
    return path


def as_legacy(path: Path, opcodes: bytes) -> Path:
    """A torch file of before 1.6 with the same."""
    head = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + pickle_of(opcodes) + pickle.dumps([], 2))
    return path


def pickle_of(opcodes: bytes) -> bytes:
    return b"\x80\x02}" + text("a") + opcodes + b"s."


NUMPY = call("numpy.dtype", text("V1000000000"), b"\x89", b"\x88")
BOMBS: dict[str, tuple[bytes, str]] = {
    "wide numpy type": (call("numpy.core.multiarray.scalar", NUMPY), "numbers of numpy's type 'V1000000000'"),
    "list as arguments": (b"cnumpy\ndtype\n](" + text("V1000000000") + b"\x89\x88eR", "numpy's type 'None'"),
    "bytearray": (call("builtins.bytearray", whole(2**30)), r"it asks for builtins\.bytearray"),
    "tensor of a size": (call("torch.Tensor", whole(2**15), whole(2**15)), r"it asks for torch\.Tensor"),
    "storage of a size": (call("torch.UntypedStorage", whole(2**30)), r"it asks for torch\.UntypedStorage"),
    "hidden call": (
        call("torch._tensor._rebuild_from_type_v2", b"ctorch\nUntypedStorage\n", b"ctorch\nTensor\n", whole(9), b"}"),
        r"it asks for torch\.UntypedStorage",
    ),
    "key of nested tuples": (b"}" + nested_tuples(60) + b"K\x00s", "a tuple of more than 10000 parts"),
    "set of nested tuples": (
        call("builtins.set", b"](" + nested_tuples(60) + b"e"),
        "a tuple of more than 10000 parts",
    ),
    "odd encoding": (call("_codecs.encode", text("aaaa"), text("zlib")), "bytes in the encoding 'zlib'"),
    "large storage": (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(2**30) + b"tQ",
        "a storage of 1073741824 elements, more than the file holds",
    ),
}


@pytest.mark.parametrize("write", [as_archive, as_legacy])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_takes_memory_or_time_is_refused(
    bomb: str, write: Callable[[Path, bytes], Path], tmp_path: Path
) -> None:
    opcodes, message = BOMBS[bomb]
    assert_refused(write(tmp_path / "net.ckpt", opcodes), message)


def test_keys_of_storages_are_looked_at_too(tmp_path: Path) -> None:
    path = as_legacy(tmp_path / "net.ckpt", b"K\x00")
    data = path.read_bytes().removesuffix(pickle.dumps([], 2))
    path.write_bytes(data + b"\x80\x02](" + nested_tuples(60) + b"e.")
    assert_refused(path, "a tuple of more than 10000 parts")


def test_numbers_and_containers_of_training_scripts_still_load(tmp_path: Path) -> None:
    content = {
        "model": state(patch=1),
        "step": np.int64(3),
        "loss": np.float32(0.5),
        "best": np.float64(0.25),
        "milestones": {(1, 2): 3},
        "seen": {4, 5},
        "key": bytearray(b"abc"),
        "size": torch.Size([3, 4]),
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "half": torch.zeros(3, dtype=torch.bfloat16),
    }
    for legacy in (False, True):
        torch.save(content, tmp_path / "net.ckpt", _use_new_zipfile_serialization=not legacy)
        assert load_checkpoint(tmp_path / "net.ckpt", **ANSWERS).weights == "as trained"


def compressed(path: Path) -> bytes:
    torch.save({"weight": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path.with_name("bomb"), "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    return path.with_name("bomb").read_bytes()


def test_a_compressed_archive_of_a_version_to_come(tmp_path: Path) -> None:
    """torch inflates it, and Python's zipfile does not read it."""
    path = tmp_path / "net.ckpt"
    data = re.sub(rb"(PK\x01\x02..)..", lambda entry: entry[1] + b"\x64\x00", compressed(path), flags=re.DOTALL)
    path.write_bytes(data)
    assert_refused(path, "not a torch file of tensors alone, or damaged: zip file version 10.0")


def test_an_archive_that_holds_parts_twice(tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    torch.save(state(patch=1), path)
    with zipfile.ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        archive.writestr(name.upper(), archive.read(name))  # torch ignores case
    assert_refused(path, "its archive holds parts of the file twice")


def write_safetensors(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    packed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data)
    return path


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "message"),
    [
        ("F4", [2], 1, "tensor 'a' is of type float4_e2m1fn_x2"),
        ("F32", [2**63, 0], 0, "damaged safetensors file: "),
        ("F32", [2**64, 0], 0, "damaged safetensors file: "),
        ("C64", [1], 8, "tensor 'a' is of type complex64"),
        ("F6_E2M3", [4], 3, "damaged safetensors file: "),
        ("U16", [4], 8, "holds a dict of 'a'; accepted is a dict of float tensors"),
    ],
)
def test_odd_types_and_shapes_of_safetensors(
    dtype: str, shape: list[int], size: int, message: str, tmp_path: Path
) -> None:
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    assert_refused(write_safetensors(tmp_path / "net.safetensors", header, bytes(size)), message)


def test_a_network_of_thousands_of_levels(tmp_path: Path) -> None:
    tensors = {name: value for name, value in state(patch=1).items() if not name.startswith("down.")}
    weight = torch.zeros(32, 1, 1, 1)
    levels = {f"down.{level}.block.0.conv1.weight": weight.clone() for level in range(15_000)}
    save_file({**tensors, **levels}, tmp_path / "net.safetensors")
    assert_refused(tmp_path / "net.safetensors", "halves images more often than sides of at most 16384 allow")


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"step": 3}
    for name in ("state_dict", "model", "network", "net", "unet", "params", "other", "more"):
        content[name] = content
    torch.save(content, tmp_path / "net.ckpt")
    assert_refused(tmp_path / "net.ckpt", "accepted is a dict of float tensors by name")
    content["ema"] = {}
    content["ema"].update({f"shadow{number}": content["ema"] for number in range(100)})
    torch.save(content, tmp_path / "net.ckpt")
    assert_refused(tmp_path / "net.ckpt", "ema should hold averaged weights, but has no float tensors")


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_safetensors(path, {"a": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}})
    try:
        os.truncate(path, path.stat().st_size + 2**42)
    except OSError:
        pytest.skip("this file system has no files of that size")
    assert_refused(path, r"has 4398\.0 GB, more than this machine's memory")


def test_want_of_memory_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    torch.save(state(patch=1), tmp_path / "net.ckpt")
    monkeypatch.setattr(torch, "load", full)
    assert_refused(tmp_path / "net.ckpt", r"not enough memory for its \d+\.\d GB")
    monkeypatch.setattr(torch, "load", lambda *_, **__: torch.zeros(2**62))
    assert_refused(tmp_path / "net.ckpt", "not enough memory: |not a torch file")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders there")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, run: Run) -> None:
    for name in ("card.md", "picture.png", "start.safetensors", "state.pt"):
        os.mkfifo(tmp_path / name)
    assert_refused(Path("/dev/zero"), "/dev/zero is not a file")
    torch.save(state(patch=1), tmp_path / "net.ckpt")
    answers = ["--prediction", "eps", "--schedule", "linear", "--size", "16"]
    card = ["--out", tmp_path / "bundle", "--card", tmp_path / "card.md"]
    assert_mistake(run("export", tmp_path / "net.ckpt", *answers, *card), "card.md is not a file")
    for picture in (tmp_path / "picture.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is not a file"):
            find_pictures(picture, 8)
    new = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    with pytest.raises(CheckpointError, match=r"start\.safetensors is not a file"):
        start_from(new, tmp_path / "start.safetensors", {})
    with pytest.raises(CheckpointError, match=r"state\.pt is not a file"):
        resume(new, tmp_path, {})


def test_the_check_of_a_pickle_reads_to_its_end(tmp_path: Path) -> None:
    """A version that the reader refuses, torch does not load either."""
    torch.save({"model": state(patch=1), "step": 3}, tmp_path / "net.ckpt")
    with zipfile.ZipFile(tmp_path / "net.ckpt") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        data = io.BytesIO(archive.read(name) + b"rest")
    files.check_pickle(data, 10**6)
    assert data.read() == b"rest"
