"""Export: checkpoint -> bundle -> engine gives what torch gives, or nothing is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from checkpoint_files import METADATA, run_torch, some_x, state
from command_line import Run, assert_mistake
from safetensors.torch import save_file

from sdedit.errors import BundleError, CheckpointError
from sdedit.export import bundle as export_module
from sdedit.export import onnx_graph
from sdedit.export.bundle import export_bundle, parity_levels
from sdedit.runtime import Bundle, Editor, read_bundle
from sdedit.runtime.bundle.manifest import ImageSpec, ScheduleSpec, Source
from sdedit.runtime.engines import open_engine
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.sde import cosine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def safetensors(exported_ddpm: Path) -> Path:
    return exported_ddpm / "tiny.safetensors"


@pytest.fixture(scope="module")
def half(exported_ddpm: Path) -> Bundle:
    return read_bundle(exported_ddpm / "bundle")


@pytest.fixture(scope="module")
def float32(safetensors: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of one size, as some targets need."""
    out = tmp_path_factory.mktemp("float32") / "tiny"
    return export_bundle(load_checkpoint(safetensors), out, name="tiny", licence="CC0", weights="float32", fixed=True)


FIXED = ("--fixed", "--weights", "float32")
"""Options of an export like that of `float32`."""


@pytest.fixture
def converted(float32: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of one size take the network that torch's exporter made for `float32`: that is most of their time."""
    monkeypatch.setattr(export_module, "to_onnx", lambda *_, **__: ir.load(float32.network))


def run_engine(bundle: Bundle, x: np.ndarray, time: float) -> np.ndarray:
    out = np.full_like(x, np.nan)
    open_engine(bundle).bind({"x": x, "time": np.float32([time])}, out)()
    return out


def relative(out: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(out - expected).max() / np.abs(expected).max())


# Bundles


@pytest.mark.parametrize("time", [0.0, 12.0, 99.0])
def test_the_engine_gives_what_torch_gives(safetensors: Path, float32: Bundle, time: float) -> None:
    x = some_x(float32.state_shape)
    expected = run_torch(load_checkpoint(safetensors).network, x, time)
    assert relative(run_engine(float32, x, time), expected) < export_module.TOLERANCE


def test_half_weights_round_as_much_as_is_reported(safetensors: Path, half: Bundle) -> None:
    x = some_x(half.state_shape)
    expected = run_torch(load_checkpoint(safetensors).network, x, 12.0)
    rounding = half.manifest.parity.weights_rounding
    assert 0 < rounding < 1e-2
    assert 0 < relative(run_engine(half, x, 12.0), expected) < 10 * rounding


def test_float32_weights_are_not_rounded(float32: Bundle) -> None:
    parity = float32.manifest.parity
    assert (parity.weights, parity.weights_rounding) == ("float32", 0.0)
    assert 0 < parity.max_relative_error <= export_module.TOLERANCE


def test_each_engine_agrees_at_each_of_five_levels(half: Bundle) -> None:
    parity = half.manifest.parity
    assert parity.engines.keys() == {"onnxruntime", "openvino"}
    for errors in parity.engines.values():
        assert len(errors) == len(parity.levels) == 5
        assert 0 < max(errors) <= export_module.TOLERANCE
    assert parity.max_relative_error == max(map(max, parity.engines.values()))


def test_half_is_about_half_as_large(half: Bundle, float32: Bundle) -> None:
    sizes = [bundle.manifest.files["network.onnx"].bytes for bundle in (half, float32)]
    assert 0.45 < sizes[0] / sizes[1] < 0.6


def test_the_manifest_says_what_the_checkpoint_said(safetensors: Path, half: Bundle) -> None:
    manifest = half.manifest
    assert manifest.name == "tiny"
    assert manifest.licence == "CC0"
    assert manifest.prediction == "v"
    assert manifest.image == ImageSpec(3, 16, 16, multiple_of=4, free=True, max_pixels=1024)
    assert manifest.schedule == ScheduleSpec("cosine", 100)
    assert manifest.source == Source("tiny.safetensors", load_checkpoint(safetensors).sha256)
    assert manifest.parity.levels == tuple(parity_levels(100))
    assert np.array_equal(half.schedule.table, cosine(100))


def test_levels_for_the_parity_are_levels_even_of_the_shortest_schedule() -> None:
    assert parity_levels(1000) == [1, 250, 500, 750, 1000]
    assert parity_levels(1) == [1, 1, 1, 1, 1]


def test_the_network_names_its_tensors_and_has_a_free_batch(half: Bundle) -> None:
    graph = onnx.load(half.network).graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    image = ["batch", 3, "height", "width"]
    assert shapes == {"x": image, "time": ["batch"], "out": image}


def test_any_batch_is_taken(safetensors: Path, float32: Bundle) -> None:
    """The runtime's engines fix it to 1; other hosts of the file need not."""
    session = onnxruntime.InferenceSession(str(float32.network), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, *float32.state_shape)).astype(np.float32)
    time = np.float32([0, 50, 99])
    (out,) = session.run(None, {"x": x, "time": time})
    network = load_checkpoint(safetensors).network
    for index in range(3):
        assert relative(out[index : index + 1], run_torch(network, x[index : index + 1], time[index])) < 1e-4


