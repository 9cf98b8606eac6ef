"""The noise contract: known words, independent definition of every element, twins by bits, accuracy by exhaustion."""

from concurrent.futures import ThreadPoolExecutor

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
    assert abs(float(ours) - z) <= 2.5e-7 * max(1, abs(z))


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


@pytest.mark.slow
def test_accuracy_by_exhaustion() -> None:
    """|z - exact| <= 2.5e-7 max(1, |z|) for every pair of words.

    All 2^23 radii give the largest relative error of r, all 2^30 remainders the absolute error of each cosine and sine
    v; quadrants only swap and negate. Then |error| <= r (|v| (error of r + ULP) + error of v), whose ratio to
    max(1, r |v|) is largest at r = 1 / |v|, or at the largest r where that is smaller.
    """
    words = np.arange(1 << 23, dtype=np.uint32) << np.uint32(9)
    r = np.sqrt(np.float32(-2) * noise.log_uniform(words)).astype(np.float64)
    exact = np.sqrt(-2 * np.log(((words >> np.uint32(9)) + 0.5) * 2.0**-23))
    error_r = np.abs(r / exact - 1).max()

    def worst(start: int) -> float:
        remainder = np.arange(start, start + chunk, dtype=np.int32)
        cosine, sine = noise.cosine_and_sine(remainder.view(np.uint32))
        angle = remainder.astype(np.float64) * (2 * np.pi / 2**32)
        largest = 0.0
        for ours, true in ((cosine, np.cos(angle)), (sine, np.sin(angle))):
            v = np.abs(true)
            at = np.minimum(exact.max(), 1 / np.maximum(v, 1e-30))
            largest = max(largest, float((at * (v * (error_r + ULP) + np.abs(ours - true))).max()))
        return largest

    chunk = 1 << 19
    with ThreadPoolExecutor(2) as pool:
        bound = max(pool.map(worst, range(-(1 << 29), 1 << 29, chunk)))
    assert bound * (1 + 1e-6) <= 2.5e-7  # products of the errors are below 1e-6 of them


def test_quadrants_only_swap_and_negate() -> None:
    remainder = np.random.default_rng(0).integers(-(2**29), 2**29, 100_000).astype(np.int32).view(np.uint32)
    c, s = noise.cosine_and_sine(remainder)
    for quadrant, (cosine, sine) in enumerate(((c, s), (-s, c), (-c, -s), (s, -c))):
        ours = noise.cosine_and_sine(remainder + np.uint32(quadrant << 30))
        assert same_bits(ours[0], cosine)
        assert same_bits(ours[1], sine)
