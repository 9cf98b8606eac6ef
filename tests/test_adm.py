"""ADM networks: the arithmetic and the key names of guided-diffusion and improved-diffusion."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from command_line import Run, assert_mistake
from PIL import Image
from torch import Tensor

from sdedit.errors import CheckpointError
from sdedit.export.bundle import export_bundle
from sdedit.kernels import twin
from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import open_engine
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref.checkpoints import adm, load_checkpoint
from sdedit_ref.checkpoints.adm import PRESETS, Preset, training_schedule
from sdedit_ref.checkpoints.contents import Contents
from sdedit_ref.networks.adm import ADM, ADMConfig

GOLDEN = Path(__file__).parent / "golden"
ROUNDING = 2e-5
"""Relative to the largest output. A convolution of 9 x 64 products rounds by about sqrt(576) 2^-24 = 1.4e-6, twenty
layers by sqrt(20) of that, 6.4e-6; other orders of the sums do it anew. Measured with the golden file: 1.4e-6."""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make_adm", GOLDEN / "make_adm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_script()
SMALL: dict[str, ADMConfig] = make.small()
RELEASED = {name: preset.config for name, preset in PRESETS.items()}


@pytest.fixture(scope="module")
def outputs() -> dict[str, np.ndarray]:
    return dict(zip(SMALL, np.load(GOLDEN / "adm.npz")["outputs"], strict=True))


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return dict(zip([*SMALL, *RELEASED], np.load(GOLDEN / "adm.npz")["keys"].astype(str), strict=True))


def difference(out: np.ndarray, golden: np.ndarray) -> float:
    return float(np.abs(out.ravel()[:: make.STRIDE] - golden).max() / np.abs(golden).max())


def answers(config: ADMConfig) -> dict[str, str]:
    """Answers that a file of this network needs."""
    said = Preset(config).answers()
    return {name: said[name] for name in said if name != "rescale_timesteps"}


def weights(config: ADMConfig) -> dict[str, Tensor]:
    """Random weights with the source's names."""
    return make.random_state(make.shapes_on_paper(config))


@pytest.mark.parametrize("name", SMALL)
def test_a_file_gives_what_the_original_does(outputs: dict[str, np.ndarray], tmp_path: Path, name: str) -> None:
    torch.save(weights(SMALL[name]), tmp_path / "net.pt")
    checkpoint = load_checkpoint(tmp_path / "net.pt", **answers(SMALL[name]))
    assert checkpoint.network.config == SMALL[name]
    assert checkpoint.classes == SMALL[name].classes
    assert checkpoint.null_label is None
    with torch.inference_mode():
        assert difference(checkpoint.network(*make.inputs(SMALL[name])).numpy(), outputs[name]) < ROUNDING


@pytest.mark.parametrize("name", [*SMALL, *RELEASED])
def test_keys_and_shapes_are_the_originals(keys: dict[str, str], name: str) -> None:
    assert make.digest(make.shapes_on_paper((SMALL | RELEASED)[name])) == keys[name]


@pytest.mark.parametrize("change", [{"attention_order": "new"}, {"heads": 1}, {"head_channels": 8}])
def test_what_shapes_do_not_tell_matters(outputs: dict[str, np.ndarray], change: dict[str, str | int]) -> None:
    name, config = next(
        (name, config) for name, config in SMALL.items() if name.startswith("improved") and config.heads > 1
    )
    wrong = dataclasses.replace(config, **change)  # type: ignore[arg-type] # of either type
    assert make.shapes_on_paper(wrong) == make.shapes_on_paper(config)
    assert difference(make.run(ADM(wrong), config), outputs[name]) > 100 * ROUNDING


def test_a_label_changes_the_output() -> None:
    config = next(config for config in SMALL.values() if config.classes)
    network = ADM(config)
    network.load_state_dict(make.random_state(make.shapes_of(network)))
    x, time, label = make.inputs(config)
    with torch.no_grad():
        first, second = network(x, time, label), network(x, time, label + 1)
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 100 * ROUNDING


