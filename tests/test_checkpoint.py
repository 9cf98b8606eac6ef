"""Checkpoints: a network is read from its file's keys, what forms none is refused, and no file executes code."""

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import METADATA, Tensors, run_torch, some_x, state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import tiny_ddpm

from sdedit.errors import CheckpointError
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.sde import linear

pytestmark = pytest.mark.usefixtures("one_thread")

SAID: dict[str, str | int] = {"prediction": "eps", "schedule": "linear", "size": 16}
"""Answers that a file without metadata needs."""


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    save_file(state(), path, METADATA)
    return path


OFFICIAL_KEYS = {
    "temb.dense.0.weight",
    "temb.dense.1.bias",
    "conv_in.weight",
    "down.0.block.0.norm1.weight",
    "down.0.block.0.conv1.weight",
    "down.0.block.0.temb_proj.weight",
    "down.0.block.1.norm2.bias",
    "down.0.block.1.conv2.weight",
    "down.0.downsample.conv.weight",
    "down.2.block.0.nin_shortcut.weight",
    "down.4.attn.0.norm.weight",
    "down.4.attn.1.proj_out.bias",
    "down.5.block.1.conv2.bias",
    "mid.block_1.conv1.weight",
    "mid.attn_1.q.weight",
    "mid.attn_1.k.weight",
    "mid.attn_1.v.weight",
    "mid.attn_1.proj_out.weight",
    "mid.block_2.temb_proj.bias",
    "up.0.block.0.nin_shortcut.weight",
    "up.0.block.2.conv2.weight",
    "up.4.attn.2.q.weight",
    "up.5.block.2.conv1.weight",
    "up.5.upsample.conv.weight",
    "norm_out.weight",
    "conv_out.bias",
}
"""Some names in the checkpoints that the paper's authors gave out, of 256 x 256 pixels."""


def test_names_are_those_of_the_official_checkpoints() -> None:
    with torch.device("meta"):
        shapes = {key: list(value.shape) for key, value in DDPM(DDPMConfig()).state_dict().items()}
    assert shapes.keys() >= OFFICIAL_KEYS
    assert shapes["temb.dense.0.weight"] == [512, 128]
    assert shapes["down.2.block.0.nin_shortcut.weight"] == [256, 128, 1, 1]
    assert shapes["mid.attn_1.q.weight"] == [512, 512, 1, 1]
    assert shapes["up.0.block.0.nin_shortcut.weight"] == [128, 256, 1, 1]
    assert shapes["conv_out.weight"] == [3, 128, 3, 3]


def test_the_shape_of_a_network_is_read_from_its_keys(tmp_path: Path) -> None:
    config = DDPMConfig(size=32, width=32, width_multiples=(1, 2, 2), blocks=2, attention=(0, 2), patch=1)
    torch.save(DDPM(config).state_dict(), tmp_path / "net.ckpt")
    loaded = load_checkpoint(tmp_path / "net.ckpt", prediction="eps", schedule="linear", size=32)
    assert loaded.network.config == config
    assert (loaded.prediction, loaded.schedule_name) == ("eps", "linear")
    assert np.array_equal(loaded.schedule, linear(1000))


def test_a_pattern_is_read_from_its_keys(tmp_path: Path) -> None:
    network = tiny_ddpm(pattern=True)
    save_file(network.state_dict(), tmp_path / "net.safetensors", metadata=METADATA)
    loaded = load_checkpoint(tmp_path / "net.safetensors").network
    assert loaded.config == network.config
    x = some_x((3, 16, 16))
    assert np.array_equal(run_torch(loaded, x, 3.0), run_torch(network, x, 3.0))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_holds_the_same_network(tmp_path: Path, legacy: bool) -> None:
    tensors = state(patch=1)
    torch.save(tensors, tmp_path / "net.ckpt", _use_new_zipfile_serialization=not legacy)
    save_file(tensors, tmp_path / "net.safetensors")
    x = some_x((3, 16, 16))
    first, second = (
        run_torch(load_checkpoint(tmp_path / name, prediction="eps", schedule="linear", size=16).network, x, 3.0)
        for name in ("net.ckpt", "net.safetensors")
    )
    assert np.array_equal(first, second)
    assert np.array_equal(first, run_torch(tiny_ddpm(patch=1), x, 3.0))


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in state(patch=1).items()}, tmp_path / "net.ckpt")
    network = load_checkpoint(tmp_path / "net.ckpt", prediction="eps", schedule="linear", size=16).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_what_is_said_overrides_the_metadata(safetensors: Path) -> None:
    loaded = load_checkpoint(safetensors, prediction="x0", schedule="linear", size=32)
    assert (loaded.prediction, loaded.schedule_name, loaded.network.config.size) == ("x0", "linear", 32)
    assert len(loaded.schedule) == 100


