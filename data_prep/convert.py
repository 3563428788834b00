"""One image file → one sample of a shard: decoded, resized, encoded again."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipgen.data.sample import IMAGE_EXTENSIONS, Sample, image_sample
from clipgen.data.transforms import center_crop_resize
from clipgen.errors import UserError
from data_prep.decode import HEAD_BYTES, SetAside, claims_to_be_image, could_be_image, decode
from data_prep.scan import SourceFile

MAX_FILE_BYTES = 1 << 29  # of one source file: all of it is held in memory


@dataclass(frozen=True)
class PackSettings:
    """How images are made into samples.

    `size` is the side of the centre square, or with `crop=False` the length of the shorter side; None keeps the size.
    Files with a side under `min_size` or over `max_pixels` in all are set aside; when more than `max_bad_fraction` of
    the image files are, packing stops. `val_fraction` is that of the samples kept for validation.
    """

    size: int | None = None
    crop: bool = True
    format: str = "png"
    quality: int = 95
    min_size: int = 16
    max_pixels: int = 50_000_000
    samples_per_shard: int = 2000
    val_fraction: float = 0.02
    max_bad_fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.format not in IMAGE_EXTENSIONS:
            raise UserError(f"prep.format {self.format!r} is unknown; take one of {', '.join(IMAGE_EXTENSIONS)}")
        for name, value, least, most in (
            ("size", self.size, 1, 16_384),
            ("quality", self.quality, 1, 100),
            ("min_size", self.min_size, 1, 16_384),
            ("max_pixels", self.max_pixels, 1, Image.MAX_IMAGE_PIXELS or 1 << 27),
            ("samples_per_shard", self.samples_per_shard, 1, 1_000_000),
            ("val_fraction", self.val_fraction, 0, 0.9),
            ("max_bad_fraction", self.max_bad_fraction, 0, 1),
        ):
            if value is not None and not least <= value <= most:
                raise UserError(f"prep.{name} is {value}, but must be between {least} and {most}")


def convert(
    key: str, root: Path, file: SourceFile, settings: PackSettings, captions: Sequence[str] | None = None
) -> tuple[Sample, str, tuple[int, int]]:
    """The sample of one file, the sha256 of the file and the (width, height) of the picture; raises SetAside."""
    data = _read(root, file)
    original = decode(data, settings.max_pixels)
    if min(original.size) < settings.min_size:
        raise SetAside("too_small", f"{original.width}×{original.height} has a side under {settings.min_size} pixels")
    image = _resized(original, settings)
    digest = hashlib.sha256(data).hexdigest()
    meta = {
        "source": file.path,
        "sha256": digest,
        "original_width": original.width,
        "original_height": original.height,
        "width": image.width,
        "height": image.height,
    }
    sample = image_sample(key, _encoded(image, settings), settings.format, meta, captions)
    return sample, digest, image.size


def _read(root: Path, file: SourceFile) -> bytes:
    try:
        with open(root / file.path, "rb") as opened:
            head = opened.read(HEAD_BYTES)
            if not could_be_image(file.path, head):
                kind = "unreadable" if claims_to_be_image(file.path) else "format"
                raise SetAside(kind, "its content is of no known image format" if head else "the file is empty")
            if file.bytes > MAX_FILE_BYTES:
                raise SetAside("too_large", f"{file.bytes} bytes is over {MAX_FILE_BYTES}")
            return head + opened.read()
    except OSError as error:
        raise SetAside("unreadable", f"{type(error).__name__}: {error.strerror}") from error


def _resized(image: Image.Image, settings: PackSettings) -> Image.Image:
    if settings.size is None:
        return image
    if settings.crop:
        return center_crop_resize(image, settings.size)
    scale = settings.size / min(image.size)
    width, height = (max(settings.size, round(side * scale)) for side in image.size)
    if width * height > settings.max_pixels:
        raise SetAside("too_many_pixels", f"{width}×{height} once resized is over {settings.max_pixels} pixels")
    return image if scale == 1 else image.resize((width, height), Image.Resampling.LANCZOS)


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
