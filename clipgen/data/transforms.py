"""Pixels: cropping, and the way between the bytes of a picture and the range [-1, 1] of a model.

B batch, C = 3 channels, H W pixels, S side of a crop
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_model_range(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) or (B, 3, H, W) → float32 (B, 3, H, W) in [-1, 1]."""
    if image.shape[-1] == 3:
        image = image.permute(0, 3, 1, 2)  # a view: the result stays channels_last, which convolutions like
    return image.float().div_(127.5).sub_(1.0)


def to_uint8(image_BCHW: Tensor) -> Tensor:
    """float (B, 3, H, W) in [-1, 1] → uint8 (B, H, W, 3), rounded; what lies outside is clipped."""
    image_BHWC = image_BCHW.detach().float().permute(0, 2, 3, 1)
    return image_BHWC.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def center_crop_resize(image: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture, `size` pixels wide, antialiased.

    The same as bringing the shorter side to `size` and then cropping, but cropped first: a strip of 16 × 50,000
    pixels never becomes a huge one.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if side == size:
        left, top = int(left), int(top)  # whole pixels, so that nothing is resampled
        return image.crop((left, top, left + size, top + size))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def center_crop(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """The centre square of an array of pixels, (S, S, 3)."""
    top, left = (image_HWC.shape[0] - size) // 2, (image_HWC.shape[1] - size) // 2
    return image_HWC[top : top + size, left : left + size]


def random_crop(images: Sequence[np.ndarray], size: int, draws_B3: np.ndarray, flip: bool = False) -> np.ndarray:
    """A square crop of each picture (H, W, 3), mirrored for half of them when `flip` → uint8 (B, S, S, 3).

    `draws_B3` are numbers in [0, 1) that decide on top, left and mirroring: whoever draws them makes it repeatable.
    """
    out_BSSC = np.empty((len(images), size, size, 3), np.uint8)
    for out, image, (down, right, mirror) in zip(out_BSSC, images, draws_B3, strict=True):
        top = int(down * (image.shape[0] - size + 1))
        left = int(right * (image.shape[1] - size + 1))
        crop = image[top : top + size, left : left + size]
        out[:] = crop[:, ::-1] if flip and mirror < 0.5 else crop
    return out_BSSC
