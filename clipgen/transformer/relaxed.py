"""PB-Relax of CogView (arXiv 2105.13290, section 2.4): attention and norms whose numbers stay small in half precision.

Half precision ends at 65,504. What a softmax or a norm does not see, a constant factor or summand, is taken out before
the products and squares that would pass that. The maximum is each token's own: over the whole tensor, as in the
released code, an image would depend on its batch mates.

B batch, N heads, S new positions, T all positions, K head size
"""

import torch
from torch import Tensor, nn

from clipgen.transformer.norm import RMSNorm
from clipgen.transformer.sight import unseen

ALPHA = 32  # the paper's


def relaxed_attention(q_BNSK: Tensor, k_BNTK: Tensor, v_BNTK: Tensor, bias_BST: Tensor | None = None) -> Tensor:
    """softmax(α · (QᵀK / (α√K) - max(QᵀK / (α√K)))) V, with Q divided by α√K before the product; α = 32.

    It equals softmax(QᵀK / √K + bias) V; without a bias it is causal, the S positions being the last.
    """
    (S, K), T = q_BNSK.shape[2:], k_BNTK.shape[2]
    bias = unseen(S, T, q_BNSK) if bias_BST is None else bias_BST[:, None] / ALPHA
    scores_BNST = (q_BNSK / (ALPHA * K**0.5)) @ k_BNTK.transpose(-1, -2) + bias
    scores_BNST = scores_BNST - scores_BNST.detach().amax(-1, keepdim=True)
    return (scores_BNST * ALPHA).softmax(-1) @ v_BNTK


def relax(x: Tensor) -> Tensor:
    """x / max|x| over the last dimension: of a norm this changes nothing but how much its eps weighs."""
    most = x.detach().abs().amax(-1, keepdim=True)
    return x / most.clamp(min=torch.finfo(x.dtype).tiny)


class RelaxedLayerNorm(nn.LayerNorm):
    """LN(x) = LN(x / max|x|), the maximum being that of each token."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(relax(x))


class RelaxedRMSNorm(RMSNorm):
    """The same of RMSNorm, which does not see a factor either."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(relax(x))
