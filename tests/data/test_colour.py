"""Pictures that are not plain RGB: what a network is given is what a person sees."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from clipgen.data.colour import as_seen, to_rgb
from data_prep.decode import decode


def test_other_modes_become_rgb():
    assert to_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    for array, expected in (
        (np.full((2, 2), 0.5, np.float32), 128),
        (np.full((2, 2), 100.0, np.float32), 100),
        (np.full((2, 2), 100, np.int32), 100),
        (np.full((2, 2), 65535, np.int32), 255),
        (np.full((2, 2), np.nan, np.float32), 0),
        (np.full((2, 2), -5, np.int32), 0),
    ):
        assert to_rgb(Image.fromarray(array)).getpixel((0, 0)) == (expected,) * 3


def stored(image: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6
RAMP = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)


@pytest.mark.parametrize(
    "content",
    [
        stored(Image.fromarray(RAMP), "png"),
        stored(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "png"),
        stored(Image.new("RGB", (8, 6), (9, 99, 9)), "jpeg", exif=TURNED),
    ],
    ids=["16 bits", "transparent", "turned"],
)
def test_an_opened_picture_is_seen_as_a_packed_one(content):
    opened = Image.open(io.BytesIO(content))
    mode = opened.mode
    assert np.array_equal(as_seen(opened), decode(content, 1000))
    assert opened.mode == mode and np.array_equal(as_seen(opened), as_seen(opened))


def test_a_plain_picture_stays_itself_and_keeps_its_tokens():
    image = Image.new("RGB", (2, 2))
    image.info["tokens"] = [[1]]
    assert as_seen(image) is image and image.info["tokens"] == [[1]]
