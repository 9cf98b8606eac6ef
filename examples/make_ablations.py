"""Make the figures of docs/gallery.md, which repeat the paper's ablations.

The guides are stroke paintings of held-out views. Realism is the sliced Wasserstein distance from the results to other
held-out views (its floor is the distance between two sets of those); faithfulness is the L2 distance to the guide.
"""

from pathlib import Path

import click
import numpy as np

from sdedit.console import run_command, to_json
from sdedit.evaluation.metrics import l2, sliced_wasserstein
from sdedit.evaluation.views import cut, edit, paint
from sdedit.runtime import Editor
from sdedit_ref.training.crops import Crops, find_pictures

T0S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COLOURS = (2, 6, 16)
COUNT, STEPS, SEED = 48, 25, 1
HELD_OUT = (4350, 1485, 5025, 2040)  # a box in bmng.jpg
SCALES = ((1.0, 0.4), (1.5, 0.25), (2.0, 0.25), (3.0, 0.1))  # as in training


def held_out_views(picture: Path, seed: int) -> np.ndarray:
    """float32 [COUNT, 3, 64, 64] in [-1, 1]"""
    return cut(Crops(find_pictures(picture, 64), 64, seed, SCALES, within=HELD_OUT, turns=True), 0, COUNT)


def measure(editor: Editor, guides: np.ndarray, t0: float, real: np.ndarray) -> dict[str, float]:
    """Mean distance over the pyramid's levels, and mean L2 distance to the guides; t0 = 0 measures the guides."""
    seeds = range(SEED, SEED + len(guides))
    results = edit(editor, guides, seeds, t0=t0, steps=STEPS) if t0 > 0 else guides
    return {"realism": float(np.mean(sliced_wasserstein(results, real))), "l2": l2(results, guides)}


def draw(found: dict[str, dict[str, list[float]]], floor: float, path: Path, shown: list[str]) -> None:
    """Plot both distances against t0, one line for each number of colours."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name in shown:
        left.plot(T0S, found[name]["realism"], marker="o", label=f"{name} colours")
        right.plot(T0S, found[name]["l2"], marker="o", label=f"{name} colours")
    left.axhline(floor, color="grey", linestyle="--", label="two sets of real views")
    left.set(xlabel="t0", ylabel="distance to real views", ylim=(0, None))
    right.set(xlabel="t0", ylabel="L2 to the guide", ylim=(0, None))
    left.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
def command(picture: Path, folder: Path | None) -> None:
    """Make the figures of docs/gallery.md. PICTURE is bmng.jpg; FOLDER is where to write  [default: docs]."""
    folder = folder or Path(__file__).parent.parent / "docs"
    painted, real, others = (held_out_views(picture, seed) for seed in (1, 2, 3))
    floor = float(np.mean(sliced_wasserstein(others, real)))
    found: dict[str, dict[str, list[float]]] = {}
    with Editor.open(slots=4) as editor:
        for colours in COLOURS:
            guides = paint(painted, colours)
            measured = [measure(editor, guides, t0, real) for t0 in T0S]
            found[str(colours)] = {key: [values[key] for values in measured] for key in ("realism", "l2")}
            click.echo(f"{colours} {to_json(found[str(colours)], indent=None)}")
    (folder / "ablation.json").write_text(to_json({"t0": T0S, "floor": floor, **found}) + "\n")
    draw(found, floor, folder / "ablation-t0.png", ["6"])
    draw(found, floor, folder / "ablation-guides.png", [str(colours) for colours in COLOURS])


if __name__ == "__main__":
    run_command(command, "make_ablations")
