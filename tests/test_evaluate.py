"""sdedit evaluate: results, measures, going on after an end, and each mistake."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Run, assert_mistake
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import write_bundle

from sdedit.evaluation.features.converting import KEY, REVISION
from sdedit.evaluation.features.running import Features
from sdedit.evaluation.sets import fid
from sdedit.evaluation.summary import mean_of
from sdedit.runtime.recipe import read_recipe


@pytest.fixture
def folders(tmp_path: Path) -> list[object]:
    """Arguments: a tiny bundle, two guides, three real images, an output."""
    generator = np.random.default_rng(0)
    for name, count in (("guides", 2), ("reals", 3), ("masks", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            if name == "masks":
                pixels = np.zeros((32, 32), np.uint8)
                pixels[8:24, 8:24] = 255
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    bundle = write_bundle(tmp_path / "bundle")
    return [
        *("--guides", tmp_path / "guides", "--reals", tmp_path / "reals", "--out", tmp_path / "runs"),
        *("--bundle", bundle, "--steps", 2, "--threads", 1),
    ]


def test_a_grid_is_edited_measured_and_drawn(run: Run, folders: list[object], tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    code, stdout, stderr = run("evaluate", *folders, "--t0", "0.3,0.6", "--seeds", 2, "--plot", plot, "--json")
    assert (code, stderr) == (0, "")
    rows = json.loads(stdout)
    assert [row["t0"] for row in rows] == [0.3, 0.6]
    assert rows[0]["measures"]["l2"]["value"] < rows[1]["measures"]["l2"]["value"]
    assert {"l2", "rms", "sliced_wasserstein", "grid"} == rows[0]["measures"].keys()
    paths = sorted((tmp_path / "runs").rglob("*.png"))
    assert len(paths) == 8
    assert {read_recipe(path)["seed"] for path in paths} == {0, 1}
    assert Image.open(plot).width > 300


def test_an_ended_command_goes_on_and_replaces_nothing(run: Run, folders: list[object], tmp_path: Path) -> None:
    assert run("evaluate", *folders)[0] == 0
    first, second = sorted((tmp_path / "runs").rglob("*.png"))
    first_time, pixels = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    code, stdout, _ = run("evaluate", *folders)
    assert code == 0
    assert stdout.splitlines()[2].startswith("| t0-0.5_steps-2_dpmpp_2m_auto | ")
    assert first.stat().st_mtime_ns == first_time
    assert second.read_bytes() == pixels
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "guides" / "1.png")
    assert_mistake(run("evaluate", *folders), "is there, from another guide: choose another folder")
    assert second.read_bytes() == pixels


def test_with_masks_the_outside_is_exact(run: Run, folders: list[object], tmp_path: Path) -> None:
    code, stdout, _ = run("evaluate", *folders, "--masks", tmp_path / "masks", "--json")
    assert code == 0
    measures = json.loads(stdout)[0]["measures"]
    assert measures["l2_outside"]["value"] == 0
    assert measures["ssim_outside"]["value"] == 1
    assert measures["psnr_outside"]["value"] is None  # infinite: JSON has no such number
    assert measures["l2_inside"]["value"] == pytest.approx(measures["l2"]["value"])


@pytest.fixture
def networks(tmp_path: Path) -> list[object]:
    """Arguments: networks that stand in for Inception and DINOv2 (means of 8 bands) and for LPIPS (mean square)."""
    image, band = ["N", 3, "H", "W"], ["N", 24]
    mean = helper.make_node("AveragePool", ["a"], ["means"], kernel_shape=[37, 299], strides=[37, 299])
    pooled = model([mean, helper.make_node("Flatten", ["means"], ["out"])], {"a": ["N", 3, 299, 299]}, band)
    less = helper.make_node("AveragePool", ["a"], ["means"], kernel_shape=[28, 224], strides=[28, 224])
    smaller = model([less, helper.make_node("Flatten", ["means"], ["out"])], {"a": ["N", 3, 224, 224]}, band)
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    nodes = [
        helper.make_node("Sub", ["a", "b"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["out"], keepdims=0),
    ]
    square = model(nodes, {"a": image, "b": image}, ["N"], [axes])
    arguments: list[object] = []
    for name, network in (("inception", pooled), ("alexnet-lpips", square), ("dinov2", smaller)):
        about = {"revision": REVISION, "name": name, "weights": {}}
        helper.set_model_props(network, {KEY: json.dumps(about)})
        onnx.save(network, tmp_path / f"{name}.onnx")
        arguments += ["--features", tmp_path / f"{name}.onnx"]
    return arguments


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], out: list[Any], weights: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, out)
    graph = helper.make_graph(nodes, "stand_in", values, [result], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def results(tmp_path: Path) -> tuple[list[object], dict[str, np.ndarray]]:
    """Arguments for 5 guides, masks and 6 reals of 16x16 pixels and two seeds of results; the pictures by folder."""
    generator = np.random.default_rng(1)
    names = {
        "guides": [f"{n}.png" for n in range(5)],
        "reals": [f"real{n}.png" for n in range(6)],
        "masks": [f"{n}.png" for n in range(5)],
        "made": [f"{n}-{seed}.png" for seed in (3, 4) for n in range(5)],
    }
    pictures = {}
    for folder, files in names.items():
        (tmp_path / folder).mkdir()
        pictures[folder] = generator.integers(0, 256, (len(files), 16, 16, 3), dtype=np.uint8)
        if folder == "masks":
            pictures[folder] = np.repeat(np.uint8(255) * (pictures[folder][..., :1] > 99), 3, 3)
        for file, pixels in zip(files, pictures[folder], strict=True):
            Image.fromarray(pixels).save(tmp_path / folder / file)
    folders = [value for name in ("guides", "reals") for value in (f"--{name}", tmp_path / name)]
    return [*folders, "--results", tmp_path / "made"], pictures


def test_results_of_any_program_are_measured_with_features(
    run: Run, results: tuple[list[object], dict[str, np.ndarray]], networks: list[object], tmp_path: Path
) -> None:
    arguments, pictures = results
    plot = tmp_path / "plot.svg"
    masks = ("--masks", tmp_path / "masks")
    code, stdout, stderr = run("evaluate", *arguments, *masks, *networks, "--plot", plot, "--json")
    assert (code, stderr) == (0, "")
    (row,) = json.loads(stdout)
    assert row["results"] == str(tmp_path / "made")
    found = {name: value["value"] for name, value in row["measures"].items()}
    assert {"kid", "kid_dinov2", "fid", "precision", "recall", "lpips_alexnet", "lpips_alexnet_outside"} < found.keys()
    states = {name: images / np.float32(127.5) - 1 for name, images in pictures.items()}
    squares = np.square(states["made"] - np.tile(states["guides"], (2, 1, 1, 1)))
    edited = np.tile(pictures["masks"] > 0, (2, 1, 1, 1))
    assert found["lpips_alexnet"] == pytest.approx(squares.mean(), rel=1e-5)
    assert found["lpips_alexnet_outside"] == pytest.approx((squares * ~edited).mean(), rel=1e-5)
    assert found["lpips_alexnet_inside"] == pytest.approx((squares * edited).mean(), rel=1e-5)
    for name, measure in (("inception", "fid"), ("dinov2", "fid_dinov2")):
        network = Features(tmp_path / f"{name}.onnx", threads=1)
        made, reals = (network.vectors(states[folder].transpose(0, 3, 1, 2)) for folder in ("made", "reals"))
        assert found[measure] == pytest.approx((fid(made[:5], reals) + fid(made[5:], reals)) / 2, rel=1e-6)
    assert "KID to reals" in plot.read_text(encoding="utf-8")


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    run: Run, results: tuple[list[object], dict[str, np.ndarray]], networks: list[object], tmp_path: Path
) -> None:
    code, stdout, _ = run("evaluate", *results[0], *networks[2:])
    assert code == 0
    assert "lpips_alexnet" in stdout.splitlines()[0]
    assert "Not measured: kid, fid, precision, recall." in stdout
    assert "`python -m sdedit.evaluation.features inception WEIGHTS --out inception.onnx`" in stdout
    assert "Not measured: lpips" not in stdout


def test_mistakes_about_results_are_one_line(
    run: Run, results: tuple[list[object], dict[str, np.ndarray]], networks: list[object], tmp_path: Path
) -> None:
    arguments, _ = results
    assert_mistake(run("evaluate", *arguments, "--steps", 3), "--steps is for new results, not for --results")
    assert_mistake(run("evaluate", *arguments, "--out", tmp_path / "x"), "give --out, a folder for new results, or")
    assert_mistake(run("evaluate", *arguments, *networks, *networks), "are of inception, as a file before")
    assert_mistake(run("evaluate", *arguments[:-1], tmp_path / "reals"), "has no result of a guide")
    (tmp_path / "made" / "2-4.png").unlink()
    assert_mistake(run("evaluate", *arguments), "has no result of guide 2, seed 4: 1 lack")
    for number in (2, 3, 4):
        (tmp_path / "guides" / f"{number}.png").unlink()
    assert_mistake(run("evaluate", *arguments, *networks), "2 guides: features of inception need more than 3")


def test_mistakes_are_one_line(run: Run, folders: list[object], tmp_path: Path) -> None:
    assert_mistake(run("evaluate", *folders, "--t0", "0.3,x"), "'0.3,x' is not a list of numbers")
    assert_mistake(run("evaluate", *folders, "--t0", "0.3,1.5"), "t0 1.5 is not in (0, 1]")
    assert_mistake(run("evaluate", *folders, "--samplers", "plms"), "sampler 'plms' is not one of")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "masks" / "1.png").unlink()
    assert_mistake(
        run("evaluate", *folders, "--masks", tmp_path / "masks"), "has no mask for guide 1 (1 of 2 lack one)"
    )
    for path in sorted((tmp_path / "reals").iterdir())[1:]:
        path.unlink()
    assert_mistake(run("evaluate", *folders), "1 real images for 2 results of a seed: at least as many are needed")


def test_seeds_of_an_image_are_not_counted_as_images() -> None:
    """Four equal seeds of each image give the interval that one gives."""
    each = np.random.default_rng(0).standard_normal(50)
    once, four = mean_of(each, np.arange(50)), mean_of(np.tile(each, 4), np.tile(np.arange(50), 4))
    assert four.low == pytest.approx(once.low)
    assert four.high == pytest.approx(once.high)
    assert once.low < once.value < once.high
    assert once.high - once.low == pytest.approx(2 * 1.96 * each.std() / 50**0.5, rel=0.25)  # 200 samples
