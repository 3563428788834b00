"""Embedded colour profiles → sRGB, so that a picture looks as its maker saw it."""

import hashlib
import io
from functools import lru_cache

from PIL import Image, ImageCms

_MODES = ("RGB", "L", "CMYK", "LAB")  # what a profile can be for


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture (RGB, L, CMYK, or RGBA) in sRGB; as it is where its profile is sRGB already or makes no sense."""
    if not profile:
        return image
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert({"RGBA": "RGB", "LA": "L"}[image.mode]) if alpha else image
    change = _transform(_Profile(profile), colours.mode) if colours.mode in _MODES else None
    if change is None:
        return image
    colours = change.apply(colours)
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


class _Profile:
    """The bytes of a profile, told apart by their hash."""

    def __init__(self, data: bytes):
        self.data, self.digest = data, hashlib.sha256(data).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Profile) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@lru_cache(maxsize=32)  # the same camera's profile comes again and again
def _transform(profile: _Profile, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile.data))
        if mode == "RGB" and "srgb" in (ImageCms.getProfileDescription(source) or "").lower():
            return None
        return ImageCms.buildTransform(source, _srgb(), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None  # broken, or for another kind of picture than it is in


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
