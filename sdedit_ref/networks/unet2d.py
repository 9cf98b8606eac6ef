"""A diffusers UNet2DModel as a canonical score network; the U-Net itself is the diffusers package's."""

from torch import Tensor, nn


class CanonicalUNet2D(nn.Module):
    """x [B, C, H, W] of data in [-1, 1], time [B], and label [B] int64 if there are classes -> [B, C, H, W].

    unet: takes x, time and label, and may return a learned variance in further channels, which is dropped. exploding:
    the network was trained with ScoreSdeVeScheduler on data in [0, 1]. Its time is sigma, and its output is the score,
    already divided by sigma (Song et al. 2021); we return eps = -sigma score, which is the same for both data ranges.
    """

    def __init__(self, unet: nn.Module, channels: int, exploding: bool) -> None:
        super().__init__()
        self.unet = unet
        self.channels = channels
        self.exploding = exploding

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.unet((x + 1) / 2 if self.exploding else x, time, label, return_dict=False)[0][:, : self.channels]
        return -time[:, None, None, None] * out if self.exploding else out
