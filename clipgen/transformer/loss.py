"""What stage 2 is trained on: the tokens' likelihood, and by choice that the image's CLIP embedding comes out again.

B batch, R some rows of it, L image tokens, V codebook size, D width, E embedding size
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRAIGHT_THROUGH, GUMBEL = ESTIMATORS = ("straight_through", "gumbel")


@dataclass(frozen=True)
class Reconstruction:
    """The paper's second loss: what the predicted tokens decode to shall have the embedding of the image.

    `embed` takes a distribution over the codes at each place, (R, L, V), to unit embeddings (R, E) of the decoded
    images, with gradients. It runs every `every` batches on the first `share` of the rows: of each part that a device
    works off at once, and one at least.
    """

    embed: Callable[[Tensor], Tensor]
    weight: float
    every: int = 4
    share: float = 0.25
    estimator: str = STRAIGHT_THROUGH

    def rows(self, batch: int) -> int:
        return max(1, round(self.share * batch))


def token_loss(logits_BLV: Tensor, tokens_BL: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """The mean of `token_losses`."""
    return token_losses(logits_BLV, tokens_BL, label_smoothing, z_loss).mean()


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Nats of each token (B, L), and `z_loss` times its squared log-normaliser: logits do not drift (PaLM)."""
    logits_NV = logits_BLV.float().flatten(0, 1)
    loss_N = F.cross_entropy(logits_NV, tokens_BL.flatten(), label_smoothing=label_smoothing, reduction="none")
    if z_loss:
        loss_N = loss_N + z_loss * logits_NV.logsumexp(-1).square()
    return loss_N.view(tokens_BL.shape)


def embedding_loss(made_BE: Tensor, wanted_BE: Tensor) -> Tensor:
    """-log s (CLIP-GEN), the similarity s being (1 + cosine) / 2, as the logarithm of a cosine need not exist."""
    cosine_B = F.cosine_similarity(made_BE.float(), wanted_BE.float(), dim=-1)
    return -((1 + cosine_B) / 2).clamp(min=1e-6).log().mean()


def one_code_each(logits_RLV: Tensor, estimator: str) -> Tensor:
    """One-hot codes (R, L, V), whose gradient is that of the softmax.

    `straight_through` takes the likeliest code, `gumbel` draws one (arXiv 1611.01144, temperature 1).
    """
    logits_RLV = logits_RLV.float()
    if estimator == GUMBEL:
        return F.gumbel_softmax(logits_RLV, hard=True)
    p_RLV = logits_RLV.softmax(-1)
    chosen_RLV = torch.zeros_like(p_RLV).scatter_(-1, p_RLV.argmax(-1, keepdim=True), 1.0)
    return p_RLV + (chosen_RLV - p_RLV).detach()
