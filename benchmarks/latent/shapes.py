"""The sizes of the pipelines that `sdedit-bench --latent` makes."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a pipeline's networks; channels of a U-Net or an autoencoder are given by level.

    side: of a picture, in pixels. groups: of the norms. rounds: how many processes each contender has.
    """

    name: str
    side: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    heads: int
    groups: int
    autoencoder: tuple[int, ...]
    text_width: int
    text_layers: int
    text_heads: int
    rounds: int

    @property
    def factor(self) -> int:
        """Pixels of a side of one cell of a latent."""
        return int(2 ** (len(self.autoencoder) - 1))

    @property
    def key(self) -> str:
        """Name of the shape's folder: another one for other sizes."""
        text = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "sd15",
            side=512,
            channels=(320, 640, 1280, 1280),
            attention=(True, True, True, False),
            blocks=2,
            heads=8,
            groups=32,
            autoencoder=(128, 256, 512, 512),
            text_width=768,
            text_layers=12,
            text_heads=12,
            rounds=1,
        ),
        Shape(
            "small",
            side=256,
            channels=(96, 192, 384, 384),
            attention=(True, True, True, False),
            blocks=1,
            heads=8,
            groups=32,
            autoencoder=(32, 64, 128, 128),
            text_width=256,
            text_layers=4,
            text_heads=4,
            rounds=2,
        ),
        Shape(
            "tiny",
            side=16,
            channels=(8, 8),
            attention=(False, True),
            blocks=1,
            heads=4,
            groups=4,
            autoencoder=(8, 8),
            text_width=32,
            text_layers=1,
            text_heads=4,
            rounds=1,
        ),
    )
}
"""Stable Diffusion 1.5; one of a sixteenth of its parameters, for machines of few processors; and one for tests."""
