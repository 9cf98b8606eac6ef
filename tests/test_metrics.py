"""Metrics of images: distances and the grid, against theory and against numbers of the first version, in torch."""

import math

import numpy as np
import pytest

from sdedit.evaluation.metrics import grid, l2, laplacian_pyramid, root_mean_square, sliced_wasserstein

STORED: dict[int, tuple[list[float], float, float, float]] = {
    17: ([0.1626610904932022], 1.5343155129812658, 13.504305839538574, 0.9175145030021667),
    32: (
        [0.0863477811217308, 0.1887272447347641, 0.6411358714103699],
        0.438485664781183,
        24.971328735351562,
        0.9010885953903198,
    ),
    34: ([0.07427066564559937, 0.16911673545837402], 0.20795233198441565, 26.47819709777832, 0.899319052696228),
    64: (
        [0.03835172578692436, 0.082956463098526, 0.1991051584482193, 0.6249592304229736],
        0.2869216538965702,
        50.16047668457031,
        0.9050334095954895,
    ),
}
"""Size of the images -> sliced Wasserstein, grid, L2 and root mean square, as torch computed them in float32."""


def some_images(seed: int, size: int, blur: int) -> np.ndarray:
    x = np.random.default_rng(seed).uniform(-1, 1, (6, 3, size, size))
    for axis in (2, 3):
        for _ in range(blur):
            x = (x + np.roll(x, 1, axis)) / 2
    return np.clip(3 * x, -1, 1).astype(np.float32)


@pytest.mark.parametrize("size", STORED)
def test_the_values_are_those_that_torch_computed(size: int) -> None:
    a, b = some_images(0, size, 1), some_images(1, size, 2)
    distances, pattern, distance, difference = STORED[size]
    # Float32 sums of up to 73,728 terms in another order: 1e-7 each, growing with their square root.
    assert sliced_wasserstein(a, b) == pytest.approx(distances, rel=1e-5)
    assert grid(a) == pytest.approx(pattern, rel=1e-5)
    assert l2(a, b) == pytest.approx(distance, rel=1e-5)
    assert root_mean_square(a, b) == pytest.approx(difference, rel=1e-5)


def test_grid_is_the_difference_between_the_pixels_of_a_square() -> None:
    images = np.random.default_rng(0).random((32, 3, 9, 8), np.float32) - np.float32(0.5)
    # 32 x 4 x 4 squares of uniform numbers, less their mean: deviation (3/4)^0.5 12^-0.5, over 512^0.5, of 127.5.
    assert 0.5 < grid(images) / (127.5 * math.sqrt(3 / 4 / 12 / 512)) < 2
    pattern = np.float32([[3, -1], [-1, -1]]) / np.float32(127.5)
    smooth = np.broadcast_to(np.linspace(-1, 1, 32, dtype=np.float32)[:, None, None, None], (32, 3, 8, 8))
    assert math.isclose(grid(smooth + np.tile(pattern, (4, 4))), math.sqrt(3), rel_tol=1e-4)  # ((9 + 3) / 4) ** 0.5


def test_sliced_wasserstein_tells_whether_and_where_images_differ() -> None:
    generator = np.random.default_rng(0)
    a, b, c = (generator.standard_normal((24, 3, 32, 32), np.float32) for _ in range(3))
    assert sliced_wasserstein(a, a) == [0, 0, 0]
    same = sliced_wasserstein(a, b)
    assert len(same) == len(laplacian_pyramid(a)) == 3
    striped = np.broadcast_to(c.mean(2, keepdims=True), c.shape)
    different = sliced_wasserstein(a, striped)
    assert different[0] > 3 * same[0]
    odd = generator.standard_normal((2, 4, 3, 34, 34), np.float32)  # 17 pixels are not halved
    assert len(sliced_wasserstein(*odd)) == 2
    with pytest.raises(ValueError, match="different shapes"):
        sliced_wasserstein(a, a[:3])
