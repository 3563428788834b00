"""The plain convolutional VQ-VAE of CogView (arXiv 2105.13290, section 2.2): no norms, no residuals, no attention.

B batch, C channels, H W pixels, h w token grid
"""

from torch import Tensor, nn


class PlainEncoder(nn.Module):
    """Images (B, in, H, W) → (B, z, h, w) by `halvings` convolutions of stride 2; CogView has 3 of 512 channels."""

    def __init__(self, in_channels: int, channels: int, z_channels: int, halvings: int):
        super().__init__()
        widths = [in_channels, *[channels] * halvings]
        self.down = nn.ModuleList(nn.Conv2d(a, channels, 4, 2, 1) for a in widths[:-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for conv in self.down:
            x_BCHW = conv(x_BCHW).relu()
        return self.conv_out(x_BCHW)


class PlainDecoder(nn.Module):
    """The encoder turned round, with a last convolution at full resolution."""

    def __init__(self, out_channels: int, channels: int, z_channels: int, halvings: int):
        super().__init__()
        self.conv_in = nn.Conv2d(z_channels, channels, 1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 4, 2, 1) for _ in range(halvings))
        self.conv_out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, z_BChw: Tensor) -> Tensor:
        x_BCHW = self.conv_in(z_BChw).relu()
        for conv in self.up:
            x_BCHW = conv(x_BCHW).relu()
        return self.conv_out(x_BCHW)
