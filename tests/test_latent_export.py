"""From a folder of diffusers to an edited picture, by the commands alone: a random pipeline as small as its kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Run, assert_mistake, run_sdedit
from conftest import Build
from PIL import Image

pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")
pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")

import onnx_ir as ir
from latent_pipelines import LENGTH, WIDTH, make_tiny_vae, save_small_sd, save_small_sdxl
from torch_latent import TorchEngine, torch_components

from sdedit.export import bundle as export_module
from sdedit.export import latent as latent_module
from sdedit.kernels import twin
from sdedit.runtime import Editor, replay
from sdedit.runtime.bundle import DECODER, ENCODER, NETWORK, TEXT, Bundle, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import installed_engines
from sdedit_ref.checkpoints import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "a fantasy landscape"
FACTOR = 2


@pytest.fixture(scope="module")
def built(build_once: Callable[[str, Build], Path]) -> Path:
    """sd/: the pipeline; vae/: a tiny autoencoder; bundle/: the pipeline exported."""

    def build(folder: Path) -> None:
        save_small_sd(folder / "sd")
        make_tiny_vae().save_pretrained(folder / "vae")
        run_sdedit("export", folder / "sd", "--out", folder / "bundle", "--name", "small", "--licence", "CC0")

    return build_once("latent-export", build)


@pytest.fixture(scope="module")
def bundle(built: Path) -> Bundle:
    return read_bundle(built / "bundle", verify_all=True)


def tracing_others(bundle: Path, traced: dict[str, str]) -> Callable[..., ir.Model]:
    """component_to_onnx that takes a network from the bundle if its first input is in `traced`: tracing is slow."""
    trace = latent_module.component_to_onnx

    def components(module: Any, example: Any, *rest: Any) -> ir.Model:
        file = traced.get(next(iter(example)))
        return trace(module, example, *rest) if file is None else ir.load(bundle / file)

    return components


@pytest.fixture(scope="module")
def sdxl(build_once: Callable[[str, Build], Path], built: Path) -> Path:
    """sd/: a pipeline of SDXL whose U-Net takes all inputs; bundle/: the pipeline exported.

    Its autoencoder is that of `built`; its weights are too few to be rounded to half.
    """
    components = tracing_others(built / "bundle", {"image": ENCODER, "latent": DECODER})

    def build(folder: Path) -> None:
        save_small_sdxl(folder / "sd")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(latent_module, "component_to_onnx", components)
            run_sdedit("export", folder / "sd", "--out", folder / "bundle", "--name", "xl", "--weights", "float32")

    return build_once("latent-export-xl", build)


def edit(run: Run, bundle: Path, guide: Path, out: Path, *options: object) -> np.ndarray:
    code, _, error = run("edit", guide, "--bundle", bundle, "--out", out, "--seed", 3, "--prompt", PROMPT, *options)
    assert (code, error) == (0, "")
    return np.asarray(Image.open(out)).astype(int)


def test_the_bundle_has_every_part_and_each_was_compared(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.latent is not None
    assert (manifest.latent.factor, bundle.state_shape, bundle.image.multiple_of) == (FACTOR, (4, 4, 4), 2 * FACTOR)
    assert {name: spec.shape for name, spec in manifest.inputs.items()} == {"context": (LENGTH, WIDTH)}
    assert (manifest.clip, bundle.guided, manifest.suggested.sampler) == (None, True, "ddim")
    parity = manifest.parity
    assert parity.components.keys() == {ENCODER, DECODER, TEXT}
    for errors in (*parity.components.values(), *parity.sizes.values()):
        assert errors.keys() == set(installed_engines())
        assert 0 < max(errors.values()) <= export_module.TOLERANCE
    assert len(parity.sizes) == 1
    assert all(ids[0][0] == ids[0][-1] - 1 for ids in parity.prompts.values())  # the marks


@pytest.mark.parametrize("name", [NETWORK, ENCODER, DECODER, TEXT])
def test_the_sides_are_free_and_nothing_says_where_it_was_made(bundle: Bundle, name: str) -> None:
    model = onnx.load(bundle.path / name)
    for value in (*model.graph.input, *model.graph.output):
        sides = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert sides[0] == "batch"
        assert len(sides) != 4 or sides[2:] == ["height", "width"]
    assert b"site-packages" not in (bundle.path / name).read_bytes()


@pytest.mark.parametrize("engine", installed_engines())
def test_an_edit_by_the_command_line(run: Run, built: Path, guide: Path, tmp_path: Path, engine: str) -> None:
    options: list[Any] = ["--engine", engine, "--threads", 1, "--steps", 2, "--size", "12x20"]
    first = edit(run, built / "bundle", guide, tmp_path / "a.png", *options)
    assert first.shape == (12, 20, 3)
    assert len(np.unique(first)) > 8
    other = edit(run, built / "bundle", guide, tmp_path / "b.png", *options, "--guidance", 1)
    assert (first != other).any()
    again = replay(tmp_path / "a.png", bundle=built / "bundle")
    assert (again.pixels, again.differences) == (0, [])


def test_a_bundle_of_sdxl_edits_as_torch_does(sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two encoders, pooled text and sizes, a network for inpainting that takes guidance as an input, and a mask."""
    bundle, checkpoint = read_bundle(sdxl / "bundle", verify_all=True), load_checkpoint(sdxl / "sd")
    assert set(bundle.manifest.inputs) == {"context", "pooled", "size", "known", "guidance"}
    assert bundle.manifest.parity.components.keys() == {ENCODER, DECODER, TEXT}
    assert (bundle.manifest.suggested.sampler, bundle.manifest.suggested.steps) == ("lcm", 4)
    assert bundle.guided is False
    photo = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    mask = np.zeros((12, 20), np.uint8)
    mask[2:9, 4:13] = 255
    options: dict[str, Any] = {"prompt": PROMPT, "seed": 3, "feather": 0}
    made: list[np.ndarray] = []
    with Editor.open(bundle, engine="onnxruntime", threads=1) as editor:
        ours = np.asarray(editor.edit(photo, mask, **options).images[0].pil).astype(int)
        other = np.asarray(editor.edit(photo, mask, **options, guidance=2).images[0].pil)
    monkeypatch.setattr("sdedit.runtime.editor.editor.load_component", torch_components(checkpoint, made))
    device = CpuDevice(TorchEngine(checkpoint.network), bundle.inputs, 1, twin(), multiple_of=2)
    with Editor(bundle, device) as editor:
        theirs = np.asarray(editor.edit(photo, mask, **options).images[0].pil)
    assert len(made) == 1
    assert np.abs(ours - theirs).max() <= 1  # networks differ by 1e-4 of the largest output, so a value may round apart
    assert (ours != other)[mask == 255].any()
    assert np.array_equal(ours[mask == 0], photo[mask == 0])


