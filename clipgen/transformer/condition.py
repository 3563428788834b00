"""From a CLIP embedding to prefix tokens: centring, noise of a known level, dropout to a learned null.

The swap of a text embedding for an image embedding fails where the two lie far apart (the modality gap,
arXiv 2203.02053). Two things are done about it (C3, arXiv 2401.08567): both sides lose their own mean, and training
adds noise, here to a *drawn* cosine that the model is told, so that it can be asked at the cosine a text deserves.

B batch, E embedding size, P prefix tokens, D width
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL_FREQUENCIES = 16


class Conditioner(nn.Module):
    """(embedding, level) → P tokens: `n_prefix` linear views of the embedding and, with `level_token`, its level.

    With `gft` the level's token also tells beta, the temperature of guidance-free training (arXiv 2501.15420).
    """

    def __init__(
        self, embed_dim: int, width: int, n_prefix: int, drop_prob: float, level_token: bool = True, gft: bool = False
    ):
        super().__init__()
        self.n_tokens = n_prefix + level_token
        self.drop_prob = drop_prob
        self.embed_dim = embed_dim
        self.project = nn.Linear(embed_dim, n_prefix * width)
        self.level = nn.Linear(LEVEL_FREQUENCIES, width) if level_token else None
        self.beta = nn.Linear(LEVEL_FREQUENCIES, width, bias=False) if gft else None
        self.null_PD = nn.Parameter(torch.randn(self.n_tokens, width) * 0.02)

    def forward(
        self, condition_BE: Tensor, level_B: Tensor, beta_B: Tensor | None = None, dropped_B: Tensor | None = None
    ) -> Tensor:
        """Prefix tokens (B, P, D); `dropped_B` says which are the null, else training draws them by `drop_prob`.

        `beta_B` is for `gft` alone, and 1 when left out: no guidance.
        """
        B = len(condition_BE)
        prefix_BPD = self.project(condition_BE * math.sqrt(self.embed_dim)).view(B, -1, self.null_PD.shape[1])
        if self.level is not None:
            level_BD = self.level(level_features(level_B))
            if self.beta is not None:
                level_BD = level_BD + self.beta(level_features(torch.ones_like(level_B) if beta_B is None else beta_B))
            prefix_BPD = torch.cat([prefix_BPD, level_BD[:, None]], 1)
        if dropped_B is None and self.training:
            dropped_B = torch.rand(B, device=prefix_BPD.device) < self.drop_prob
        if dropped_B is not None and self.drop_prob:
            prefix_BPD = torch.where(dropped_B[:, None, None], self.null(B).to(prefix_BPD.dtype), prefix_BPD)
        return prefix_BPD

    def null(self, batch: int) -> Tensor:
        """The prefix of no condition, (B, P, D)."""
        return self.null_PD.expand(batch, -1, -1)


def level_features(level_B: Tensor) -> Tensor:
    """cos(pi·k·level) for k = 0 … 15, (B, 16)."""
    k_F = torch.arange(LEVEL_FREQUENCIES, device=level_B.device)
    return torch.cos(math.pi * k_F * level_B[:, None])


def centre(embedding_BE: Tensor, mean_E: Tensor) -> Tensor:
    """Without its modality's mean, and of unit length again (C3's collapse)."""
    return F.normalize(embedding_BE.float() - mean_E.float(), dim=-1)


def noise_to_cosine(unit_BE: Tensor, cosine_B: Tensor, noise_BE: Tensor) -> Tensor:
    """Unit vectors at exactly the given cosine from `unit_BE`, in the direction of normal `noise_BE`.

    A cosine means the same for every embedding size, a standard deviation does not.
    """
    noise_BE = noise_BE - (noise_BE * unit_BE).sum(-1, keepdim=True) * unit_BE
    cosine_B1 = cosine_B[:, None]
    return cosine_B1 * unit_BE + (1 - cosine_B1.square()).clamp(min=0).sqrt() * F.normalize(noise_BE, dim=-1)