def test_presets_say_what_the_released_flags_say() -> None:
    said = json.loads(bytes(np.load(GOLDEN / "adm.npz")["answers"]))
    assert list(make.FLAGS) == list(PRESETS)
    assert [preset.answers() for preset in PRESETS.values()] == said


def test_schedules_are_the_originals() -> None:
    """float64: a thousand products round by 1e-13; the smallest alpha^2 of the cosine, 2.4e-9, ends with 1 - 0.999."""
    for (name, steps), squared in zip(make.PROCESSES, np.load(GOLDEN / "adm.npz")["alphas"], strict=True):
        ours = training_schedule(name, steps, False)
        assert np.abs(make.alphas(ours[:, 0] ** 2) / squared - 1).max() < 1e-9
        assert np.array_equal(ours[:, 2], np.arange(steps))
        assert np.array_equal(training_schedule(name, steps, True)[:, 2], np.arange(steps) * (1000 / steps))


# Questions


CONFIG = SMALL[make.EDITED]
SAID = answers(CONFIG)
SAID_4000 = {**SAID, "steps": "4000", "rescale_timesteps": "yes"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adm") / "net.pt"
    torch.save(weights(CONFIG), path)
    return path


@pytest.fixture
def on_paper(tmp_path: Path) -> Callable[[str], Contents]:
    """A released file without its bytes: every tensor is one zero, repeated."""

    def make_contents(preset: str) -> Contents:
        (tmp_path / "net.pt").touch()
        shapes = make.shapes_on_paper(RELEASED[preset])
        return Contents(tmp_path / "net.pt", {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()})

    return make_contents


def assert_refused(path: Path, message: str, **said: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, **said)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_all_that_shapes_do_not_tell_is_asked_for_at_once(file: Path) -> None:
    expected = (
        r"does not state attention_order, heads, schedule, steps, rescale_timesteps, size: add "
        r"--attention-order legacy\|new --heads NUMBER --schedule linear\|cosine --steps NUMBER "
        r"--rescale-timesteps yes\|no --size PIXELS\|HEIGHTxWIDTH \(or --head-channels NUMBER for --heads\)$"
    )
    assert_refused(file, expected)
    assert_refused(file, "does not state size: add --size", **{name: SAID[name] for name in SAID if name != "size"})
    assert_refused(file, "does not state rescale_timesteps: add", **{**SAID, "steps": "4000"})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_answers_for_a_released_file(on_paper: Callable[[str], Contents], preset: str) -> None:
    contents = on_paper(preset)
    with pytest.raises(
        CheckpointError, match=rf"does not state .*, if it is that released file, --preset .*\b{preset}\b"
    ):
        adm.load(contents, {})
    checkpoint = adm.load(contents, {"preset": preset})
    known = PRESETS[preset]
    assert checkpoint.network.config == known.config
    assert checkpoint.shape == (3, known.config.size, known.config.size)
    assert (checkpoint.prediction, checkpoint.schedule_name) == ("eps", known.schedule)
    assert (checkpoint.classes, checkpoint.null_label) == (known.config.classes, None)
    assert np.array_equal(checkpoint.schedule, training_schedule(known.schedule, known.steps, known.rescale_timesteps))


def test_what_is_said_comes_before_a_preset(on_paper: Callable[[str], Contents]) -> None:
    said = {"preset": "cifar10_uncond_50M", "head_channels": "32", "size": "64x32", "steps": "1000", "prediction": "x0"}
    checkpoint = adm.load(on_paper("cifar10_uncond_50M"), said)
    assert checkpoint.network.config.head_channels == 32
    assert checkpoint.shape == (3, 64, 32)
    assert checkpoint.prediction == "x0"
    assert np.array_equal(checkpoint.schedule, training_schedule("cosine", 1000, False))


def test_time_is_rescaled_where_that_is_said(file: Path) -> None:
    schedule = load_checkpoint(file, **SAID_4000).schedule
    assert schedule.shape == (4000, 3)
    assert schedule[-1, 2] == 999.75


@pytest.mark.parametrize(("null", "classes"), [("0", 5), ("3", 5), ("4", 4)])
def test_a_null_label_behind_the_others_is_no_class(file: Path, null: str, classes: int) -> None:
    checkpoint = load_checkpoint(file, **SAID, null_label=null)
    assert (checkpoint.classes, checkpoint.null_label) == (classes, int(null))


def test_the_null_label_is_one_of_the_labels(file: Path) -> None:
    assert_refused(file, r"null_label '5' is not a number in 0\.\.4", **SAID, null_label="5")
    assert_refused(file, "null_label '-1' is not a number in", **SAID, null_label="-1")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"preset": "256x256_diffusion"},
            "preset '256x256_diffusion' does not have the shapes of this file; accepted: none$",
        ),
        ({"heads": "3"}, "heads 3 does not divide 64 channels of an attention"),
        ({"heads": "0"}, r"heads '0' is not a number in 1\.\.64"),
        ({"heads": "4.0"}, "heads '4.0' is not a number"),
        ({"attention_order": "old"}, "attention_order 'old' is not one of legacy, new"),
        ({"schedule": "sqrt"}, "schedule 'sqrt' is not one of linear, cosine"),
        ({"prediction": "v"}, "prediction 'v' is not one of eps, x0"),
        ({"steps": "20", "rescale_timesteps": "no"}, "steps 20 are too few for the schedule linear"),
        ({"steps": "1000000000000"}, "does not state rescale_timesteps"),
        ({"steps": "1000000000000", "rescale_timesteps": "no"}, "steps '1000000000000' is not a number in"),
        ({"size": "9"}, "size 9 is not a multiple of 2"),
        ({"sigma_max": "50"}, "--sigma-max does not apply to a guided-diffusion or improved-diffusion network"),
    ],
)
def test_what_is_said_wrongly(file: Path, said: dict[str, str], message: str) -> None:
    assert_refused(file, message, **{**SAID, **said})