def test_engines_make_the_same_picture(run: Run, built: Path, guide: Path, tmp_path: Path) -> None:
    """The networks' outputs differ by 1e-4 of the largest at most, which two steps with guidance do not grow to 2."""
    made = [
        edit(run, built / "bundle", guide, tmp_path / f"{engine}.png", "--engine", engine, "--steps", 2)
        for engine in installed_engines()
    ]
    assert max(np.abs(picture - made[0]).max() for picture in made) <= 1


def test_a_dry_run_says_what_a_folder_is(run: Run, built: Path) -> None:
    code, printed, _ = run("export", built / "sd", "--dry-run")
    assert code == 0
    for line in (
        "family: diffusers latent text-to-image of DDIMScheduler",
        "latent: 4x4x4, sides are multiples of 2",
        "autoencoder: AutoencoderKL, factor 2",
        "text: 1 encoders, 77 tokens",
        "guidance: free",
        f"inputs: context [{LENGTH}, {WIDTH}]",
        "suggested: sampler ddim, steps 20, guidance 7.5, t0 0.6",
    ):
        assert line in printed
    code, printed, _ = run("export", built / "sd", "--dry-run", "--vae", built / "vae", "--distilled", "yes")
    assert code == 0
    for line in ("autoencoder: AutoencoderTiny, factor 2", "guidance: none", "guidance 1.0"):
        assert line in printed


def test_an_autoencoder_that_is_no_folder(run: Run, built: Path, tmp_path: Path) -> None:
    result = run("export", built / "sd", "--vae", tmp_path / "none", "--out", tmp_path / "out")
    assert_mistake(result, str(tmp_path / "none"))
    assert not (tmp_path / "out").exists()


def test_another_autoencoder_and_no_guidance(
    run: Run, built: Path, guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second export takes the networks that the options do not change from the first."""
    monkeypatch.setattr(export_module, "to_onnx", lambda *_, **__: ir.load(built / "bundle" / NETWORK))
    components = tracing_others(built / "bundle", {"tokens_0": TEXT})
    monkeypatch.setattr(latent_module, "component_to_onnx", components)
    out = tmp_path / "turbo"
    code, *_ = run("export", built / "sd", "--vae", built / "vae", "--distilled", "yes", "--out", out)
    assert code == 0
    text = json.loads((out / "bundle.json").read_text())["text"]
    assert text["guidance"] == "none"
    assert edit(run, out, guide, tmp_path / "a.png", "--steps", 1).shape == (8, 8, 3)
    result = run("edit", guide, "--bundle", out, "--out", tmp_path / "b.png", "--prompt", PROMPT, "--guidance", 3)
    assert_mistake(result, "guidance 3: turbo was distilled without: accepted is 1")
