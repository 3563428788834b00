"""Pixels: cropping, and the way between the bytes of a picture and the range [-1, 1] of a model.

B batch, C = 3 channels, H W pixels
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.data.size import Size, sides


def to_model_range(image: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) or (B, 3, H, W) → float32 (B, 3, H, W) in [-1, 1]."""
    if image.shape[-1] == 3:
        image = image.permute(0, 3, 1, 2)  # a view: the result stays channels_last, which convolutions like
    return image.float().div_(127.5).sub_(1.0)


def image_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (B, 3, H, W) in [-1, 1]."""
    return to_model_range(torch.from_numpy(np.stack([np.asarray(image) for image in images])))


def to_uint8(image_BCHW: Tensor) -> Tensor:
    """float (B, 3, H, W) in [-1, 1] → uint8 (B, H, W, 3), rounded; what lies outside is clipped."""
    image_BHWC = image_BCHW.detach().float().permute(0, 2, 3, 1)
    return image_BHWC.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def size_of(image: Image.Image) -> str:
    """Of a picture, as a message says it: width × height."""
    return f"{image.width}×{image.height}"


def center_crop_resize(
    image: Image.Image, size: Size, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """The centre of a picture in the proportions of `size`, brought to it, antialiased.

    The same as resizing until it just covers `size` and then cropping, but cropped first: a strip of 16 × 50,000
    pixels never becomes a huge one.
    """
    height, width = sides(size)
    if image.height * width <= image.width * height:
        down, right = image.height, image.height * width / height
    else:
        down, right = image.width * height / width, image.width
    left, top = (image.width - right) / 2, (image.height - down) / 2
    if (down, right) == (height, width):
        left, top = int(left), int(top)  # whole pixels, so that nothing is resampled
        return image.crop((left, top, left + width, top + height))
    box = (left, top, left + right, top + down)
    return image.resize((width, height), resample, box=box)


def center_crop(image_HWC: np.ndarray, size: Size) -> np.ndarray:
    """The centre of an array of pixels."""
    height, width = sides(size)
    top, left = (image_HWC.shape[0] - height) // 2, (image_HWC.shape[1] - width) // 2
    return image_HWC[top : top + height, left : left + width]


def random_crop(images: Sequence[np.ndarray], size: Size, draws_B3: np.ndarray, flip: bool = False) -> np.ndarray:
    """A crop of each picture (H, W, 3), mirrored for half of them when `flip` → uint8 (B, height, width, 3).

    `draws_B3` are numbers in [0, 1) that decide on top, left and mirroring: whoever draws them makes it repeatable.
    """
    height, width = sides(size)
    out_BHWC = np.empty((len(images), height, width, 3), np.uint8)
    for out, image, (down, right, mirror) in zip(out_BHWC, images, draws_B3, strict=True):
        top = int(down * (image.shape[0] - height + 1))
        left = int(right * (image.shape[1] - width + 1))
        crop = image[top : top + height, left : left + width]
        out[:] = crop[:, ::-1] if flip and mirror < 0.5 else crop
    return out_BHWC
