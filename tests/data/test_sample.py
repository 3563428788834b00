"""What goes into a shard comes out again, and nothing in it can run."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from clipgen.data.sample import (
    decode_captions,
    decode_image,
    decode_npy,
    encode_npy,
    image_bytes,
    image_sample,
    latent_sample,
    member,
    sample_key,
)
from clipgen.errors import UserError


class RunsWhenUnpickled:
    def __reduce__(self):
        return print, ("a pickle was executed",)


def encoded(mode: str, extension: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 3), 7).save(buffer, extension)
    return buffer.getvalue()


def test_keys_sort_as_numbers_do():
    assert sample_key(12) == "000000012" and sample_key(9) < sample_key(10) < sample_key(100_000)


@pytest.mark.parametrize("extension, pillow", [("png", "png"), ("jpg", "jpeg"), ("webp", "webp")])
def test_an_image_is_decoded_as_rgb(extension, pillow):
    sample = image_sample("000000000", encoded("L", pillow), extension, {"width": 5}, ["a\nb", " c "])
    image = decode_image(image_bytes(sample))
    assert image.shape == (3, 5, 3) and image.dtype == np.uint8 and image.flags.writeable
    assert decode_captions(sample) == ["a b", "c"]
    assert sample["json"] == b'{"width": 5}'


def test_latents_come_back():
    tokens = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    clip = np.full((2, 4), 0.5, np.float32)
    sample = latent_sample("000000000", tokens, clip, {}, ["one"], np.ones((1, 4)))
    assert np.array_equal(decode_npy(sample["tokens.npy"]), tokens)
    for name in ("clip.npy", "text_clip.npy"):
        assert decode_npy(sample[name]).dtype == np.float16
    assert decode_captions(latent_sample("0", tokens, clip, {})) == []


@pytest.mark.parametrize("data", [b"", b"no array", encode_npy(np.zeros(9))[:-1]])
def test_broken_arrays_are_named(data):
    with pytest.raises(UserError, match=r"shard 3 is not a plain \.npy array"):
        decode_npy(data, "shard 3")


def test_pickles_are_not_opened(capsys):
    buffer = io.BytesIO()
    np.save(buffer, np.array([RunsWhenUnpickled()], dtype=object), allow_pickle=True)
    for data in (buffer.getvalue(), pickle.dumps(RunsWhenUnpickled())):
        with pytest.raises(UserError):
            decode_npy(data)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"no image", encoded("RGB", "png")[:-26], encoded("RGB", "gif")])
def test_broken_or_foreign_images_are_named(data):
    with pytest.raises(UserError, match="shard 3 is not a readable image"):
        decode_image(data, "shard 3")


def test_missing_members_are_named():
    with pytest.raises(UserError, match="shard 3 has no image, only json"):
        image_bytes({"__key__": "0", "json": b""}, "shard 3")
    with pytest.raises(UserError, match=r"shard 3 has no tokens\.npy, only nothing"):
        member({"__key__": "0"}, "tokens.npy", "shard 3")
