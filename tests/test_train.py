"""Training: the weighted loss, runs that go on to the bit, and mistakes."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import write_even
from PIL import Image
from tiny import TINY

from sdedit.errors import CheckpointError, install_hint
from sdedit.evaluation.views import cut
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.sde import cosine
from sdedit_ref.training import command as training
from sdedit_ref.training import train
from sdedit_ref.training.command import command as training_command
from sdedit_ref.training.crops import find_pictures, split
from sdedit_ref.training.hyperparameters import Hyperparameters
from sdedit_ref.training.quality import denoising_error, held_out_loss
from sdedit_ref.training.run import Run, new_run, resume, save, start_from

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = Hyperparameters(
    images=16,
    batch=4,
    lr=1e-3,
    warm_up=4,
    ema=0.9,
    weighting="min-snr",
    gamma=5.0,
    report=8,
    save_minutes=1e9,
    workers=0,
)
NETWORK = ("--size", "8", "--width", "32", "--multiples", "1", "--attention", "")
SHORT = ("--images", "8", "--batch", "4", "--report", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of one colour each."""
    return write_even(tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize("gamma", [5.0, math.inf])
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_weighted_error_is_that_of_x0_weighted_by_min_snr(prediction: str, gamma: float) -> None:
    run = new_run(TINY, prediction, "cosine", torch.float32, "cpu", 0)
    k = torch.arange(50, 1000, 100)
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, len(k), 3, 8, 8, generator=generator)
    errors = denoising_error(run.network, prediction, run.schedule, x0, k, z, torch.float32)
    alpha, sigma, time = run.schedule.double()[k - 1].T
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    x = a * x0 + s * z
    with torch.inference_mode():
        out = run.network(x.float(), time.float()).double()
    guess = a * x - s * out if prediction == "v" else (x - s * out) / a
    expected = (alpha / sigma).square().clamp(max=gamma) * (guess - x0).square().mean((1, 2, 3))
    # x0's error is a difference of numbers near |x| / alpha; float32 holds those to 6e-8.
    weights = train.weight(run, k, dataclasses.replace(OPTIONS, gamma=gamma))
    assert torch.allclose((weights * errors).double(), expected, rtol=1e-4)


def test_a_uniform_weighting_is_none() -> None:
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    weights = train.weight(run, torch.tensor([1, 500, 1000]), dataclasses.replace(OPTIONS, weighting="uniform"))
    assert weights.tolist() == [1, 1, 1]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    options = dataclasses.replace(OPTIONS, images=1000, warm_up=100, lr=1.0)
    rates = [train.learning_rate(seen, options) for seen in range(1001)]
    assert rates[0] == 0.01
    assert rates[99] == rates[100] == max(rates) == 1.0
    assert math.isclose(rates[550], 0.5)
    assert rates[1000] == 0
    assert np.all(np.diff(rates[100:]) < 0)


def test_a_short_run_warms_up_for_a_tenth_of_it() -> None:
    options = dataclasses.replace(OPTIONS, images=50, warm_up=1000, lr=1.0)
    rates = [train.learning_rate(seen, options) for seen in range(51)]
    assert (rates[4], rates[5], rates[50]) == (1.0, 1.0, 0.0)


