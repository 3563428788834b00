"""The image tokenizer: a VQGAN (Esser et al., arXiv 2012.09841) on taming-transformers' Encoder and Decoder.

B batch, C channels, H W pixels, h w token grid (H / downsample), K codebook size
"""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from taming.modules.diffusionmodules.model import Decoder, Encoder
from torch import Tensor, nn

from clipgen.tokenizer.blocks import Checkpointed, replace_blocks
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.norm import replace_group_norms
from clipgen.tokenizer.plain import PlainDecoder, PlainEncoder
from clipgen.tokenizer.quantize import quantizer as make_quantizer


class Reconstruction(NamedTuple):
    image_BCHW: Tensor
    tokens_Bhw: Tensor
    loss: Tensor  # of the quantizer
    vectors_ND: Tensor


class VQGAN(nn.Module):
    """Images in [-1, 1] ⇄ tokens. Its downsampling is patch · 2 ** (len(channel_multipliers) - 1).

    With `patch` above 1 the networks see patches of that side as channels (space-to-depth) and no full-resolution maps,
    which are most of the work on small machines.

    `network=plain` has convolutions of `channels` alone (CogView's). `image_size` is the side of a square, or (height,
    width). `attention_resolutions` are those of the longer side.
    `quantizer` is a kind of `clipgen.tokenizer.quantize`, and what follows it are settings of it.

    taming's 32 norm groups leave a network of 32 channels one channel a group, which takes the mean colour out of
    every map; give narrow networks fewer `norm_groups`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        codebook_size: int,
        code_dim: int,
        channels: int,
        channel_multipliers: Sequence[int],
        res_blocks: int,
        attention_resolutions: Sequence[int] = (),
        z_channels: int = 64,
        dropout: float = 0.0,
        norm_groups: int = 32,
        norm_eps: float = 1e-6,
        patch: int = 1,
        network: str = "resnet",
        quantizer: str = "nearest",
        commitment: float = 0.25,
        unit_codes: bool = True,
        legacy: bool = False,
        decay: float = 0.99,
        kl_weight: float = 5e-4,
        levels: Sequence[int] = (),
    ):
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = image_size
        self.patch = patch
        self.downsample = patch * 2 ** (len(channel_multipliers) - 1)
        self.grid = (height // self.downsample, width // self.downsample)
        if network == "plain":
            halvings = len(channel_multipliers) - 1
            self.encoder = PlainEncoder(3 * patch**2, channels, z_channels, halvings)
            self.decoder = PlainDecoder(3 * patch**2, channels, z_channels, halvings)
        else:
            self.encoder, self.decoder = _taming(
                ch=channels, ch_mult=tuple(channel_multipliers), num_res_blocks=res_blocks,
                attn_resolutions=tuple(attention_resolutions), resolution=max(height, width) // patch,
                z_channels=z_channels, in_channels=3 * patch**2, out_ch=3 * patch**2, dropout=dropout,
            )  # fmt: skip
            replace_blocks(self)
            replace_group_norms(self, norm_groups, norm_eps)
        self.quantizer = make_quantizer(
            quantizer, z_channels, codebook_size, code_dim, commitment, unit_codes, legacy, decay, kl_weight, levels
        )

    def forward(
        self, image_BCHW: Tensor, quantise: bool = True, perturbation: Perturbation | None = None
    ) -> Reconstruction:
        quantized = self.quantizer(self.encoder(self.patches(image_BCHW)), quantise, perturbation)
        image_BCHW = F.pixel_shuffle(self.decoder(quantized.z_BChw), self.patch)
        return Reconstruction(image_BCHW, quantized.tokens_Bhw, quantized.loss, quantized.vectors_ND)

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Tokens (B, h, w), row-major, in [0, K)."""
        return self.quantizer(self.encoder(self.patches(image_BCHW))).tokens_Bhw

    def decode(self, tokens_Bhw: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1] and not clipped."""
        return F.pixel_shuffle(self.decoder(self.quantizer.lookup(tokens_Bhw)), self.patch)

    def decode_blend(self, p_BhwK: Tensor) -> Tensor:
        """As `decode`, of the mean code by a distribution over the codes: one-hot rows give what `decode` gives."""
        return F.pixel_shuffle(self.decoder(self.quantizer.blend(p_BhwK)), self.patch)

    def patches(self, image_BCHW: Tensor) -> Tensor:
        return F.pixel_unshuffle(image_BCHW, self.patch)

    def checkpoint_blocks(self, on: bool = True) -> None:
        """Hold only the input of each block between forward and backward pass, which runs it again."""
        for block in self.modules():
            if isinstance(block, Checkpointed):
                block.checkpointing = on

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients the adaptive GAN weight compares."""
        return self.decoder.conv_out.weight


def _taming(**shape) -> tuple[nn.Module, nn.Module]:
    with contextlib.redirect_stdout(io.StringIO()):  # its Decoder prints its shape
        return Encoder(double_z=False, **shape), Decoder(**shape)
