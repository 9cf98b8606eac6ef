"""Every measure of results that are files, against guides, masks and real images that are files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from sdedit.errors import EngineError, ImageError

from .features.running import INPUTS, Features
from .pairs import inside, outside
from .runs import Inputs, Results, read_images, read_masks
from .sets import NEIGHBOURS, fid, kid, precision_recall
from .summary import Value, mean_of, over_seeds, summarise

SUFFIXES = {"inception": "", "dinov2": "_dinov2"}
"""Networks of KID and FID -> the end of their measures' names."""

NEEDED = {
    "kid, fid, precision, recall": (("inception",), "inception WEIGHTS --out inception.onnx"),
    "lpips": (("alexnet-lpips", "vgg-lpips"), "alexnet-lpips TRUNK HEADS --out lpips.onnx"),
}
"""Measures -> the networks of which one gives them, and how to convert the first."""


def load_networks(files: Sequence[Path], threads: int | None = None) -> dict[str, Features]:
    """The converted networks by their names. Raises EngineError, for two files of one network as well."""
    found: dict[str, Features] = {}
    for path in files:
        network = Features(path, threads)
        if network.name in found:
            raise EngineError(f"features {path} are of {network.name}, as a file before: give one")
        found[network.name] = network
    return found


def missing(networks: Mapping[str, Features]) -> Iterator[str]:
    """A line for measures that no network is there for: what they need, and the command that makes it."""
    for measures, (names, arguments) in NEEDED.items():
        if not networks.keys() & set(names):
            command = f"python -m sdedit.evaluation.features {arguments}"
            yield f"Not measured: {measures}. Convert their network with `{command}`, then add --features FILE."


def check_counts(guides: int, reals: int, networks: Mapping[str, Features]) -> None:
    """Raise ImageError where a measure of sets needs more images."""
    if reals < guides:
        raise ImageError(f"{reals} real images for {guides} results of a seed: at least as many are needed")
    of_sets = [name for name in networks if name in INPUTS]
    if of_sets and guides <= NEIGHBOURS:
        raise ImageError(f"{guides} guides: features of {of_sets[0]} need more than {NEIGHBOURS}")


class Measurer:
    """Measures sets of results against the same guides, masks and real images. Raises ImageError for too few.

    networks: those of load_networks; what needs another is left out.
    """

    def __init__(self, inputs: Inputs, reals: Sequence[Path], networks: Mapping[str, Features]) -> None:
        check_counts(len(inputs.guides), len(reals), networks)
        self.inputs, self.networks = inputs, networks
        self._paths = reals
        self._reals: dict[tuple[int, int], Reals] = {}

    def measure(self, results: Results) -> dict[str, Value]:
        """The measures by name. Raises ImageError, EngineError."""
        images = read_images(results.paths, "result")
        size = (images.shape[3], images.shape[2])
        paths = [self.inputs.guides[stem] for stem in results.stems]
        guides = read_images(paths, "guide", None if self.inputs.masks else size)
        if guides.shape != images.shape:
            raise ImageError(
                f"result {results.paths[0]} is {size[0]}x{size[1]} pixels, "
                f"its guide is {guides.shape[3]}x{guides.shape[2]}: with masks they are of one size"
            )
        masks = read_masks(self.inputs, results.stems, size)
        reals = self._reals.setdefault(size, Reals(self._paths, size))
        seeds = np.array(results.seeds)
        found = summarise(images, guides, masks, reals.images, seeds)
        for name, network in self.networks.items():
            if name in INPUTS:
                sets = compare_sets(network.vectors(images), reals.features(network), seeds)
                found |= {f"{measure}{SUFFIXES[name]}": value for measure, value in sets.items()}
            else:
                found |= compare_pairs(network, images, guides, masks, np.array(results.stems))
        return found


class Reals:
    """The real images at one size, and their features; each is computed when it is first asked for."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self._paths, self._size = paths, size
        self._features: dict[str, np.ndarray] = {}

    @cached_property
    def images(self) -> np.ndarray:
        return read_images(self._paths, "real image", self._size)

    def features(self, network: Features) -> np.ndarray:
        """Features [N, D] by a network of INPUTS."""
        if network.name not in self._features:
            self._features[network.name] = network.vectors(self.images)
        return self._features[network.name]


def compare_sets(results: np.ndarray, reals: np.ndarray, seeds: np.ndarray) -> dict[str, Value]:
    """KID, FID, precision and recall of features [N, D] and [M, D], for each seed on its own."""
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "kid": lambda own: kid(own, reals).mean,
        "fid": lambda own: fid(own, reals),
        "precision": lambda own: precision_recall(own, reals)[0],
        "recall": lambda own: precision_recall(own, reals)[1],
    }
    return {name: over_seeds(measure, results, seeds) for name, measure in measures.items()}


def compare_pairs(
    network: Features, results: np.ndarray, guides: np.ndarray, masks: np.ndarray | None, names: np.ndarray
) -> dict[str, Value]:
    """LPIPS to the guides and, with masks, on both sides of them: the other side has the guide's pixels in both.

    names: the guide's of each result.
    """
    key = f"lpips_{network.name.removesuffix('-lpips')}"
    found = {key: mean_of(network.lpips(results, guides), names)}
    if masks is not None:
        for side in (outside, inside):
            each = network.lpips(side(results, guides, masks), guides)
            found[f"{key}_{side.__name__}"] = mean_of(each, names)
    return found