@pytest.mark.usefixtures("converted")
def test_weights_too_large_for_one_file_go_beside_it(
    safetensors: Path, float32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is lowered here; docs/checkpoints.md says how the real limit was tried."""
    monkeypatch.setattr(onnx_graph, "EXTERNAL_ABOVE", 1000)
    bundle = export_bundle(
        load_checkpoint(safetensors), tmp_path / "net", name="n", licence="", weights="float32", fixed=True
    )
    files = bundle.manifest.files
    assert files["network.onnx.data"].bytes > 5 * files["network.onnx"].bytes
    assert bundle.manifest.parity.engines.keys() == {"onnxruntime", "openvino"}
    x = some_x(bundle.state_shape)
    assert np.array_equal(run_engine(bundle, x, 3.0), run_engine(float32, x, 3.0))


def test_the_bundle_holds_no_path_of_this_machine(half: Bundle) -> None:
    folders = {Path.home(), Path.cwd(), Path(sys.prefix), Path(torch.__file__).parent, half.path.parents[1]}
    folders -= {Path("/")}
    for file in half.path.iterdir():
        data = file.read_bytes()
        assert [word for word in [*map(str, folders), "site-packages", ".py"] if word.encode() in data] == [], file.name


def test_the_bundle_edits(half: Bundle) -> None:
    guide = np.full((16, 16, 3), 128, np.uint8)
    result = Editor.open(half.path).edit(guide, steps=4)
    assert result.images[0].pil.size == (16, 16)


def test_the_command_line_exports_and_gives_the_same_bytes(safetensors: Path, half: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "export", safetensors]
    options = ["--out", tmp_path / "tiny", "--licence", "CC0", "--cubins", "sm80"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: torch's rounding may depend on it
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'tiny'}: tiny, ")
    _, *engines, kernels = done.stdout.splitlines()
    assert [line.split(":")[0] for line in engines] == ["  onnxruntime", "  openvino", "  at 8x20"]
    assert kernels == f"{tmp_path / 'tiny'}: tiny, kernels as PTX, sm80"
    for name in ("network.onnx", "schedule.npy", "reference.npy"):
        assert (tmp_path / "tiny" / name).read_bytes() == (half.path / name).read_bytes(), name
    files = read_bundle(tmp_path / "tiny").manifest.files
    assert {"kernels/kernels.json", "kernels/step.ptx", "kernels/step.sm80.cubin"} <= files.keys()


@pytest.mark.usefixtures("converted")
def test_a_card_goes_along(safetensors: Path, tmp_path: Path, run: Run) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Tiny\n")
    assert run("export", safetensors, "--out", tmp_path / "net", "--card", card, *FIXED)[0] == 0
    assert (tmp_path / "net" / "MODEL_CARD.md").read_text() == "# Tiny\n"
    _, stdout, _ = run("inspect", tmp_path / "net")
    assert f"card: {tmp_path / 'net' / 'MODEL_CARD.md'}" in stdout.splitlines()


@pytest.mark.parametrize(("data", "message"), [(None, "No such file"), (b"\xff", "codec"), (b"a" * 2**21, "larger")])
def test_a_card_that_is_none(safetensors: Path, tmp_path: Path, run: Run, data: bytes | None, message: str) -> None:
    card = tmp_path / "card.md"
    if data is not None:
        card.write_bytes(data)
    assert_mistake(run("export", safetensors, "--out", tmp_path / "net", "--card", card), message)
    assert not (tmp_path / "net").exists()


def test_a_dry_run_says_what_was_recognised_and_writes_nothing(safetensors: Path, run: Run) -> None:
    before = sorted(safetensors.parent.iterdir())
    code, stdout, _ = run("export", "--dry-run", safetensors, "--size", "16x32")
    facts = dict(line.split(": ", 1) for line in stdout.splitlines())
    assert code == 0
    assert facts == {
        "family": "DDPM network",
        "weights": "EMA",
        "parameters": f"{sum(t.numel() for t in state().values()):,}",
        "image": "3x16x32, sides are multiples of 4",
        "prediction": "v",
        "schedule": "cosine, 100 levels, sigma 0.02513 to 1",
        "labels": "none",
        "answers": "prediction v (from the file), schedule cosine (from the file), size 16x32 (given)",
    }
    assert sorted(safetensors.parent.iterdir()) == before


def test_without_out_nothing_can_be_written(safetensors: Path, run: Run) -> None:
    assert_mistake(run("export", safetensors), "Missing option '--out'")


# What is not written


@pytest.fixture
def old(float32: Bundle, tmp_path: Path) -> Path:
    """A bundle that was there before."""
    return Path(shutil.copytree(float32.path, tmp_path / "old"))


@pytest.mark.usefixtures("converted")
def test_nothing_is_replaced_where_the_verification_fails(
    safetensors: Path, old: Path, float32: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "TOLERANCE", 0.0)
    for out in (old, old.with_name("new")):
        with pytest.raises(
            BundleError, match=r"the exported network on .* differs from the reference by .*, more than 0e"
        ):
            export_bundle(load_checkpoint(safetensors), out, name="tiny", licence="CC0", weights="float32", fixed=True)
    assert list(old.parent.iterdir()) == [old]
    assert read_bundle(old).sha256 == float32.sha256


def assert_not_exported(checkpoint: Checkpoint, out: Path, message: str, **options: str) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises((BundleError, CheckpointError), match=message) as caught:
        export_bundle(checkpoint, out, name="tiny", licence="CC0", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(out.parent.iterdir()) == before


def test_a_folder_of_something_else_is_not_replaced(safetensors: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    assert_not_exported(load_checkpoint(safetensors), tmp_path / "photos", "exists and is not a bundle alone")
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_an_unknown_storage_of_weights(safetensors: Path, tmp_path: Path) -> None:
    message = "weights 'int8' is not one of half, float32"
    assert_not_exported(load_checkpoint(safetensors), tmp_path / "out", message, weights="int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_weights_that_make_no_network(tmp_path: Path, value: float) -> None:
    tensors = state()
    for key in ("conv_out.weight", "conv_out.bias"):
        tensors[key].fill_(value)
    save_file(tensors, tmp_path / "bad.safetensors", METADATA)
    message = "bad.safetensors: damaged: its network returns zeros, infinities or NaN"
    assert_not_exported(load_checkpoint(tmp_path / "bad.safetensors"), tmp_path / "out", message)


def test_weights_too_large_for_half(tmp_path: Path) -> None:
    tensors = state()
    tensors["conv_out.weight"] *= 1e8
    save_file(tensors, tmp_path / "large.safetensors", METADATA)
    message = "weights half cannot hold those of .*large.safetensors: choose float32"
    assert_not_exported(load_checkpoint(tmp_path / "large.safetensors"), tmp_path / "out", message)
