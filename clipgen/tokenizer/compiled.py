"""torch.compile of stage 1's networks where they stand, so that a checkpoint has the same keys with it and without."""

import torch
from torch import Tensor, nn

from clipgen.tokenizer.adversary import Adversary
from clipgen.tokenizer.vqgan import VQGAN


def compile_in_place(vqgan: VQGAN, adversary: Adversary | None) -> None:
    """Encoder, decoder and discriminator; they are compiled when they first run."""

    class LastLayer(type(vqgan.decoder.conv_out)):
        """Outside of the compiled graph: the adaptive weight asks for its gradients alone, twice a batch."""

        @torch.compiler.disable
        def forward(self, x_BChw: Tensor) -> Tensor:
            return super().forward(x_BChw)

    vqgan.decoder.conv_out.__class__ = LastLayer
    networks: list[nn.Module] = [vqgan.encoder, vqgan.decoder]
    if adversary is not None:
        networks.append(adversary.discriminator)
    for network in networks:
        network.compile()
