"""Tokens of twice the size, drawn window by window.

B pictures, h w the token grid of the small picture, S tokens of a window on it, L = 4·S of the large one
"""

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

from clipgen.transformer.sampling import Given, generate
from clipgen.upscale.model import UpscaleTransformer
from clipgen.upscale.windows import enlarge


def upscale(
    model: UpscaleTransformer,
    small_Bhw: Tensor,
    seeds: Sequence[int],
    on_window: Callable[[], None] | None = None,
    **options: float,
) -> Tensor:
    """Tokens (B, 2·h, 2·w); a picture's depend on its own, on `seeds[i]` and on the options, and on no other picture.

    `options` are those of `clipgen.transformer.sampling.sample`; guidance is none of them.
    """

    def draw(number: int, small_BS: Tensor, large_BL: Tensor, known_L: Tensor) -> Tensor:
        own = [window_seed(seed, number) for seed in seeds]
        made_Bhw = generate(model, small_BS, None, own, given=Given(large_BL, known_L), **options)
        if on_window:
            on_window()
        return made_Bhw.flatten(1)

    return enlarge(small_Bhw, model.small, draw)


def window_seed(seed: int, number: int) -> int:
    """So that the windows of a picture do not draw by the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:7], "big")
