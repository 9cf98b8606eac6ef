"""Make the figures of docs/gallery.md, the paper's ablations: python examples/make_ablations.py bmng.jpg [FOLDER].

Guides are simulated strokes of held-out views. Realism is the sliced Wasserstein distance of the results to other
held-out views (its floor is the distance of two sets of those), faithfulness the L2 distance to the guide.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdedit.evaluation.metrics import sliced_wasserstein
from sdedit.runtime import Editor
from sdedit.runtime.codec import to_image
from sdedit.runtime.images.strokes import stroke_painting
from sdedit_ref.training.crops import Crops

T0S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COLOURS = (2, 6, 16)
COUNT, STEPS, SEED = 48, 25, 1
HELD_OUT = (4350, 1485, 5025, 2040)  # in bmng.jpg
SCALES = ((1.0, 0.4), (1.5, 0.25), (2.0, 0.25), (3.0, 0.1))  # as in training


def held_out_views(picture: Path, seed: int) -> Tensor:
    """float32 [COUNT, 3, 64, 64] in [-1, 1]"""
    crops = Crops([picture], 64, seed, SCALES, within=HELD_OUT, turns=True)
    return torch.stack([crops[index] for index in range(COUNT)])


def as_state(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)


def measure(editor: Editor, guides: list[Image.Image], t0: float, real: Tensor) -> dict[str, float]:
    """Mean distance over the pyramid; mean Euclidean distance to the guide, of pixels in [0, 1]. t0 = 0: the guides."""
    painted = torch.stack(list(map(as_state, guides)))
    results = painted
    if t0 > 0:
        jobs = [editor.submit(guide, t0=t0, steps=STEPS, seed=SEED + index) for index, guide in enumerate(guides)]
        results = torch.stack([as_state(job.result().images[0].pil) for job in jobs])
    l2 = (results - painted).flatten(1).norm(dim=1) / 2
    return {"realism": float(np.mean(sliced_wasserstein(results, real))), "l2": float(l2.mean())}


def draw(found: dict[str, dict[str, list[float]]], floor: float, path: Path, shown: list[str]) -> None:
    """Both distances against t0, a line for each kind of guide."""
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


def main() -> None:
    picture = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent.parent / "docs"
    painted, real, others = (held_out_views(picture, seed) for seed in (1, 2, 3))
    floor = float(np.mean(sliced_wasserstein(others, real)))
    found: dict[str, dict[str, list[float]]] = {}
    with Editor.open(slots=4) as editor:
        for colours in COLOURS:
            guides = [stroke_painting(to_image(view.numpy()), colours=colours) for view in painted]
            measured = [measure(editor, guides, t0, real) for t0 in T0S]
            found[str(colours)] = {key: [values[key] for values in measured] for key in ("realism", "l2")}
            print(colours, json.dumps(found[str(colours)]), flush=True)
    (folder / "ablation.json").write_text(json.dumps({"t0": T0S, "floor": floor, **found}, indent=2) + "\n")
    draw(found, floor, folder / "ablation-t0.png", ["6"])
    draw(found, floor, folder / "ablation-guides.png", [str(colours) for colours in COLOURS])


if __name__ == "__main__":
    main()
