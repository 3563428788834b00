"""One file becomes one sample: as sharp as Pillow makes it, at the size that was asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from clipgen.data.sample import decode_image, image_bytes
from clipgen.errors import UserError
from data_prep.convert import convert
from data_prep.scan import SourceFile
from data_prep.settings import PackSettings


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Noise whose strength falls with its frequency, as in photographs."""
    random = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1
    spectrum = random.standard_normal((3, *f.shape)) + 1j * random.standard_normal((3, *f.shape))
    pixels = np.fft.irfft2(spectrum / f**1.5, s=(height, width)).transpose(1, 2, 0)
    return Image.fromarray((pixels / pixels.std() * 40 + 120).clip(0, 255).astype(np.uint8))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


def made(folder: Path, image: Image.Image, extension: str = "jpg", orientation: int = 1, **settings) -> np.ndarray:
    path, exif = folder / f"photo.{extension}", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, quality=90, exif=exif)
    file = SourceFile(path.name, path.stat().st_size)
    return decode_image(image_bytes(convert("0", folder, file, PackSettings(**settings)).sample))


@pytest.mark.parametrize("size, height, width", [(64, 64, 79), (200, 200, 246), (500, 500, 615)])
def test_resizing_is_what_pillow_calls_bicubic(tmp_path, size, height, width):
    found = made(tmp_path, photo(0, 320, 260), size=size, crop=False)
    with Image.open(tmp_path / "photo.jpg") as image:
        expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("width, height", [(300, 200), (200, 300), (200, 200)])
def test_a_crop_is_the_middle(tmp_path, width, height):
    image = photo(1, width, height)
    left, top = (width - 200) // 2, (height - 200) // 2
    expected = np.asarray(image.crop((left, top, left + 200, top + 200)))
    assert np.array_equal(made(tmp_path, image, "png", size=200), expected)


def test_decoding_smaller_keeps_most_of_it_and_is_a_choice(tmp_path):
    image = photo(2, 700, 600)
    exact, fast = (made(tmp_path, image, size=256, decoding=how) for how in ("exact", "fast"))
    assert exact.shape == fast.shape and 30 < psnr(exact, fast) < 60
    image = photo(2, 500, 400)  # half of it would be too little
    assert np.array_equal(*(made(tmp_path, image, size=256, decoding=how) for how in ("exact", "fast")))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("width, height", [(1003, 801), (801, 1003), (1002, 800)])
@pytest.mark.parametrize("crop", [True, False])
def test_a_picture_decoded_smaller_lies_where_the_whole_one_does(tmp_path, width, height, orientation, crop):
    image, rest = photo(3, width, height), {"size": 256, "crop": crop, "orientation": orientation}
    exact, close = (made(tmp_path, image, decoding=how, **rest) for how in ("exact", "close"))
    if orientation == 1 or width % 2 == height % 2 == 0:
        assert exact.shape == close.shape and 40 < psnr(exact, close) < 70
    else:  # its half pixels would come first
        assert np.array_equal(exact, close)


def test_nothing_of_the_file_but_its_pixels_goes_into_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.jpg", exif=exif, icc_profile=b"x" * 300, comment=b"secret")
    for extension in ("png", "jpg", "webp"):
        file = SourceFile("a.jpg", (tmp_path / "a.jpg").stat().st_size)
        data = image_bytes(convert("0", tmp_path, file, PackSettings(format=extension)).sample)
        assert b"secret" not in data and Image.open(io.BytesIO(data)).info.keys() <= {
            "jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background", "timestamp", "duration"
        }  # fmt: skip


@pytest.mark.parametrize("size, box", [((50, 100), (0, 50, 300, 200)), ((100, 60), (74, 0, 224, 250))])
def test_a_crop_may_have_proportions_of_its_own(tmp_path, size, box):
    image = photo(3, 300, 250)
    found = made(tmp_path, image, "png", size=size)
    assert found.shape == (*size, 3)
    expected = np.asarray(image.crop(box).resize(size[::-1], Image.Resampling.BICUBIC))
    assert psnr(found, expected) > 40


def test_proportions_without_a_crop_are_refused():
    with pytest.raises(UserError, match=r"prep.size=\[50, 100\] is the size of a crop; take prep.crop=true"):
        PackSettings(size=[50, 100], crop=False)
