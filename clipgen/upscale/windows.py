"""Windows of tokens that slide over a picture, so that a model of small ones enlarges any size (arXiv 2105.13290).

A token of the large picture is drawn by the window in whose middle it stands: what a window draws beyond its part is
thrown away, and drawn again by the next one, which sees further ("center-continuous"). Windows come in raster order,
and each knows what those before it have drawn.

B pictures, h w the token grid of the small picture, a b the window on it, S = a·b
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

SCALE = 2  # of each side


class Part(NamedTuple):
    """Along one side: a window of small tokens from `start` on, and the small tokens that it is to enlarge."""

    start: int
    first: int
    stop: int


# (number of the window, small window (B, S), large window so far (B, 4·S), which of it is known (4·S,)) → (B, 4·S)
Draw = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def parts(side: int, window: int) -> list[Part]:
    """The windows along a side of `side` small tokens, each half a window after the one before; the last ends there."""
    assert 1 <= window <= side, (window, side)
    starts = [*range(0, side - window, max(1, window // 2)), side - window]
    ends = [(later + start + window) // 2 for start, later in pairwise(starts)]
    return [Part(*each) for each in zip(starts, [0, *ends], [*ends, side], strict=True)]


def cut(token_Bhw: Tensor, top: int, left: int, window: Sequence[int]) -> Tensor:
    """One window of a picture's tokens, (B, S), row-major."""
    return token_Bhw[:, top : top + window[0], left : left + window[1]].flatten(1)


def enlarge(small_Bhw: Tensor, window: Sequence[int], draw: Draw) -> Tensor:
    """The tokens (B, 2·h, 2·w) of pictures of twice the size, window by window."""
    B, h, w = small_Bhw.shape
    large_BHW = torch.zeros(B, SCALE * h, SCALE * w, dtype=torch.long, device=small_Bhw.device)
    known_HW = torch.zeros(large_BHW.shape[1:], dtype=torch.bool, device=small_Bhw.device)
    both = [(row, column) for row in parts(h, window[0]) for column in parts(w, window[1])]
    size = [SCALE * side for side in window]
    for number, (row, column) in enumerate(both):
        at = SCALE * row.start, SCALE * column.start, size
        known_L = cut(known_HW[None], *at)[0]
        made_BL = draw(number, cut(small_Bhw, row.start, column.start, window), cut(large_BHW, *at), known_L)
        made_Bab = made_BL.view(B, *size)
        (down, until), (across, end) = (
            (SCALE * (part.first - part.start), SCALE * (part.stop - part.start)) for part in (row, column)
        )
        kept = slice(SCALE * row.first, SCALE * row.stop), slice(SCALE * column.first, SCALE * column.stop)
        large_BHW[:, *kept] = made_Bab[:, down:until, across:end]
        known_HW[kept] = True
    assert known_HW.all()
    return large_BHW
