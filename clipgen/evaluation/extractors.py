"""What turns a picture into features that sets of pictures are compared by.

B pictures, F features, C classes
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipgen.clip.frozen import FrozenClip
from clipgen.data.transforms import to_model_range

BATCH = 64


@dataclass(frozen=True, eq=False)
class Extractor:
    """`network` takes uint8 (B, 3, H, W) of any size and gives (B, F)."""

    name: str  # clip, inception, dinov2
    fingerprint: str  # of the weights; for a CLIP that of its identity
    size: int  # F
    implementation: str
    resize: str  # what it does with a picture of another size
    network: nn.Module
    class_weights_CF: Tensor | None = None  # of Inception: features → logits without their bias, for IS

    @property
    def how(self) -> str:
        return f"{self.implementation}, {self.resize}"

    @torch.no_grad()
    def embed(self, image_BHWC: Tensor) -> Tensor:
        """float32 (B, F) on the CPU of uint8 pictures."""
        weight = next(self.network.parameters(), image_BHWC)
        parts = image_BHWC.permute(0, 3, 1, 2).split(BATCH)
        return torch.cat([self.network(part.to(weight.device)).float().cpu() for part in parts])


class ClipFeatures(nn.Module):
    def __init__(self, clip: FrozenClip):
        super().__init__()
        self.clip = clip

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.clip.encode_image(to_model_range(image_BCHW.permute(0, 2, 3, 1)))


def of_clip(clip: FrozenClip) -> Extractor:
    """The embeddings of a CLIP: a Fréchet distance of theirs is no FID of Inception."""
    identity = clip.identity
    return Extractor(
        "clip", identity.fingerprint(), identity.embed_dim,
        f"unit embeddings of {identity.name} ({identity.fingerprint()[:8]}, {identity.embed_dim} features)",
        f"resized to {identity.image_size} by the CLIP's own preprocessing (bicubic, antialiased)",
        ClipFeatures(clip),
    )  # fmt: skip
