"""A diffusers UNet2DModel as a canonical score network; the U-Net itself is the diffusers package's."""

from torch import Tensor, nn


class CanonicalUNet2D(nn.Module):
    """x [B, C, H, W] of data in [-1, 1], time [B], label [B] int64 where there are classes -> [B, C, H, W].

    unet: told x, time and label; it may return a learned variance in further channels. exploding: the network is one of
    ScoreSdeVeScheduler, of data in [0, 1], whose output is the score, already divided by sigma, which is its time (Song
    et al. 2021); what is returned is then eps = -sigma score, the same for data of either range.
    """

    def __init__(self, unet: nn.Module, channels: int, exploding: bool) -> None:
        super().__init__()
        self.unet = unet
        self.channels = channels
        self.exploding = exploding

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.unet((x + 1) / 2 if self.exploding else x, time, label, return_dict=False)[0][:, : self.channels]
        return -time[:, None, None, None] * out if self.exploding else out
