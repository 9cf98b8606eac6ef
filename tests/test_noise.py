"""The noise contract: known words, independent definition of every element, twins by bits, accuracy by exhaustion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from states import same_bits, seeds

from sdedit.kernels import noise, twin
from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP

TWINS = [twin("numpy"), twin("c")]
ULP = 2.0**-24
"""Half a unit in the last place, relative: the rounding of one float32 operation."""
TURN = 2 * np.pi / 2**32
"""Radians of one unit of a 32-bit angle."""
PARTS = 4
BOUND = 2.5e-7
SLACK = 8 * 2.0**-53
"""Most that a cosine or sine turned in float64 is wrong: two of numpy's, a product and a sum of each, and the angle."""


@pytest.mark.parametrize(
    ("seed", "counter", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0_A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    seed: int, counter: tuple[int, ...], words: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in noise.philox(seed, counter)) == words


@pytest.mark.parametrize("twin", TWINS, ids=lambda t: t.name)
@given(
    seed=seeds,
    image=st.integers(0, 2**32 - 1),
    repeat=st.integers(0, 2**31 - 1),
    step=st.integers(0, 2**32 - 1),
    element=st.integers(0, 5000),
)
def test_every_element_is_the_function_that_the_contract_says(
    twin: object, seed: int, image: int, repeat: int, step: int, element: int
) -> None:
    r = [int(word) for word in noise.philox(seed, (element >> 2, step, 2 * repeat + KIND_STEP, image))]
    radius, angle = (r[0], r[1]) if element & 3 < 2 else (r[2], r[3])
    u = ((radius >> 9) + 0.5) * 2.0**-23
    z = np.sqrt(-2 * np.log(u)) * (np.sin if element & 1 else np.cos)(2 * np.pi * angle / 2**32)
    ours = twin.normal(seed, image, repeat, step, KIND_STEP, element + 1)[element]  # type: ignore[attr-defined]
    assert abs(float(ours) - z) <= BOUND * max(1, abs(z))


@given(
    seed=seeds,
    image=st.integers(0, 2**32 - 1),
    repeat=st.integers(0, 2**31 - 1),
    step=st.integers(0, 2**32 - 1),
    kind=st.sampled_from([KIND_BEGIN, KIND_STEP]),
    size=st.sampled_from([0, 1, 3, 4, 63, 255, 256, 257, 1000, 12288]),
)
def test_twins_give_the_same_bits(seed: int, image: int, repeat: int, step: int, kind: int, size: int) -> None:
    step = step if kind == KIND_STEP else 0
    ours, theirs = (t.normal(seed, image, repeat, step, kind, size) for t in TWINS)
    assert isinstance(ours, np.ndarray)
    assert isinstance(theirs, np.ndarray)
    assert np.isfinite(ours).all()
    assert same_bits(ours, theirs)


def test_begin_and_step_and_every_key_have_noise_of_their_own() -> None:
    keys = [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 0, 0, 0, 0), (2**32, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0)]
    keys += [(0, 0, 0, 1, 1), (0, 0, 1, 1, 1)]
    z = np.stack([noise.normal_numpy(*key, 4096) for key in keys])
    assert np.abs(np.corrcoef(z) - np.eye(len(keys))).max() < 5 / np.sqrt(4096)


def test_normals_are_normal() -> None:
    """Moments, lane correlations and the distribution function of 4 million, within five standard errors."""
    n = 1 << 22
    z = noise.normal_numpy(7, 0, 0, 0, KIND_BEGIN, n).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / n)
    lanes = z.reshape(-1, 4).T
    assert np.abs(np.corrcoef(lanes) - np.eye(4)).max() < 5 / np.sqrt(n / 4)
    assert np.abs(np.corrcoef(lanes**2) - np.eye(4)).max() < 5 / np.sqrt(n / 4)
    for edge, below in ((-3, 0.0013498980), (-1, 0.1586552539), (0, 0.5), (0.5, 0.6914624613), (2, 0.9772498681)):
        assert abs((z < edge).mean() - below) < 5 * np.sqrt(below * (1 - below) / n)


