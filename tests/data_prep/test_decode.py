"""A picture comes out as a person sees it, or with the reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_prep.convert import read_file
from data_prep.decode import SetAside, claims_to_be_image, could_be_image, decode, formats, read
from data_prep.scan import SourceFile

CAP = 1_000_000


def encoded(image: Image.Image, extension: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return buffer.getvalue()


def pixel(data: bytes, place=(0, 0)) -> tuple[int, ...]:
    image = decode(data, CAP)
    assert image.mode == "RGB"
    return image.getpixel(place)


def reason(data: bytes, max_pixels: int = CAP) -> str:
    with pytest.raises(SetAside) as raised:
        decode(data, max_pixels)
    assert raised.value.detail
    return raised.value.reason


@pytest.mark.parametrize("extension", ["png", "gif", "bmp", "tiff", "ppm", "tga", "webp", "ico", "avif"])
def test_every_format_is_told_by_content(extension):
    options = {"webp": {"lossless": True}, "avif": {"quality": 100}, "ico": {"sizes": [(16, 16)]}}.get(extension, {})
    found = pixel(encoded(Image.new("RGB", (16, 16), (200, 30, 0)), extension, **options))
    assert np.abs(np.array(found) - (200, 30, 0)).max() <= (2 if extension == "avif" else 0)


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("L", (4, 4), 90), (90, 90, 90)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4), (10, 200, 30)),
        (Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)), (200, 200, 200)),
    ],
    ids=["gray", "bits", "transparent", "translucent", "gray + alpha", "palette", "16 bits"],
)
def test_every_mode_becomes_rgb(image, expected):
    assert pixel(encoded(image)) == expected


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert pixel(encoded(image, "gif", transparency=1)) == (255, 255, 255)
    assert pixel(encoded(image, "gif")) == (200, 0, 0)


def test_an_animation_shows_its_first_frame():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    assert pixel(encoded(red, "gif", save_all=True, append_images=[blue])) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright(orientation):
    upright = Image.new("RGB", (6, 4), "white")
    upright.putpixel((0, 0), (255, 0, 0))
    undo = {  # how a camera held that way stores it
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, exif=exif), CAP)
    assert image.size == (6, 4) and image.getpixel((0, 0)) == (255, 0, 0)


def test_broken_exif_is_no_reason_to_lose_a_photo():
    assert pixel(encoded(Image.new("RGB", (4, 4), "red"), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")) == (255, 0, 0)


def swapped_profile() -> bytes:
    """sRGB, but what it calls red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    return profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


@pytest.mark.parametrize("extension", ["png", "jpeg", "webp", "tiff", "avif"])
def test_an_embedded_profile_is_followed(extension):
    red = Image.new("RGB", (16, 16), (200, 0, 0))
    plain, followed = (np.array(pixel(encoded(red, extension, icc_profile=p))) for p in (None, swapped_profile()))
    assert plain[0] > 190 and plain[1] < 8
    assert followed[0] < 12 and abs(followed[1] - plain[0]) < 4


def test_a_profile_leaves_transparency_alone():
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 255))
    image.putpixel((0, 0), (200, 0, 0, 0))
    data = encoded(image, icc_profile=swapped_profile())
    assert pixel(data) == (255, 255, 255) and pixel(data, (1, 1))[1] > 190


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_a_profile_of_another_kind_is_passed_over(mode):
    image = Image.new("RGB", (4, 4), (90, 90, 90)).convert(mode)
    plain = decode(encoded(image, "tiff"), CAP)
    assert decode(encoded(image, "tiff", icc_profile=b"no profile"), CAP).tobytes() == plain.tobytes()
    if mode != "P":
        assert decode(encoded(image, "tiff", icc_profile=swapped_profile()), CAP).tobytes() == plain.tobytes()


def test_the_background_is_a_choice():
    data = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 51)))
    assert read(data, CAP, "#000000").image.getpixel((0, 0)) == (51, 0, 0)
    assert read(encoded(Image.new("LA", (4, 4), (0, 0))), CAP, "blue").image.getpixel((0, 0)) == (0, 0, 255)


def test_cmyk_and_16_bits_as_files_have_them():
    assert pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg"))[0] > 240
    assert pixel(encoded(Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)), "tiff")) == (200, 200, 200)


def test_heif_is_read_where_its_plugin_is_installed():
    pytest.importorskip("pillow_heif")
    formats()  # makes Pillow know the plugin
    found = pixel(encoded(Image.new("RGB", (64, 64), (200, 30, 0)), "heif", quality=100))
    assert np.abs(np.array(found) - (200, 30, 0)).max() < 6
    assert claims_to_be_image("a.heic")


@pytest.mark.parametrize("name, brand", [("heif", b"heic"), ("heif", b"mif1"), ("avif", b"avif")])
def test_what_a_missing_plugin_could_read_says_so(monkeypatch, tmp_path, name, brand):
    there = tuple(known for known in formats() if known != name.upper())
    monkeypatch.setattr("data_prep.decode.formats", lambda: there)
    (tmp_path / "photo").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(200))
    with pytest.raises(SetAside, match=rf"format.*{name.upper()} cannot be read here; pip install") as raised:
        read(read_file(tmp_path, SourceFile("photo", 212)), CAP)
    assert raised.value.reason == "format"


def test_a_photo_may_be_decoded_smaller_but_not_too_small():
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = smooth.resize((500, 400), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(smooth, "jpeg", quality=95, exif=exif)
    assert read(data, CAP).image.size == read(data, CAP).size == (400, 500)
    small = read(data, CAP, at_least=200)
    assert small.size == (400, 500) and small.image.size == (200, 250) and small.format == "JPEG"
    assert read(data, CAP, at_least=201).image.size == (400, 500)
    difference = np.asarray(small.image, int) - np.asarray(read(data, CAP).image.resize((200, 250)), int)
    assert np.sqrt((difference**2).mean()) < 3


def test_no_profile_or_comment_is_carried_along():
    assert decode(encoded(Image.new("RGB", (4, 4)), icc_profile=b"profile"), CAP).info == {}


@pytest.mark.parametrize("extension", ["png", "jpeg", "webp", "bmp", "tiff", "gif"])
def test_what_ends_early_is_refused(extension):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), extension)
    assert reason(data[: len(data) * 2 // 3]) == "unreadable"


@pytest.mark.parametrize(
    "data", [b"", b"plain text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_image_is_refused(data):
    assert reason(data) == "unreadable"


@pytest.mark.parametrize("side", [2000, 12_000, 60_000])  # over our cap, over Pillow's warning, over its error
def test_a_bomb_is_stopped_by_its_header(side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    assert reason(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))) == "too_many_pixels"


def test_what_is_worth_opening():
    png = encoded(Image.new("RGB", (4, 4)))
    assert could_be_image("no suffix at all", png[:32])
    assert not could_be_image("photo.png", b"<!DOCTYPE html>")
    assert could_be_image("x.tga", b"\0\0\2")
    assert not could_be_image("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0")
    assert claims_to_be_image("a/b.JPG") and not claims_to_be_image("a/b.txt")
