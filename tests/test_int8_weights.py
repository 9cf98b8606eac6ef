"""int8 weights of latent networks: near the float ones, judged by edits, run as what they are, refused where not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Run
from conftest import Build
from onnx import numpy_helper

pytest.importorskip("nncf", reason="int8 weights need nncf: pip install '.[export]'")
pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")
pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")

import test_latent_export

from sdedit.errors import EngineError
from sdedit.export import int8_weights
from sdedit.export.additions import extend_bundle
from sdedit.export.int8 import int8_addition
from sdedit.export.onnx_nodes import constants, unstore_half
from sdedit.export.variants import psnr, write_variant
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.bundle.variants import read_variants
from sdedit.runtime.engines import open_engine

pytestmark = pytest.mark.usefixtures("one_thread")

built = test_latent_export.built
"""Fixture: bundle/, a small latent bundle."""

VARIANT = "variants/int8.onnx"


@pytest.fixture(scope="module")
def compressed(built: Path, build_once: Callable[[str, Build], Path]) -> Bundle:
    def extend(folder: Path) -> None:
        extend_bundle(built / "bundle", folder / "small", [int8_addition(20.0, lambda line: None)], lambda line: None)

    return read_bundle(build_once("int8-weights", extend) / "small", verify_all=True)


def test_every_weight_is_within_half_a_step_of_its_float(built: Path, compressed: Bundle) -> None:
    """NNCF lets -128 stand for the largest weight, by a scale below 0: at the other end 127 may be a step off."""
    model = onnx.load(built / "bundle" / "network.onnx")
    unstore_half(model)
    before = {name: numpy_helper.to_array(tensor) for name, tensor in constants(model.graph).items()}
    small = onnx.load(compressed.path / VARIANT)
    onnx.checker.check_model(small, full_check=True)
    after = {name: numpy_helper.to_array(tensor) for name, tensor in constants(small.graph).items()}
    turned = [node for node in small.graph.node if node.op_type == "DequantizeLinear"]
    assert len(turned) == read_variants(compressed)["int8"].facts["layers"] > 20
    for node in turned:
        values, scale = after[node.input[0]], after[node.input[1]]
        weight = before[node.input[0].removesuffix("_quantized")]
        shape = [1] * weight.ndim
        shape[node.attribute[0].i] = -1
        assert values.dtype == np.int8
        steps = np.abs(values - weight / scale.reshape(shape))
        assert (steps <= np.where(values == 127, 1, 0.5) + 1e-4).all()


def test_edits_are_as_close_as_it_says(compressed: Bundle) -> None:
    facts = read_variants(compressed)["int8"].facts
    assert facts["only_weights"] is True
    assert facts["edit_psnr"]["0.5"]["worst"] >= 20
    expected, results = (int8_weights.make_edits(compressed, precision) for precision in ("float32", "int8"))
    for t0, result, wanted in zip(int8_weights.T0S, results, expected, strict=True):
        assert (result != wanted).any()
        # the judged edits may have run on another number of threads, whose sums round otherwise
        assert psnr(result, wanted) == pytest.approx(facts["edit_psnr"][f"{t0:g}"]["worst"], abs=1)


def test_the_engine_says_int8_and_computes_in_float32(compressed: Bundle) -> None:
    engine = open_engine(compressed, precision="int8", threads=1)
    assert (engine.name, engine.precision) == ("openvino", "int8")


def test_floats_under_the_name_of_int8_are_refused(compressed: Bundle, tmp_path: Path) -> None:
    shutil.copytree(compressed.path, tmp_path / "copy")
    bundle = read_bundle(tmp_path / "copy")
    write_variant(bundle, onnx.load(bundle.network), {"only_weights": True})
    with pytest.raises(EngineError, match=r"openvino finds no weights in int8 in .*int8\.onnx"):
        open_engine(read_bundle(bundle.path), precision="int8", threads=1)


def test_what_edits_do_not_reach_is_said_and_nothing_is_written(
    run: Run, compressed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = onnx.load(compressed.path / VARIANT)
    monkeypatch.setattr(int8_weights, "compress", lambda *_: small)
    monkeypatch.setattr(int8_weights, "T0S", (0.5,))
    code, _, error = run("extend", compressed.path, "--out", tmp_path / "out", "--int8", "--min-psnr", 500)
    assert code == 2
    assert error.splitlines()[-1].endswith("dB of float32, not 500: a lower --min-psnr accepts that")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_too_large_is_refused(
    run: Run, compressed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = onnx.load(compressed.path / VARIANT)
    monkeypatch.setattr(int8_weights, "compress", lambda *_: small)
    monkeypatch.setattr(int8_weights, "make_edits", lambda *_: [])
    monkeypatch.setattr(int8_weights, "LARGEST", 1000)
    code, _, error = run("extend", compressed.path, "--out", tmp_path / "out", "--int8")
    assert code == 2
    assert error.splitlines()[-1].endswith("and a variant at most 2 GB")
    assert list(tmp_path.iterdir()) == []
