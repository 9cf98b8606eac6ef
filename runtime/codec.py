"""From a picture to the network's state and back. The rest of the runtime relies on no other link between the two."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from .bundle import Bundle


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

    def decode(self, state: np.ndarray) -> Image.Image:
        """The picture of a finished state."""

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

    def decode(self, state: np.ndarray) -> Image.Image:
        return to_image(state)

    def preview(self, x0: np.ndarray) -> Image.Image:
        return to_image(x0)


def codec_for(bundle: Bundle) -> Codec:
    """The codec that the bundle's network was trained with. All bundles are of pixels so far."""
    return PixelCodec(bundle.image.channels)


def to_state(image: Image.Image) -> np.ndarray:
    """Map 8-bit values u to u / 127.5 - 1: float32 [C, H, W]."""
    values = np.atleast_3d(np.asarray(image, np.float32)) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def to_image(state: np.ndarray) -> Image.Image:
    """The inverse of `to_state`: rint((x + 1) 127.5), clamped to 0..255. state: float32 [C, H, W], C = 1 or 3."""
    values = np.clip(np.rint((state + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0).copy())
