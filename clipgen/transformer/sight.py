"""What attention sees of the positions before: all of them, or CogView's three regions (arXiv 2105.13290, appendix B).

There an image's token sees the whole prefix, a window of the tokens up to itself, and of those before the window only
pivots, drawn anew for each image and layer. The released code also adds log(length / pivots) to the scores of pivots,
in training alone; here a pivot counts as any token does, in training and in sampling.

B batch, N heads, S new positions, T all positions, P prefix tokens, L image tokens, Y layers, Q pivots, W window,
K head size, G blocks of queries, C queries in a block, J keys of a block
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -1e4  # its exponential is 0, and a row of padding, which sees nothing else, has no NaN
BLOCK = 128  # queries that share their keys
BLOCKS_PAY_FROM = 2  # times as many positions as a block has keys


class Sight(NamedTuple):
    """`prefix_BP` is added to the scores of the prefix: `HIDDEN` for padding, above 0 for what is to count for more.

    With a `window` an image's token sees of the image the last `window` tokens up to itself, and of those before that
    only `pivot_BYQ`, counted from the image's first token. What stands behind `at_1`, the place of one new position, is
    not there yet (None: the new positions are the last).
    """

    prefix_BP: Tensor
    window: int = 0  # 0: all
    pivot_BYQ: Tensor | None = None
    at_1: Tensor | None = None

    def bias(self, S: int, T: int, layer: int, like: Tensor) -> Tensor:
        """What is added to the scores of the S new of T positions, (B, S, T)."""
        P = self.prefix_BP.shape[1]
        at_T = torch.arange(T, device=like.device)
        at_S1 = at_T[T - S :, None] if self.at_1 is None else self.at_1[:, None]
        ahead_ST = unseen(S, T, like) if self.at_1 is None else like.new_zeros(T).masked_fill(at_T > at_S1, -math.inf)
        bias_BST = ahead_ST + F.pad(self.prefix_BP.to(like.dtype), (0, T - P))[:, None]
        if not self.window:
            return bias_BST
        far_ST = (at_S1 - at_T >= self.window) & (at_T >= P)
        pivot_BQ = (self.pivot_BYQ[:, layer] + P).clamp(max=T)  # T: not there yet
        chosen_BT = torch.zeros(len(pivot_BQ), T + 1, dtype=torch.bool, device=like.device).scatter(1, pivot_BQ, True)
        return bias_BST.masked_fill(far_ST & ~chosen_BT[:, None, :T], float("-inf"))

    def in_blocks(self, S: int, T: int) -> bool:
        """Whether `attend_in_blocks` is faster than to mask what is not seen."""
        if not self.window or S < T:
            return False
        keys = self.prefix_BP.shape[1] + self.pivot_BYQ.shape[2] + self.window + BLOCK
        return BLOCKS_PAY_FROM * keys <= T


def unseen(S: int, T: int, like: Tensor) -> Tensor:
    """-inf where one of the last S of T positions would look ahead, else 0, (S, T)."""
    return torch.full((S, T), float("-inf"), dtype=like.dtype, device=like.device).triu(T - S + 1)


def draw_pivots(shape: Sequence[int], n: int, generator: torch.Generator | None = None, device=None) -> Tensor:
    """(…, n) different numbers below L for a shape (…, L)."""
    return torch.rand(*shape, generator=generator, device=device).topk(n).indices


def attend_in_blocks(
    core: Callable[..., Tensor], q_BNTK: Tensor, k_BNTK: Tensor, v_BNTK: Tensor, sight: Sight, layer: int
) -> Tensor:
    """What `core(q, k, v, sight.bias(…))` gives, by looking at the keys of the three regions only.

    A block of queries has the prefix, the pivots and the C + W - 1 positions up to its last for keys.
    """
    (B, N, T, K), W, P = q_BNTK.shape, sight.window, sight.prefix_BP.shape[1]
    C, G, device = BLOCK, -(-T // BLOCK), q_BNTK.device
    pivot_BQ = sight.pivot_BYQ[:, layer] + P
    taken_BF = torch.cat([torch.arange(P, device=device).expand(B, -1), pivot_BQ.clamp(max=T - 1)], 1)
    taken_BNFK = taken_BF[:, None, :, None].expand(-1, N, -1, K)

    def keys(x_BNTK: Tensor) -> Tensor:
        taken_BGNFK = x_BNTK.gather(2, taken_BNFK)[:, None].expand(-1, G, -1, -1, -1)
        near_BNGKW = F.pad(x_BNTK, (0, 0, W - 1, G * C - T)).unfold(2, C + W - 1, C)
        return torch.cat([taken_BGNFK, near_BNGKW.permute(0, 2, 1, 4, 3)], 3).flatten(0, 1)

    at_GC1 = torch.arange(G * C, device=device).view(G, C, 1)
    near_G1W = at_GC1[:, :1] + torch.arange(1 - W, C, device=device)
    seen_GCW = (near_G1W <= at_GC1) & (near_G1W > at_GC1 - W) & (near_G1W >= P)
    seen_GCP = torch.arange(P, device=device) <= at_GC1
    seen_BGCQ = pivot_BQ[:, None, None] <= at_GC1 - W
    seen_BGCJ = torch.cat([seen_GCP.expand(B, -1, -1, -1), seen_BGCQ, seen_GCW.expand(B, -1, -1, -1)], 3)
    prefix_BJ = F.pad(sight.prefix_BP.to(q_BNTK.dtype), (0, seen_BGCJ.shape[3] - P))
    bias_BGCJ = prefix_BJ[:, None, None].masked_fill(~seen_BGCJ, float("-inf"))
    q_BNGCK = F.pad(q_BNTK, (0, 0, 0, G * C - T)).view(B, N, G, C, K)
    y = core(q_BNGCK.transpose(1, 2).flatten(0, 1), keys(k_BNTK), keys(v_BNTK), bias_BGCJ.flatten(0, 1))
    return y.view(B, G, N, C, K).transpose(1, 2).reshape(B, N, G * C, K)[:, :, :T]
