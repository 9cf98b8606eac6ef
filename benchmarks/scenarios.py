"""The scenarios of sdedit-bench: a network, with or without a mask, one or more images at once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import raise_interrupt
from sdedit.runtime.bundle import SHIPPED, Bundle, read_bundle
from sdedit.runtime.bundle.variants import FOLDER
from sdedit.runtime.checks.parity import parity_inputs

from .case import Case
from .contenders import TORCH

OFFICIAL_EVALUATIONS = 500
"""Network evaluations of the official code at t0 = 0.5."""

OUR_EVALUATIONS = 25
"""The runtime's default number of steps; docs/few-steps.md measures its quality."""

COLD_STEPS = 25


@dataclass(frozen=True)
class Scenario:
    """An edit to measure.

    prepare: temporary folder -> folders of the bundle and of the torch weights (None: no weights); it may make them.
    quick: part of --quick. cold: measure cold starts too. compiled: measure peers that compile for minutes first.
    parity_steps: steps of the edit in the parity check. seconds: of timing, if all contenders take part. needs:
    packages that `prepare` imports.
    """

    name: str
    title: str
    prepare: Callable[[Path], tuple[Path, Path | None]]
    masked: bool = True
    batch: int = 1
    quick: bool = False
    cold: bool = False
    compiled: bool = False
    parity_steps: int = 10
    seconds: float = 60.0
    needs: Sequence[str] = ()

    def case(self, bundle: Path, weights: Path | None, threads: int) -> Case:
        folder = "" if weights is None else str(weights)
        return Case(str(bundle), folder, masked=self.masked, batch=self.batch, threads=threads)


def from_bundle(path: Path) -> Callable[[Path], tuple[Path, Path | None]]:
    def prepare(folder: Path) -> tuple[Path, Path | None]:
        weights = folder / f"weights-{read_bundle(path).sha256[:16]}"
        try:
            from .weights import network_of, save_network

            if not weights.exists():
                save_network(network_of(read_bundle(path)), weights)
        except (ImportError, ValueError, KeyError) as error:  # no torch, or another family: each peer reports it
            raise_interrupt(error)
            return path, None
        return path, weights

    return prepare


def official256(folder: Path) -> tuple[Path, Path | None]:
    """Export the official 256x256 architecture with random weights."""
    import torch

    from sdedit_ref.networks.ddpm import DDPM, DDPMConfig

    from .network import export_official
    from .weights import save_network

    bundle, weights = folder / "official256", folder / "official256-weights"
    if not bundle.exists():
        torch.manual_seed(0)
        network = DDPM(DDPMConfig()).eval()
        save_network(network, weights)
        add_unjudged_int8(export_official(folder, network))
    return bundle, weights


def add_unjudged_int8(bundle: Bundle) -> None:
    """Add an int8 network for its speed alone: edits with random weights cannot be judged. Needs nncf, else nothing."""
    from sdedit.errors import SdeditError
    from sdedit.export import int8
    from sdedit.export.onnx_nodes import read_model

    try:
        nncf = int8.import_nncf()
    except SdeditError:
        return
    states = [parity_inputs(bundle, index, bundle.state_shape) for index in range(len(bundle.reference_levels))]
    quantised = int8.quantise(nncf, read_model(bundle.read_network()), states)
    (bundle.path / FOLDER).mkdir()
    int8.write_variant(bundle, quantised, {"edit_psnr": None})


def scenarios(bundle: Path | None) -> list[Scenario]:
    """The scenarios of one bundle, or by default those of the shipped model and of the official network."""
    own = from_bundle(SHIPPED if bundle is None else bundle)
    name = "earth64" if bundle is None else os.path.basename(os.path.abspath(bundle))  # noqa: PTH119, PTH100
    found = [
        Scenario(f"{name}-masked", f"{name}, masked edit", own, quick=True, cold=True, compiled=True, seconds=45),
        Scenario(f"{name}-unmasked", f"{name}, whole edit", own, masked=False, seconds=30),
    ]
    for batch in (2, 4, 8):
        title = f"{name}, masked edit, {batch} images at once"
        found.append(Scenario(f"{name}-batch{batch}", title, own, batch=batch, seconds=30))
    if bundle is None:
        title = "the official 256x256 network, random weights, masked edit"
        found.append(
            Scenario(
                "official256-masked",
                title,
                official256,
                compiled=True,
                parity_steps=2,
                seconds=150,
                needs=(*TORCH, "onnxscript"),
            )
        )
    return found
