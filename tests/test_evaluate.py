"""sdedit evaluate: results, measures, going on after an end, and each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_mistake
from PIL import Image
from tiny import write_bundle

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
