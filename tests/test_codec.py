"""Codecs: pictures survive the way to the network's state and back, and only the codec knows how they are related."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from pictures import GREY, RGB, random_photo
from PIL import Image
from stubs import StubEngine

from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, network_inputs, read_bundle
from sdedit.runtime.codec import PixelCodec, codec_for, to_image, to_state
from sdedit.runtime.devices.cpu import CpuDevice

# Values


def test_every_8_bit_value_survives_the_way_to_the_network_and_back() -> None:
    state = to_state(Image.fromarray(GREY))
    assert (state.shape, state.dtype) == ((1, 16, 16), np.float32)
    assert (state.min(), state.max()) == (-1, 1)
    assert np.array_equal(np.asarray(to_image(state)), GREY)


def test_channels_come_first_in_a_state() -> None:
    state = to_state(Image.fromarray(RGB))
    assert state.shape == (3, 5, 7)
    assert state.flags.c_contiguous
    assert np.array_equal(state[1], RGB[..., 1] / np.float32(127.5) - np.float32(1))
    assert np.array_equal(np.asarray(to_image(state)), RGB)


def test_values_beyond_the_range_are_clamped_and_halves_go_to_the_even_number() -> None:
    state = np.float32([[[-9, -1.01, 1.01, 9, 0, 0.99607843]]])
    assert np.asarray(to_image(state)).tolist() == [[0, 0, 255, 255, 128, 254]]


def test_the_codec_of_pixels() -> None:
    codec = PixelCodec(3)
    picture, mask = Image.fromarray(RGB), np.float32(RGB[..., 0] > 99)
    state = codec.encode(picture)
    assert np.array_equal(state, to_state(picture))
    assert np.array_equal(np.asarray(codec.decode(state)), RGB)
    assert np.array_equal(np.asarray(codec.preview(state)), RGB)
    assert np.array_equal(codec.mask(mask), mask)


def test_a_bundles_codec_makes_its_states() -> None:
    bundle = read_bundle(SHIPPED)
    codec = codec_for(bundle, lambda name: pytest.fail(f"{name} was loaded"))
    picture = Image.new("RGB", (64, 64))
    assert codec.picture_channels == 3
    assert codec.encode(picture).shape == bundle.state_shape


# An editor whose pictures and states differ in every respect


@dataclass(frozen=True)
class HalvedCodec:
    """Codec like a latent network's: the state has four channels, the green values of 2x2 cells, at half the size."""

    picture_channels: int = 3
    seen: list[Image.Image] = field(default_factory=list)
    joined: list[tuple[tuple[int, int], int]] = field(default_factory=list)

    def encode(self, picture: Image.Image) -> np.ndarray:
        self.seen.append(picture)
        green = to_state(picture)[1]
        return np.stack([green[y::2, x::2] for y in (0, 1) for x in (0, 1)])

    def mask(self, mask: np.ndarray) -> np.ndarray:
        return mask.reshape(32, 2, 32, 2).max(axis=(1, 3))

    def conditions(self, picture: Image.Image, edited: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def decode(self, state: np.ndarray) -> Image.Image:
        green = np.empty((64, 64), np.float32)
        for index, part in enumerate(state):
            green[index // 2 :: 2, index % 2 :: 2] = part
        return to_image(green[None]).convert("RGB")

    def join(self, picture: Image.Image, original: Image.Image, kept: np.ndarray) -> Image.Image:
        self.joined.append((original.size, int(kept.sum())))
        return picture

    def preview(self, x0: np.ndarray) -> Image.Image:
        return self.decode(x0)


def halved_editor(function: Callable[[np.ndarray, float], np.ndarray]) -> Editor:
    codec = HalvedCodec()
    device = CpuDevice(StubEngine(function), network_inputs((4, 32, 32)), 1, twin())
    editor = Editor(read_bundle(SHIPPED), device)
    editor._codec = codec
    return editor


def test_an_edit_takes_pictures_and_states_from_the_codec_alone() -> None:
    photo = random_photo(90, 80)
    mask = np.zeros((80, 90), np.float32)
    mask[30:50, 30:60] = 1
    with halved_editor(lambda x, time: -x) as editor:
        masked = editor.edit(photo, mask, steps=2, t0=0.4, feather=0).images[0].pil
        job = editor.submit(photo, steps=3)
        previews = list(job.previews())
        whole = job.result().images[0].pil
        codec = editor._codec
    assert isinstance(codec, HalvedCodec)
    assert codec.joined == [((64, 64), 64 * 64 - 20 * 30)]  # of the edit with a mask alone
    before, after = np.asarray(photo), np.asarray(masked)
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert (after != before)[mask == 1].any(axis=1).mean() > 0.9
    assert whole.size == (64, 64)
    assert {preview.pil.size for preview in previews} <= {(64, 64)}
