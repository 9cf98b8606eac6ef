"""From a picture to the network's state and back. The rest of the runtime relies on no other link between the two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from sdedit.errors import EngineError

from .bundle import DECODER, ENCODER, KNOWN, Bundle
from .images import carry_error

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""A loaded network: inputs by name -> outputs by name."""

Load = Callable[[str], Run]
"""Loads the network in a file of the bundle."""


class Codec(Protocol):
    """Turns pictures into states and back.

    A picture is an 8-bit PIL image with `picture_channels` channels (1: grey, 3: RGB), of a size that the network
    takes. A state is float32 [C, H, W], the array that the network denoises.
    """

    @property
    def picture_channels(self) -> int:
        """1 for grey, 3 for RGB."""

    def encode(self, picture: Image.Image) -> np.ndarray:
        """The state of a picture: float32 [C, H, W]."""

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask at picture size, float32 in [0, 1], as one of the state: float32 [H, W]."""

    def conditions(self, picture: Image.Image, edited: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the network that tell it the picture around the mask, by name.

        edited: bool [H, W], the pixels of the picture that may change.
        """

    def decode(self, state: np.ndarray) -> Image.Image:
        """The picture of a finished state."""

    def join(self, picture: Image.Image, original: Image.Image, kept: np.ndarray) -> Image.Image:
        """The decoded picture, made to fit the kept part of the original, beside which it will be pasted.

        kept: bool [H, W].
        """

    def preview(self, x0: np.ndarray) -> Image.Image:
        """A picture of a prediction in mid-edit, of picture size. It may be cheaper and coarser than `decode`."""


@dataclass(frozen=True)
class PixelCodec:
    """The codec of networks whose state is the picture: 8-bit values u are u / 127.5 - 1."""

    picture_channels: int

    def encode(self, picture: Image.Image) -> np.ndarray:
        return to_state(picture)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def conditions(self, picture: Image.Image, edited: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def decode(self, state: np.ndarray) -> Image.Image:
        return to_image(state)

    def join(self, picture: Image.Image, original: Image.Image, kept: np.ndarray) -> Image.Image:
        return picture

    def preview(self, x0: np.ndarray) -> Image.Image:
        return to_image(x0)


class LatentCodec:
    """The codec of networks that work on an autoencoder's latents (Rombach et al. 2022).

    A cell of the latent stands for `factor` x `factor` pixels. `encode` takes the mean of the encoder's distribution,
    not a sample, so it has no noise of its own. The decoder is not exact: only `paste` keeps a photo's bytes.
    """

    picture_channels = 3

    def __init__(self, bundle: Bundle, load: Load) -> None:
        """load: called at the first use of the encoder and of the decoder."""
        self._factor = bundle.factor
        self._inpaints = KNOWN in bundle.manifest.inputs
        self._preview = bundle.preview()
        self._load = load

    @cached_property
    def _encoder(self) -> Run:
        return self._load(ENCODER)

    @cached_property
    def _decoder(self) -> Run:
        return self._load(DECODER)

    def encode(self, picture: Image.Image) -> np.ndarray:
        return self.encode_values(to_state(picture))

    def encode_values(self, values: np.ndarray) -> np.ndarray:
        """The latent of a picture's values, float32 [3, H, W] in [-1, 1]."""
        return finite("encoder", self._encoder({"image": values[None]})["latent"][0])

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """The maximum over each cell: no stroke is too thin to be edited, and greys stay greys.

        An inpainting network knows the kept part itself. There the cells around are edited too, so that the decoder,
        which looks at neighbours, finds one network's cells on both sides of the border.
        """
        cells = self._cells(mask)
        if self._inpaints:
            cells = sliding_window_view(np.pad(cells, 1, mode="edge"), (3, 3)).max(axis=(2, 3))
        return np.ascontiguousarray(cells, np.float32)

    def conditions(self, picture: Image.Image, edited: np.ndarray) -> dict[str, np.ndarray]:
        """An inpainting network's `known`, float32 [1 + C, h, w]: the mask, and the latent of the kept part on grey."""
        if not self._inpaints:
            return {}
        mask: np.ndarray = edited.astype(np.float32)
        kept = self.encode_values(to_state(picture) * (np.float32(1) - mask))
        return {KNOWN: np.concatenate([self._cells(mask)[None], kept])}

    def _cells(self, mask: np.ndarray) -> np.ndarray:
        """The largest value in each cell."""
        height, width = (side // self._factor for side in mask.shape)
        cells: np.ndarray = mask.reshape(height, self._factor, width, self._factor).max(axis=(1, 3))
        return cells

    def decode(self, state: np.ndarray) -> Image.Image:
        return to_image(finite("decoder", self._decoder({"latent": state[None]})["image"][0]))

    def join(self, picture: Image.Image, original: Image.Image, kept: np.ndarray) -> Image.Image:
        """Carried error: the autoencoder shifts colours, and what it did on kept pixels is undone beside them, too."""
        return carry_error(picture, original, kept, max(self._factor // 2, 1))

    def preview(self, x0: np.ndarray) -> Image.Image:
        """The bundle's linear map of each cell to a colour, enlarged: it costs no network."""
        colours = np.einsum("chw,cd->dhw", x0, self._preview[:-1]) + self._preview[-1][:, None, None]
        small = to_image(np.nan_to_num(colours.astype(np.float32)))
        size = (small.width * self._factor, small.height * self._factor)
        return small.resize(size, Image.Resampling.BILINEAR)


def finite(what: str, values: np.ndarray) -> np.ndarray:
    """The values; raises EngineError if they are not all finite."""
    if not np.isfinite(values).all():
        raise EngineError(f"the {what} returned values that are not finite")
    return values


def codec_for(bundle: Bundle, load: Load) -> Codec:
    """The codec that the bundle's network was trained with. load: see LatentCodec."""
    if bundle.manifest.latent is None:
        return PixelCodec(bundle.image.channels)
    return LatentCodec(bundle, load)


def to_state(image: Image.Image) -> np.ndarray:
    """Map 8-bit values u to u / 127.5 - 1: float32 [C, H, W]."""
    values = np.atleast_3d(np.asarray(image, np.float32)) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def to_image(state: np.ndarray) -> Image.Image:
    """The inverse of `to_state`: rint((x + 1) 127.5), clamped to 0..255. state: float32 [C, H, W], C = 1 or 3."""
    values = np.clip(np.rint((state + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0).copy())
