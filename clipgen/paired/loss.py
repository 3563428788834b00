"""What the paired arm is trained on: the likelihood of text and image (CogView, arXiv 2105.13290, section 2.2).

B batch, P prefix tokens, L image tokens, V codebook size, W pieces and commands
"""

from torch import Tensor


def weighted(text_BT: Tensor, counts_BT: Tensor, image_BL: Tensor, text_scale: float, image_scale: float) -> Tensor:
    """The mean over rows of Σ scale · loss / Σ scale, over a row's tokens that count.

    As CogView's Σ l·m / Σ m, but row by row: a batch in parts, or on several ranks, has the loss of the whole.
    """
    scale_BT = text_scale * counts_BT
    above_B = (text_BT * scale_BT).sum(1) + image_scale * image_BL.sum(1)
    return (above_B / (scale_BT.sum(1) + image_scale * image_BL.shape[1])).mean()


def means_of_rows(values_BT: Tensor, counts_BT: Tensor) -> Tensor:
    """Of each row the mean of those that count, (B,)."""
    return (values_BT * counts_BT).sum(1) / counts_BT.sum(1).clamp(min=1)


def mean_where(values_BT: Tensor, counts_BT: Tensor) -> Tensor:
    """The mean of those that count; 0 where none does."""
    return (values_BT * counts_BT).sum() / counts_BT.sum().clamp(min=1)


def counted(text_BP: Tensor, pad: int, base: int) -> Tensor:
    """Which of prefix tokens 1 … P - 1 are to be told, (B, P - 1) bool: the pieces and [BASE], which ends them."""
    before_BT = text_BP[:, :-1]
    return (before_BT != pad) & (before_BT != base)