def run_once(folder: Path, out: Path, images: int) -> Run:
    crops, held_out = split(find_pictures(folder, 8), "5", 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    resume(run, out, {})
    views = torch.from_numpy(cut(held_out, 0, 4))
    train.train(run, crops, views, out, {}, dataclasses.replace(OPTIONS, images=images))
    return run


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run_once(folder, tmp_path / "whole", 16)
    step, calls = train.train_step, []

    def dies(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", dies)
        patch.setattr(sys.modules[__name__], "OPTIONS", dataclasses.replace(OPTIONS, save_minutes=0.0))
        with pytest.raises(KeyboardInterrupt):
            run_once(folder, tmp_path / "killed", 16)
    killed = run_once(folder, tmp_path / "killed", 16)
    assert whole.seen == killed.seen == 16
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, killed.ema.state_dict()[name]), name
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [8, 16]


def test_training_learns(folder: Path, tmp_path: Path) -> None:
    """With flat pictures x0 is known up to three numbers, so most of v can be learned; untrained networks know none."""
    crops, held_out = split(find_pictures(folder, 8), None, 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    views = torch.from_numpy(cut(held_out, 0, 16))
    before = held_out_loss(run.ema, "v", run.schedule, views)
    train.train(
        run, crops, views, tmp_path, {}, dataclasses.replace(OPTIONS, images=4800, batch=16, lr=3e-3, report=10**6)
    )
    assert held_out_loss(run.ema, "v", run.schedule, views) < before / 2


def test_a_loss_that_is_no_number_ends_the_run_and_its_save_stands(folder: Path, tmp_path: Path) -> None:
    run_once(folder, tmp_path, 8)
    before = (tmp_path / "state.pt").read_bytes()
    crops, _ = split(find_pictures(folder, 8), None, 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    resume(run, tmp_path, {})
    options = dataclasses.replace(OPTIONS, images=64, lr=1e30, warm_up=1, report=10**6)
    with pytest.raises(CheckpointError, match=r"after image \d+ the loss is (nan|inf), at --lr 1e\+30: try"):
        train.train(run, crops, torch.zeros(4, 3, 8, 8), tmp_path, {}, options)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_the_averaged_weights_are_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(training_command, [str(folder), "--out", str(tmp_path / "run"), *NETWORK, *SHORT])
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "ema.safetensors")
    assert checkpoint.prediction == "v"
    assert np.array_equal(checkpoint.schedule, cosine())
    with Image.open(tmp_path / "run" / "samples.png") as image:
        assert image.size == (48, 48)
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert line["images"] == 8
    assert 0 < line["held_out"] < 10


def test_a_run_starts_from_given_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = run_once(folder, tmp_path / "a", 8)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 1)
    start_from(run, tmp_path / "a" / "ema.safetensors", {})
    assert run.seen == 0
    for name, value in first.ema.state_dict().items():
        assert torch.equal(value, run.network.state_dict()[name]), name


Command = Callable[..., tuple[int, str]]
"""Arguments -> exit code, stderr"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m sdedit_ref.training` in this process."""

    def in_process(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        code = 0
        try:
            training.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return in_process


def assert_one_line(result: tuple[int, str], message: str) -> None:
    code, error = result
    assert (code, error.count("\n")) == (2, 1)
    assert message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "2"], "state.pt is of another network, or damaged: "),
        (["--prediction", "eps"], "state.pt was trained with prediction v, not eps"),
        (["--schedule", "linear"], "state.pt was trained with betas cosine, not linear"),
        (["--size", "10"], "state.pt was trained with image_size 8, not 10"),
    ],
)
def test_another_run_is_not_gone_on_with(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    command: Command,
) -> None:
    arguments = [folder, "--out", tmp_path, *NETWORK, *SHORT]
    assert command(*arguments) == (0, "")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert_one_line(command(*arguments, *options), message)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "2"], "first.safetensors is of another network, or damaged: "),
        (["--prediction", "eps"], "first.safetensors was trained with prediction v, not eps"),
        (["--start", "nowhere.safetensors"], "nowhere.safetensors cannot be read: No such file or directory"),
    ],
)
def test_a_run_does_not_start_from_weights_of_another_kind(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    command: Command,
) -> None:
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    save(run, tmp_path, {"prediction": "v", "betas": "cosine"})
    first = (tmp_path / "ema.safetensors").rename(tmp_path / "first.safetensors")
    arguments = [folder, "--out", tmp_path / "run", "--start", first, *NETWORK, *SHORT, *options]
    assert_one_line(command(*arguments), message)
    assert not (tmp_path / "run").exists()


def test_a_damaged_save_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="is of another network, or damaged: "):
        run_once(folder, tmp_path, 8)


def full_disk(_: object, path: Path, *__: object, **___: object) -> None:
    Path(path).write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("full", ["torch.save", "sdedit_ref.training.run.save_file"])
