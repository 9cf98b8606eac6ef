"""Tiles: they cover the state, and their blended outputs are what the network gives for the whole."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import blurring_network, rewrite, write_free_bundle

from sdedit.runtime.bundle import NETWORK
from sdedit.runtime.bundle.reading import read_bundle
from sdedit.runtime.engines import Evaluate, TiledEngine, load_engine
from sdedit.runtime.engines.tiled import OVERLAP, ramp, starts


class Stub:
    """An engine that gives `function` of x and the place of its tiles."""

    name, precision, version, batch, threads = "stub", "float32", "0", 1, 1

    def __init__(self, value: float | None = None) -> None:
        self.value = value
        self.shapes: list[tuple[int, ...]] = []

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        def evaluate() -> None:
            self.shapes.append(inputs["x"].shape)
            out[...] = inputs["x"] if self.value is None else self.value

        return evaluate


@given(multiple_of=st.integers(1, 9), tiles=st.integers(1, 12), sides=st.integers(1, 60))
def test_tiles_cover_a_side_and_overlap(multiple_of: int, tiles: int, sides: int) -> None:
    tile, side = tiles * multiple_of, sides * multiple_of
    found = starts(side, tile, multiple_of)
    if side <= tile:
        assert found == [0]
        return
    assert found[0] == 0
    assert found[-1] == side - tile
    assert not any(start % multiple_of for start in found)
    for before, after in pairwise(found):
        assert before < after <= before + tile
        if tile >= OVERLAP * multiple_of:
            assert after <= before + tile - tile // OVERLAP + multiple_of


@given(length=st.integers(1, 300))
def test_weights_are_positive_and_symmetric(length: int) -> None:
    weights = ramp(length)
    assert weights.min() > 0
    assert np.array_equal(weights, weights[::-1])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 8), (8, 32), (28, 40)])
def test_tiles_of_a_network_of_single_pixels_are_the_whole(height: int, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    out = np.full_like(x, np.nan)
    engine = Stub()
    evaluate = TiledEngine(engine, 8, 4).bind({"x": x, "time": np.zeros(1, np.float32)}, out)
    for _ in range(2):  # nothing is left from an evaluation before
        evaluate()
        assert np.abs(out - x).max() <= 4 * 2**-23 * np.abs(x).max()  # a weighted mean of equal values
    assert set(engine.shapes) == {(1, 3, 8, 8)}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_network_that_sees_its_neighbours_has_no_seams(name: str, tmp_path: Path) -> None:
    """Where a tile ends it sees zeros; there its weight is least. In even grey nothing else is to be seen."""
    pytest.importorskip(name)
    folder = write_free_bundle(tmp_path / "blur")
    rewrite(folder, NETWORK, blurring_network().SerializeToString())
    engine = load_engine(read_bundle(folder), name, "float32", 1)
    x, whole, tiled = (np.ones((1, 3, 48, 64), np.float32) for _ in range(3))
    inputs = {"x": x, "time": np.zeros(1, np.float32)}
    engine.bind(inputs, whole)()
    TiledEngine(engine, 32, 4).bind(inputs, tiled)()
    inner = np.s_[:, :, 1:-1, 1:-1]
    assert np.abs(whole[inner] - 1).max() < 1e-6
    lost = 1 / 3 * 1.5 / (1.5 + 16.5)  # of the sum, at a tile's first row: its weight there, and the other's
    assert np.abs(tiled[inner] - 1).max() <= 2 * lost + 1e-6  # at a corner twice
