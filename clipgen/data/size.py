"""Sizes and formats of pictures as the config has them: what reads no more than a config loads no torch."""

from collections.abc import Sequence

IMAGE_EXTENSIONS = ("png", "jpg", "webp")  # of the pictures in shards
Size = int | Sequence[int]  # the side of a square, or (height, width)


def sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def fits(shape: Sequence[int], size: Size) -> bool:
    """Whether a picture of (H, W, …) holds a crop of this size."""
    height, width = sides(size)
    return shape[0] >= height and shape[1] >= width