def test_a_full_disk_leaves_the_save_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    run = run_once(folder, tmp_path, 8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    monkeypatch.setattr(full, full_disk)
    with pytest.raises(CheckpointError, match="cannot be saved to: No space left on device; the save before stands"):
        save(run, tmp_path, {})
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after["ema.safetensors"] == before["ema.safetensors"]
    restored = new_run(TINY, "v", "cosine", torch.float32, "cpu", 1)
    resume(restored, tmp_path, {})
    assert restored.seen == 8


@pytest.mark.parametrize("full", ["torch.save", "sdedit_ref.training.run.save_file", "PIL.Image.Image.save"])
def test_a_full_disk_is_one_line_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    full: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(full, full_disk)
    result = command(folder, "--out", tmp_path, *NETWORK, *SHORT)
    assert_one_line(result, "No space left on device; the ")
    assert {path.suffix for path in tmp_path.iterdir()} <= {".jsonl", ".png", ".pt"}, "no half of a file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "40"], "width 40 must be a multiple of 32"),
        (["--size", "9"], "size 9 one of 8"),
        (["--multiples", "1,x"], "'1,x' is not a list of whole numbers"),
        (["--multiples", ""], "multiples '' is not a list of numbers from 1 on"),
        (["--multiples", "1,0"], "multiples '1,0' is not a list of numbers from 1 on"),
        (["--attention", "7"], "attention '7' has a level outside 0..2"),
        (["--images", "10"], "images 10 are fewer than a batch of 32"),
        (["--lr", "-1"], "'--lr': -1.0 is not in the range x>0"),
        (["--ema", "1.5"], "'--ema': 1.5 is not in the range 0<=x<1"),
        (["--flat", "-3"], "'--flat': -3.0 is not in the range 0<=x<=1"),
        (["--seed", "-1"], "'--seed': -1 is not in the range 0<=x<=4294967295"),
        (["--workers", "-1"], "'--workers': -1 is not in the range x>=0"),
        (["--weighting", "none"], "'none' is not one of 'min-snr', 'uniform'"),
        (["--gamma", "0"], "'--gamma': 0.0 is not in the range x>0"),
        (["--batch", "0"], "'--batch': 0 is not in the range x>=1"),
        (["--scales", "0"], "is not a list of SCALE:CHANCE"),
        (["--device", "toaster"], "'toaster' is not one of 'cpu', 'cuda'"),
        (["--prediction", "x0"], "'x0' is not one of 'v', 'eps'"),
        (["--size", "4096"], "smaller than the crop of 4096x4096"),
        (["--out", "/dev/null/run"], "folder /dev/null/run cannot be made or written to: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    command: Command,
) -> None:
    assert_one_line(command(folder, "--out", tmp_path / "run", "--size", "8", *options), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_pictures_that_cannot_be_used_are_one_line_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    workers: str,
    command: Command,
) -> None:
    """Damaged pictures are found before training or when a worker reads them; the held-out picture is whole."""
    arguments = ["--out", tmp_path / "run", *NETWORK, *SHORT, "--workers", workers]
    (tmp_path / "none").mkdir()
    cases = [(tmp_path / "none", "has no images; looked for"), (tmp_path / "cut", "b.jpg is damaged: ")]
    (tmp_path / "cut").mkdir()
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "cut" / "a.jpg")
    whole = (tmp_path / "cut" / "a.jpg").read_bytes()
    (tmp_path / "cut" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    for pictures, message in cases:
        assert_one_line(command(pictures, *arguments, "--hold-out", "2"), message)


def test_the_module_is_a_command_that_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdedit_ref.training", "--help"], capture_output=True, text=True, check=True
    )
    assert "the same command goes on from the last save" in " ".join(done.stdout.split())


def test_without_torch_it_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    script = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('sdedit_ref.training', run_name='__main__')"
    )
    arguments = [str(folder), "--out", str(tmp_path / "run"), "--size", "8"]
    for options, code in ((arguments, 2), (["--help"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", script, *options], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stderr
        expected = f"train: training needs the package torch: {install_hint('export')}\n" if code else ""
        assert done.stderr == expected


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_weights_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    """In a process of its own: the umask is the process's."""
    script = f"""
import os, torch
from pathlib import Path
from sdedit_ref.networks.ddpm import DDPMConfig
from sdedit_ref.training.run import new_run, save
run = new_run(DDPMConfig(3, 8, 32, (1,), 1, (), 2), "v", "cosine", torch.float32, "cpu", 0)
for umask in (0o022, 0o077):
    os.umask(umask)
    folder = Path({str(tmp_path)!r}) / oct(umask)
    folder.mkdir()
    save(run, folder, {{}})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    for umask in (0o022, 0o077):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / oct(umask)).iterdir()}
        assert modes == {"ema.safetensors": 0o666 & ~umask, "state.pt": 0o666 & ~umask}


def test_a_run_tells_its_progress_on_stderr(
    folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdedit_ref.training.progress.ELSEWHERE", 0.0)
    code, told = command(folder, "--out", tmp_path, *NETWORK, *SHORT)
    assert code == 0
    first, last = told.splitlines()
    assert first.startswith("image 4 of 8, ")
    assert last.startswith("image 8 of 8, ")
