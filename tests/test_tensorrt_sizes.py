"""TensorRT engines of free sizes and of int8: built for real without a GPU, run in a stand-in on the fake driver."""

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_driver import FakeDriver
from onnx import helper, numpy_helper
from stand_in_tensorrt import StandInTensorRt, in_place_of_tensorrt
from tiny import model, write_free_bundle

from sdedit.errors import EngineError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, read_bundle, write_manifest
from sdedit.runtime.bundle.engines import read_engines
from sdedit.runtime.engines.tensorrt_build import RTX, profile_of, read_header


def halving_in_int8() -> onnx.ModelProto:
    """out = x / 2 as a convolution between QDQ nodes, as NNCF writes them: int8, symmetric."""
    scale, zero = numpy_helper.from_array(np.float32(4 / 127), "scale"), numpy_helper.from_array(np.int8(0), "zero")
    weight = numpy_helper.from_array((np.eye(3) * 64).astype(np.int8).reshape(3, 3, 1, 1), "weight")
    weight_scale = numpy_helper.from_array(np.float32(1 / 128), "weight_scale")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "zero"], ["w"]),
        helper.make_node("Conv", ["dq", "w"], ["out"]),
    ]
    return model(nodes, [scale, zero, weight, weight_scale], free=True)


@pytest.fixture(scope="module")
def with_engines(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Engines built by the command line in a process of its own: here TensorRT would meet other tests' fake driver."""
    pytest.importorskip(RTX, reason="tensorrt-rtx is not installed: pip install '.[cuda]'")
    folder = tmp_path_factory.mktemp("engines")
    source = write_free_bundle(folder / "plain")
    manifest = json.loads((source / "bundle.json").read_bytes())
    (source / "variants").mkdir()
    onnx.save(halving_in_int8(), source / "variants" / "int8.onnx")
    (source / "variants" / "variants.json").write_text(json.dumps({"int8": {"file": "int8.onnx"}}))
    write_manifest(source, manifest)
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "extend", str(source)]
    parts = ["--tensorrt", "sm75,sm89", "--engine-precision", "float32,int8", "--cubins", "sm89", "--engine-batch", "2"]
    done = subprocess.run(
        [*command, "--out", str(folder / "bundle"), *parts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_bundle(folder / "bundle")


@pytest.fixture
def fake(fake_library: ctypes.CDLL, with_engines: Bundle) -> Iterator[FakeDriver]:
    fake = FakeDriver(fake_library, with_engines.path / "kernels")
    yield fake
    fake.stop()


@pytest.fixture
def stand_in(
    fake: FakeDriver, with_engines: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> StandInTensorRt:
    stand_in = in_place_of_tensorrt(fake, with_engines, lambda x: x * np.float32(0.5), monkeypatch, tmp_path)
    stand_in.most = (32, 32)
    return stand_in


def test_an_int8_engine_is_built_from_the_variant(with_engines: Bundle) -> None:
    """Not for sm75, because the network computes in float32 besides."""
    entries = {entry.precision: entry for entry in read_engines(with_engines)}
    assert set(entries) == {"float32", "int8"}
    int8 = entries["int8"]
    assert int8.network == "variants/int8.onnx"
    assert int8.network_sha256 == with_engines.manifest.files[int8.network].sha256
    assert read_header((with_engines.path / "engines" / int8.file).read_bytes()) == (int8.version, ("sm89",))
    assert 0 < int8.error <= 4 / 127  # a step of the input, of the largest output at each level


def test_an_engine_takes_the_sizes_up_to_max_pixels(with_engines: Bundle) -> None:
    assert profile_of(with_engines, (1, 2)) == {
        "x": ((1, 3, 4, 4), (2, 3, 8, 8), (2, 3, 32, 32)),
        "time": ((1,), (2,), (2,)),
    }


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("slots", [1, 3])
def test_edits_of_several_sizes_are_the_cpus(
    stand_in: StandInTensorRt, fake: FakeDriver, with_engines: Bundle, precision: Any, slots: int
) -> None:
    """Three slots: parts of the buffers are not aligned as engines need it (see the stand-in's assertions)."""
    guide = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    results: list[list[bytes]] = []
    options: list[dict[str, Any]] = [{"size": size, "images": 2} for size in ("8x12", "native", "guide")]
    with (
        Editor.open(with_engines.path, device="cuda", precision=precision, slots=slots) as on_gpu,
        Editor.open(with_engines.path, engine="onnxruntime") as on_cpu,
    ):
        assert on_gpu.device.engine.precision == precision
        for editor in (on_gpu, on_cpu):
            jobs = [editor.submit(guide, steps=3, **option) for option in options]
            results.append([image.pil.tobytes() for job in jobs for image in job.result(60).images])
    assert results[0] == results[1]
    assert fake.fault is None
    assert fake.counts()["allocations"] == 0


def test_a_size_that_the_engine_was_not_built_for_is_refused(stand_in: StandInTensorRt, with_engines: Bundle) -> None:
    message = "the TensorRT engine takes sizes from 8x8 to 32x32, not 8x64: choose another size, engine onnxruntime"
    with (
        Editor.open(with_engines.path, device="cuda") as editor,
        pytest.raises(EngineError, match=message),
    ):
        editor.submit(np.zeros((8, 64, 3), np.uint8), size="guide", steps=2)


def test_what_was_compiled_for_a_size_is_kept_for_the_next_process(
    stand_in: StandInTensorRt, with_engines: Bundle
) -> None:
    for _ in range(2):
        with Editor.open(with_engines.path, device="cuda") as editor:
            editor.edit(np.zeros((8, 8, 3), np.uint8), size="8x12", steps=2)
    assert stand_in.compiled == 2  # the native size and the other one, each once
