"""One image file → one sample of a shard: decoded, resized, encoded again.

H W pixels, C = 3 channels
"""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from clipgen.data.sample import Sample, image_sample
from clipgen.data.size import sides
from data_prep.decode import (
    HEAD_BYTES,
    Picture,
    SetAside,
    claims_to_be_image,
    could_be_image,
    fraction,
    not_installed,
    read,
)  # fmt: skip
from data_prep.scan import SourceFile
from data_prep.settings import DECODING, PackSettings

MAX_FILE_BYTES = 1 << 29  # of one source file: all of it is held in memory
MAX_ORIGIN_BYTES = 1 << 16  # of the JSON that came beside an image


@dataclass(frozen=True)
class Converted:
    """A sample and what the counts need: the sha256 of the file, its format, its size and the sample's."""

    sample: Sample
    sha256: str
    format: str
    original: tuple[int, int]
    size: tuple[int, int]


def convert(
    key: str,
    root: Path,
    file: SourceFile,
    settings: PackSettings,
    captions: Sequence[str] | None = None,
    origin: SourceFile | None = None,
) -> Converted:
    """The sample of one file; `origin` is the JSON beside it, if any. Raises SetAside."""
    data = read_file(root, file)
    picture = read(data, settings.max_pixels, settings.background, _enough(settings), settings.formats)
    check_size(picture, settings)
    image = _resized(picture, settings)
    digest = hashlib.sha256(data).hexdigest()
    meta = {
        "source": file.path,
        "sha256": digest,
        "format": picture.format,
        "original_width": picture.size[0],
        "original_height": picture.size[1],
        "width": image.width,
        "height": image.height,
    }
    if origin is not None and (told := _origin(root, origin)):
        meta["origin"] = told
    sample = image_sample(key, _encoded(image, settings), settings.format, meta, captions)
    return Converted(sample, digest, picture.format, picture.size, image.size)


def read_file(root: Path, file: SourceFile) -> bytes:
    """All bytes of a file that could be an image; raises SetAside."""
    try:
        head = file.read(root, HEAD_BYTES)
        if not could_be_image(file.path, head):
            if missing := not_installed(head):
                raise SetAside("format", missing)
            kind = "unreadable" if claims_to_be_image(file.path) else "format"
            raise SetAside(kind, "its content is of no known image format" if head else "the file is empty")
        if file.bytes > MAX_FILE_BYTES:
            raise SetAside("too_large", f"{file.bytes} bytes is over {MAX_FILE_BYTES}")
        return file.read(root)
    except OSError as error:
        raise SetAside("unreadable", f"{type(error).__name__}: {error.strerror}") from error


def check_size(picture: Picture, settings: PackSettings) -> None:
    """Raise SetAside for a picture that is too small or too long."""
    width, height = picture.size
    shape = f"{width}×{height}"
    if min(width, height) < settings.min_size:
        raise SetAside("too_small", f"{shape} has a side under {settings.min_size} pixels")
    if settings.max_aspect is not None and max(width, height) > settings.max_aspect * min(width, height):
        raise SetAside("aspect", f"{shape} is longer than {settings.max_aspect:g} times its shorter side")


def _enough(settings: PackSettings) -> int | None:
    factor = DECODING[settings.decoding]
    return None if factor is None or settings.size is None else math.ceil(factor * max(sides(settings.size)))


def _resized(picture: Picture, settings: PackSettings) -> Image.Image:
    """The picture at the size that is asked for; its crop is the same whatever scale it was decoded at."""
    size, (width, height) = settings.size, picture.size
    if size is None:
        return picture.image
    side = min(width, height)
    if settings.crop:
        down, right = sides(size)
        if height * right <= width * down:
            crop_width, crop_height = max(1, height * right // down), height
        else:
            crop_width, crop_height = width, max(1, width * down // right)
        step = fraction(side, max(down, right))  # of pixels: a crop begins at whole ones at any scale of the decoder
        left, top = (width - crop_width) // 2 // step * step, (height - crop_height) // 2 // step * step
        return _resample(picture, (left, top, left + crop_width, top + crop_height), right, down)
    out_width, out_height = (max(size, round(length * size / side)) for length in (width, height))
    if out_width * out_height > settings.max_pixels:
        raise SetAside("too_many_pixels", f"{out_width}×{out_height} once resized is over {settings.max_pixels} pixels")
    return _resample(picture, (0, 0, width, height), out_width, out_height)


def _resample(picture: Picture, box: tuple[int, int, int, int], width: int, height: int) -> Image.Image:
    """A box of the file's pixels; bicubic with antialiasing: within a step of Pillow's, in a quarter of the time."""
    image, scale = picture.image, picture.scale
    left, top, right, bottom = (edge / scale for edge in box)
    whole = (int(left), int(top), math.ceil(right), math.ceil(bottom))
    image = image if whole == (0, 0, *image.size) else image.crop(whole)
    if image.size == (width, height):
        return image
    rows = bytearray(image.tobytes("raw", "RGBX"))  # as Pillow holds them: a fourth byte costs less than packing three
    image_1CHW = torch.frombuffer(rows, dtype=torch.uint8).view(1, image.height, image.width, 4).permute(0, 3, 1, 2)
    if whole == (left, top, right, bottom):
        out_1CHW = F.interpolate(image_1CHW, (height, width), mode="bicubic", antialias=True)
    else:  # the last pixels stand for less; the sizes that come of the factors are rounded down
        factors = height / (bottom - top) * (1 + 1e-9), width / (right - left) * (1 + 1e-9)
        out_1CHW = F.interpolate(image_1CHW, scale_factor=factors, mode="bicubic", antialias=True)
    out_HWC = out_1CHW[0].permute(1, 2, 0).contiguous().numpy()
    return Image.frombytes("RGB", (width, height), out_HWC.tobytes(), "raw", "RGBX")


def _encoded(image: Image.Image, settings: PackSettings) -> bytes:
    options: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 3},  # on photos as small as 6, and faster
        "jpg": {"quality": settings.quality, "subsampling": 0},  # chroma at full size: these pictures are small
        "webp": {"quality": settings.quality, "method": 4},
    }
    buffer = io.BytesIO()
    try:
        image.save(buffer, {"jpg": "jpeg"}.get(settings.format, settings.format), **options[settings.format])
    except (OSError, ValueError) as error:  # webp takes at most 16,383 pixels a side, jpeg 65,535
        raise SetAside("unwritable", f"{image.width}×{image.height} as {settings.format}: {error}") from error
    return buffer.getvalue()


def _origin(root: Path, file: SourceFile) -> dict[str, Any] | None:
    """What img2dataset wrote beside an image, such as its address; nothing where that is no small JSON object."""
    if file.bytes > MAX_ORIGIN_BYTES:
        return None
    try:
        told = json.loads(file.read(root), parse_constant=lambda name: None)
        json.dumps(told, allow_nan=False)  # 1e999 reads as infinity
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
