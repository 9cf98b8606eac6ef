"""The edits that `sdedit-bench --latent` times, and the models that they need: made once and kept in a folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sdedit.errors import BundleError, reason
from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime.bundle import Bundle, read_bundle

from .shapes import Shape

T0 = 0.5
SEED = 0
SAMPLER: Final = "ddim"
PROMPT = "a fantasy landscape"
EDITS = 2
"""Edits of a process. The first includes what a contender reads at its first use; the last is as all later ones."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """An edit of a whole picture. tiny_autoencoder: in place of the pipeline's own. guidance: 1 for none."""

    name: str
    title: str
    steps: int
    guidance: float
    tiny_autoencoder: bool


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("guided", "20 steps with guidance, two evaluations each", 20, 7.5, tiny_autoencoder=False),
        Scenario("few", "4 steps without guidance, a tiny autoencoder", 4, 1.0, tiny_autoencoder=True),
    )
}


@dataclass(frozen=True)
class Request:
    """The facts that a contender's process is told.

    bundle, pipeline: folders of the same networks. converted: where the pipeline may be in openvino's format. vae:
    folder of the autoencoder, "" for the pipeline's own. side: of the picture. edits: how many to make. threads: of the
    contender.
    """

    bundle: str
    pipeline: str
    converted: str
    vae: str
    side: int
    steps: int
    guidance: float
    edits: int
    threads: int

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Request":
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def guide(self) -> np.ndarray:
        """A horizon between two slopes of colour: uint8 [H, W, 3]."""
        rows, columns = np.mgrid[: self.side, : self.side] / self.side
        sky = np.stack([40 + 60 * rows, 80 + 60 * columns, 200 - 80 * rows], axis=2)
        land = np.stack([150 - 60 * rows, 110 + 60 * columns, 60 + 0 * rows], axis=2)
        return np.where(rows[:, :, None] < 0.5, sky, land).astype(np.uint8)

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """The noise with which every contender begins, float32 of `shape` = [1, C, h, w]."""
        return normal_numpy(SEED, 0, 0, 0, KIND_BEGIN, int(np.prod(shape))).reshape(shape)


def prepare(shape: Shape, scenario: Scenario, folder: Path, threads: int, say: Say) -> Request:
    """Make what is not in the folder yet: the pipeline, a tiny autoencoder and the bundle."""
    from .pipelines import make_tiny_autoencoder, save_pipeline

    home = folder / shape.key
    pipeline, vae = home / "pipeline", home / "tiny-autoencoder"
    made_once(pipeline, lambda unfinished: save_pipeline(shape, unfinished), say)
    if scenario.tiny_autoencoder:
        made_once(vae, make_tiny_autoencoder(shape).save_pretrained, say)
    options = {"vae": str(vae), "distilled": "yes"} if scenario.tiny_autoencoder else {}
    bundle = exported(pipeline, home / scenario.name, options, say)
    return Request(
        bundle=str(bundle.path),
        pipeline=str(pipeline),
        converted=str(home / "openvino"),
        vae=options.get("vae", ""),
        side=shape.side,
        steps=scenario.steps,
        guidance=scenario.guidance,
        edits=EDITS,
        threads=threads,
    )


def made_once(folder: Path, make: Callable[[Path], object], say: Say) -> None:
    """Let `make` fill the folder, unless it is there; it appears when it is complete."""
    if folder.exists():
        return
    say(f"  making {folder.name} of {folder.parent.name}")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    unfinished.rename(folder)


def exported(pipeline: Path, out: Path, options: dict[str, str], say: Say) -> Bundle:
    """The bundle in folder `out`, exported now if it is not there or of another revision."""
    try:
        return read_bundle(out)
    except BundleError as error:
        say(f"  exporting {out.name} of {out.parent.name}" + (f": {reason(error)}" if out.exists() else ""))
    from sdedit.export.bundle import export_bundle
    from sdedit_ref.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(pipeline, **options)
    name = f"{out.parent.name}-{out.name}"
    return export_bundle(checkpoint, out, name=name, licence="CC0: random weights", release=True)


def weights_mib(bundle: Bundle) -> float:
    """Size of the weights of all its networks in float32, in MiB."""
    files = bundle.manifest.files
    size = sum(entry.bytes for name, entry in files.items() if "/" not in name and ".onnx" in name)
    return size * (2 if bundle.manifest.parity.weights == "half" else 1) / 2**20