@pytest.mark.parametrize("twin", TWINS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((-1, 0, 0, 0, 0, 4), "seed -1"),
        ((2**64, 0, 0, 0, 0, 4), "seed 18446744073709551616"),
        ((0, 2**32, 0, 0, 0, 4), "image"),
        ((0, 0, 2**31, 0, 0, 4), "repeat"),
        ((0, 0, 0, 2**32, 1, 4), "step"),
        ((0, 0, 0, 0, 2, 4), "kind"),
        ((0, 0, 0, 0, 0, 2**31), "size"),
        ((0, 0, 0, 1, 0, 4), "begin noise"),
    ],
)
def test_keys_out_of_range_are_refused(twin: object, key: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        twin.normal(*key)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def radii() -> tuple[float, float]:
    """The largest relative error of all 2^23 radii, and the largest radius."""
    words = np.arange(1 << 23, dtype=np.uint32) << np.uint32(9)
    r = np.sqrt(np.float32(-2) * noise.log_uniform(words)).astype(np.float64)
    exact = np.sqrt(-2 * np.log(((words >> np.uint32(9)) + 0.5) * 2.0**-23))
    return float(np.abs(r / exact - 1).max()), float(exact.max())


def errors_are_small(radii: tuple[float, float], remainder: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> bool:
    """Whether |z - exact| <= BOUND max(1, |z|) at any radius, for these angles, whose exact values are within SLACK.

    See test_accuracy_by_exhaustion: the largest ratio is at r = 1 / max(|v|, 1 / largest r).
    """
    error_r, largest_r = radii
    bound = BOUND * (1 - 1e-6)  # products of the errors are below 1e-6 of them
    ours = noise.cosine_and_sine_of_an_eighth(remainder.astype(np.int32))
    for approximate, exact in zip(ours, (cosine, sine), strict=True):
        v = np.abs(exact)
        error = np.abs(approximate - exact) + v * (error_r + ULP)
        if not (error - bound * np.maximum(v, 1 / largest_r)).max() <= -SLACK:
            return False
    return True


NEGATIVE = -np.array([*range(1 << 17, 1 << 29, 1 << 18), 1 << 29])
"""Remainders whose values are not those of the positive ones negated or kept, bit for bit."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_accuracy_by_exhaustion(radii: tuple[float, float], part: int) -> None:
    """|z - exact| <= 2.5e-7 max(1, |z|) for every pair of words.

    All 2^23 radii give the largest relative error of r, all remainders of angles the absolute error of each cosine and
    sine v. Then |error| <= r (|v| (error of r + ULP) + error of v), whose ratio to max(1, r |v|) is largest at
    r = 1 / |v|, or at the largest r where that is smaller. Quadrants and signs only swap and negate, which is the next
    test: remainders from 0 to 2^29 and NEGATIVE are all.

    The exact cosines and sines are those of a chunk's first angle, turned by the chunk's offsets in float64.
    """
    chunk, size = 1 << 13, (1 << 29) // PARTS
    offsets = np.arange(chunk)
    cosines, sines = np.cos(offsets * TURN), np.sin(offsets * TURN)
    for start in range(part * size, (part + 1) * size, chunk):
        c, s = np.cos(start * TURN), np.sin(start * TURN)
        exact = c * cosines - s * sines, s * cosines + c * sines
        assert errors_are_small(radii, start + offsets, *exact), start
    assert errors_are_small(radii, NEGATIVE, np.cos(NEGATIVE * TURN), np.sin(NEGATIVE * TURN))


def test_quadrants_and_signs_only_swap_and_negate() -> None:
    """Signs: the angle is split at multiples of 2^18, and what follows is odd or even in both parts, as IEEE's rounding
    is; only ties of the split are not symmetric.
    """
    remainder = np.random.default_rng(0).integers(0, 2**29, 1 << 20).astype(np.int32)
    remainder = remainder[remainder % (1 << 18) != 1 << 17]
    c, s = noise.cosine_and_sine(remainder.view(np.uint32))
    negated = noise.cosine_and_sine((-remainder).view(np.uint32))
    assert same_bits(negated[0], c)
    assert np.array_equal(negated[1], -s)
    for quadrant, (cosine, sine) in enumerate(((c, s), (-s, c), (-c, -s), (s, -c))):
        ours = noise.cosine_and_sine(remainder.view(np.uint32) + np.uint32(quadrant << 30))
        assert same_bits(ours[0], cosine)
        assert same_bits(ours[1], sine)