def assert_refused(path: Path, message: str, **said: str | int) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, **said)  # type: ignore[arg-type] # by name
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing.ckpt", "cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"", "b''"),
        (b"all my weights\n", "b'all my w'"),
        (b"\x08\0\0\0\0\0\0\0", r"b'\\x08"),
        (b"\xff" * 8 + b"{}", r"b'\\xff"),
    ],
    ids=["empty", "text", "8 bytes", "endless header"],
)
def test_a_file_of_no_known_container(tmp_path: Path, data: bytes, begins: str) -> None:
    (tmp_path / "net.ckpt").write_bytes(data)
    assert_refused(tmp_path / "net.ckpt", f"is neither a safetensors nor a torch file; it begins with {begins}")


@pytest.mark.parametrize("kept", [0.999, 0.5])
def test_a_truncated_safetensors_file(safetensors: Path, tmp_path: Path, kept: float) -> None:
    data = safetensors.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: int(len(data) * kept)])
    assert_refused(tmp_path / "cut.safetensors", "damaged safetensors file: ")


@pytest.mark.parametrize("data", [b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80", b"\x80\x02.", b"\x80\x02}."])
def test_a_damaged_torch_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.ckpt").write_bytes(data)
    assert_refused(tmp_path / "net.ckpt", "not a torch file of tensors alone, or damaged: ")


def test_a_truncated_torch_file(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "net.ckpt")
    data = (tmp_path / "net.ckpt").read_bytes()
    (tmp_path / "net.ckpt").write_bytes(data[: len(data) // 2])
    assert_refused(tmp_path / "net.ckpt", "not a torch file of tensors alone, or damaged: ")


class Intruder:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_an_archive_that_is_larger_inside(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "net.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "net.ckpt") as source,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    assert_refused(tmp_path / "bomb.ckpt", "a compressed archive; a torch file is accepted")


def test_a_tensor_that_is_larger_than_its_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "view.ckpt")
    assert_refused(tmp_path / "view.ckpt", "accepted is a dict of float tensors by name")
    shared = torch.zeros(1000)
    torch.save({f"weight{index}": shared for index in range(100)}, tmp_path / "views.ckpt")
    assert_refused(tmp_path / "views.ckpt", "accepted is a dict of float tensors by name")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders there")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.ckpt")
    assert_refused(tmp_path / "net.ckpt", "is not a file")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"state_dict": t},
        lambda t: {"model": t, "step": np.int64(3), "loss": np.float32(1)},
        lambda t: {f"module.{name}": value for name, value in t.items()},
        lambda t: {"model": {f"_orig_mod.module.{name}": value for name, value in t.items()}},
        lambda t: [{f"module.{name}": value + 1 for name, value in t.items()}, {"state": {}}, 7, 7000, t],
        lambda t: {"model": {name: value + 1 for name, value in t.items()}, "ema": t},
        lambda t: {"ema": {"state_dict": t}, "model": {name: value + 1 for name, value in t.items()}},
    ],
    ids=["state_dict", "model", "DataParallel", "compiled", "the official list", "ema", "nested ema"],
)
def test_wrappers_are_taken_off_and_averages_come_first(tmp_path: Path, wrap: Callable[[Tensors], object]) -> None:
    tensors = state(patch=1)
    torch.save(wrap(tensors), tmp_path / "net.ckpt")
    network = load_checkpoint(tmp_path / "net.ckpt", **SAID).network
    assert torch.equal(network.state_dict()["conv_in.weight"], tensors["conv_in.weight"])


def test_what_a_file_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "path": tmp_path}, tmp_path / "net.ckpt")
    assert_refused(tmp_path / "net.ckpt", r"it asks for pathlib\.\w+, and no code that a file names is run")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_objects_is_refused_without_the_advice_to_run_it(tmp_path: Path, protocol: int) -> None:
    """EDM's files are such pickles."""
    content = {"ema": Intruder(tmp_path / "executed"), "loss_fn": None}
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert_refused(tmp_path / "edm.pkl", r"and no code that a file names is run: save its state_dict\(\)")
    assert not (tmp_path / "executed").exists()


def test_code_in_a_pickle_is_not_executed(tmp_path: Path) -> None:
    content = {"temb.dense.0.weight": torch.zeros(1), "evil": Intruder(tmp_path / "executed")}
    torch.save(content, tmp_path / "zip.ckpt")
    torch.save(content, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(content["evil"], protocol=2))
    for name in ("zip.ckpt", "legacy.ckpt", "raw.ckpt"):
        assert_refused(tmp_path / name, "not a torch file of tensors alone, or damaged: ")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        {"state_dict": {}},
        {"weight": torch.zeros(1, dtype=torch.int64)},
        {"weight": torch.zeros(1, dtype=torch.complex64)},
        {"weight": torch.zeros(1).to_sparse()},
        {"weight": torch.zeros(1, device="meta")},
    ],
    ids=["list", "nested", "integer", "complex", "sparse", "meta"],
)
def test_a_torch_file_of_something_else(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.ckpt")
    assert_refused(tmp_path / "net.ckpt", "accepted is a dict of float tensors by name", **SAID)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds a dict of nothing; accepted is a dict of float tensors by name"),
        ({"fc.weight": torch.zeros(1)}, r"holds no known network, by its keys \('fc\.weight', \.\.\.\)"),
        ({"temb.dense.0.weight": torch.zeros(1)}, r"no DDPM network: conv_in\.weight is not among its keys"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1), "b": torch.zeros(1)}, "a latent diffusion"),
        ({"encoder.conv_in.weight": torch.zeros(1)}, r"is an autoencoder \("),
    ],
)
def test_a_checkpoint_of_another_family(tmp_path: Path, tensors: Tensors, message: str) -> None:
    save_file(tensors, tmp_path / "adm.safetensors")
    assert_refused(tmp_path / "adm.safetensors", message, **SAID)