def test_the_command_line_says_what_was_recognised(file: Path, run: Run) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SAID.items()]
    code, stdout, stderr = run("export", file, "--dry-run", *options)
    assert (code, stderr) == (0, "")
    assert stdout.startswith("family: guided-diffusion or improved-diffusion network\n")
    for fact in (
        "image: 3x8x8",
        "schedule: linear, 1000 levels",
        "labels: 5",
        "heads",
        "the learned variance is left out",
    ):
        assert fact in stdout
    assert_mistake(run("export", file, "--dry-run"), "the file does not state attention_order, heads, ")


# Edits


@pytest.fixture(scope="module")
def bundle(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Four classes, and the fifth label of no class."""
    checkpoint = load_checkpoint(file, **SAID_4000, null_label="4")
    out = tmp_path_factory.mktemp("adm") / "bundle"
    return export_bundle(checkpoint, out, name="adm", licence="none", weights="float32")


def edit(bundle: Bundle, label: int, guidance: float) -> np.ndarray:
    """Five steps of DDIM from half way by the runtime; float32 [C, H, W]"""
    device = CpuDevice(open_engine(bundle), bundle.inputs, 1, twin("numpy"), guided=bundle.null_label is not None)
    options = {"t0": 0.5, "steps": 5, "sampler": "ddim", "guidance": guidance}
    plan = make_plan(bundle.schedule, bundle.prediction, **options)  # type: ignore[arg-type] # by name
    loop = Loop(device)
    loop.admit(
        Task(
            plan,
            make.guide(),
            np.ones((8, 8), np.float32),
            make.SEED,
            0,
            {"label": np.int64(label)},
            {"label": np.int64(bundle.null_label or 0)},
        )
    )
    while True:
        for _, result in loop.step():
            return result


TOLERANCE = 1e-4 * 2
"""1e-4 of the data's range."""


def test_an_edit_is_that_of_the_original(bundle: Bundle) -> None:
    golden = np.load(GOLDEN / "adm.npz")["edit"]
    assert np.abs(edit(bundle, make.LABEL, 1.0) - golden).max() < TOLERANCE
    assert np.abs(edit(bundle, make.LABEL - 1, 1.0) - golden).max() > 100 * TOLERANCE


def edit_in_torch(file: Path, label: int, guidance: float) -> np.ndarray:
    """The edit of `edit` with the loaded network and the formulas."""
    checkpoint = load_checkpoint(file, **SAID_4000)
    plan = make_plan(Schedule(checkpoint.schedule), "eps", t0=0.5, steps=5, sampler="ddim", guidance=guidance)
    z = normal_numpy(make.SEED, 0, 0, 0, KIND_BEGIN, 192).reshape(3, 8, 8)
    x = np.float32(plan.alpha0) * make.guide() + np.float32(plan.sigma0) * z
    for row in plan.rows:
        with torch.inference_mode():
            time, labels = torch.full((2,), float(row["time"])), torch.tensor([label, 4])
            o, u = checkpoint.network(torch.from_numpy(np.stack([x, x])), time, labels).numpy()
        x0 = np.clip(row["a_x"] * x + row["a_o"] * (u + row["guidance"] * (o - u)), -1, 1)
        x = row["c_x"] * x + row["c_0"] * x0
    return x


def test_guidance_is_that_of_the_formula(file: Path, bundle: Bundle) -> None:
    assert np.abs(edit(bundle, 3, 2.5) - edit_in_torch(file, 3, 2.5)).max() < TOLERANCE


def test_the_command_line_takes_a_label(bundle: Bundle, run: Run, guide: Path, tmp_path: Path) -> None:
    images = []
    for label in ("0", "1"):
        out = tmp_path / f"{label}.png"
        command = (
            "edit",
            guide,
            "--bundle",
            bundle.path,
            "--steps",
            3,
            "--label",
            label,
            "--out",
            out,
            "--fit",
            "stretch",
        )
        assert run(*command)[0] == 0
        images.append(np.asarray(Image.open(out)))
    assert not np.array_equal(*images)


# Files of something else


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> None:
    for key in [key for key in tensors if key.startswith(old)]:
        tensors[key.replace(old, new)] = tensors.pop(key)


def with_shape(key: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: renamed(t, "output_blocks", "pool"),
            "a classifier of guided-diffusion, for it has no output_",
        ),
        (with_shape("input_blocks.0.0.weight", 32, 6, 3, 3), "an upsampler, for it takes a small image"),
        (with_shape("input_blocks.0.0.weight", 32, 4, 3, 3), "a latent diffusion network"),
        (with_shape("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1), "a latent diffusion network"),
        (with_shape("input_blocks.0.0.weight", 32), r"damaged: input_blocks.0.0.weight is \[32\]"),
        (with_shape("input_blocks.0.0.weight", 32, 5, 3, 3), r"damaged: input_blocks.0.0.weight is \[32, 5, 3, 3\]"),
        (with_shape("time_embed.0.weight", 128), "do not form a U-Net of base width 0"),
        (with_shape("time_embed.0.weight", 128, 33), "do not form a U-Net of base width 0"),
        (with_shape("input_blocks.1.0.in_layers.2.weight", 33, 32, 3, 3), "do not form a U-Net"),
        (with_shape("output_blocks.999999.1.conv.weight", 1), "do not form a U-Net"),
        (lambda t: t.pop("output_blocks.1.2.conv.weight"), "do not form a U-Net|does not fit"),
        (lambda t: t.pop("middle_block.1.qkv.weight"), "does not fit .*middle_block.1.qkv.weight"),
        (lambda t: t.pop("out.2.weight"), "does not fit .*out.2"),
        (with_shape("label_emb.weight", 5, 7), "does not fit .*label_emb.weight"),
        (with_shape("input_blocks.1.0.emb_layers.1.weight", 2**40, 0), "does not fit "),
        (with_shape("extra", 1), "does not fit .*extra"),
    ],
)
def test_tensors_that_form_no_network(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = weights(CONFIG)
    change(tensors)
    torch.save(tensors, tmp_path / "net.pt")
    assert_refused(tmp_path / "net.pt", message, **SAID)


def test_a_truncated_file(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    (tmp_path / "net.pt").write_bytes(data[: len(data) // 2])
    assert_refused(tmp_path / "net.pt", "not a torch file of tensors alone, or damaged", **SAID)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in weights(CONFIG).items()}, tmp_path / "net.pt")
    network = load_checkpoint(tmp_path / "net.pt", **SAID).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
