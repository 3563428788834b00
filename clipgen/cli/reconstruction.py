"""The paper's second loss of stage 2, put together: predicted codes → VQGAN decoder → CLIP's embedding of the image."""

from clipgen.clip.frozen import FrozenClip
from clipgen.config import EmbeddingReconstruction
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.loss import Reconstruction


def embedding_reconstruction(cfg: EmbeddingReconstruction, vqgan: VQGAN, clip: FrozenClip) -> Reconstruction | None:
    """None for a weight of 0; neither network learns from it."""
    if not cfg.weight:
        return None
    vqgan.requires_grad_(False)

    def embed(p_RLV):
        p_RhwV = p_RLV.unflatten(1, vqgan.grid)
        return clip.embed_image(vqgan.decode_blend(p_RhwV).float())

    return Reconstruction(embed, cfg.weight, cfg.every, cfg.share, cfg.estimator)