def test_all_that_keys_do_not_tell_is_asked_for_at_once(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "net.ckpt")
    options = r"--prediction eps\|v\|x0 --schedule linear\|scaled_linear\|cosine --size PIXELS\|HEIGHTxWIDTH"
    assert_refused(tmp_path / "net.ckpt", "the file does not state prediction, schedule, size: add " + options)
    assert_refused(tmp_path / "net.ckpt", "does not state schedule: add", prediction="eps", size=16)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prediction": "score"}, "prediction 'score' is not one of eps, v, x0"),
        ({"prediction": ""}, "prediction '' is not one of"),
        ({"schedule": "sigmoid"}, "schedule 'sigmoid' is not one of linear, scaled_linear, cosine"),
        ({"size": 18}, "size 18 is not a multiple of 4 in 1..16384"),
        ({"size": 0}, "size 0 is not a multiple of 4"),
        ({"size": -16}, "size -16 is not a multiple of 4"),
        ({"size": 1_000_000}, "size 1000000 is not a multiple of 4 in 1..16384"),
    ],
)
def test_what_is_said_wrongly(safetensors: Path, said: dict[str, str | int], message: str) -> None:
    assert_refused(safetensors, message, **said)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"prediction": "noise"}, "prediction 'noise' is not one of"),
        ({"betas": "sqrt"}, "schedule 'sqrt' is not one of"),
        ({"image_size": "big"}, "size 'big' is neither PIXELS nor HEIGHTxWIDTH"),
        ({"patch": "2.0"}, "patch or timesteps in its metadata is not a number"),
        ({"patch": "0"}, "conv_in takes 12 channels: no grey or RGB image in patches of 0"),
        ({"patch": "1"}, "conv_in takes 12 channels: no grey or RGB image in patches of 1"),
        ({"timesteps": "0"}, "timesteps 0 in its metadata is not in 1..1000000"),
        ({"timesteps": "1000000000000"}, "timesteps 1000000000000 in its metadata"),
    ],
)
def test_metadata_that_is_wrong(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    save_file(state(), tmp_path / "net.safetensors", METADATA | metadata)
    assert_refused(tmp_path / "net.safetensors", message)


def without(key: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(key)


def with_shape(key: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm_out.weight"), "does not fit the DDPM network that its keys describe: .*norm_out.weight"),
        (with_shape("extra", 1), "does not fit .*Unexpected key.*extra"),
        (with_shape("conv_out.weight", 24, 32, 3, 3), "does not fit .*size mismatch for conv_out.weight"),
        (with_shape("conv_in.weight", 32), r"damaged: conv_in.weight is \[32\]"),
        (with_shape("conv_in.weight", 33, 12, 3, 3), r"damaged: conv_in.weight is \[33, 12, 3, 3\]"),
        (with_shape("conv_in.weight", 2**40, 12, 0, 3), "damaged: conv_in.weight is"),
        (with_shape("conv_in.weight", 32, 16, 3, 3), "conv_in takes 16 channels: no grey or RGB image"),
        (without("down.1.block.0.conv1.weight"), "damaged: its down.* blocks do not form a U-Net of width 32"),
        (with_shape("down.1.block.0.conv1.weight", 2**40, 32, 0, 3), "damaged: its down.* blocks"),
        (with_shape("down.1.block.0.conv1.weight"), "damaged: its down.* blocks"),
        (with_shape("down.999999999999.block.0.conv1.weight", 1), "damaged: its down.* blocks"),
        (with_shape("down.0.block.999999999999.conv1.weight", 1), "does not fit"),
    ],
)
def test_tensors_that_form_no_network(tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    tensors = state()
    change(tensors)
    save_file(tensors, tmp_path / "net.safetensors", METADATA)
    assert_refused(tmp_path / "net.safetensors", message)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 3000), change=st.binary(min_size=1, max_size=4))
def test_a_damaged_safetensors_file_never_crashes(safetensors: Path, tmp_path: Path, at: int, change: bytes) -> None:
    data = safetensors.read_bytes()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data[:at] + change + data[at + len(change) :])
    try:
        loaded = load_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    else:
        message = json.dumps(loaded.prediction)
    assert len(message.splitlines()) == 1
