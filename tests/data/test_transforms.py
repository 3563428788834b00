"""Pixels keep their values and their places."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen.data.transforms import center_crop, center_crop_resize, random_crop, to_model_range, to_uint8


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_every_value_survives_the_way_to_the_model_and_back():
    image = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    model = to_model_range(image)
    assert model.shape == (1, 3, 16, 16) and model.dtype == torch.float32
    assert (model.min(), model.max()) == (-1, 1)
    assert torch.equal(to_uint8(model), image)
    assert torch.equal(to_model_range(image.permute(0, 3, 1, 2)), model)


def test_what_a_model_overshoots_is_clipped():
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1)).flatten().tolist() == [0, 128, 255]


def test_the_input_is_not_changed():
    image = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    to_uint8(to_model_range(image).to(torch.bfloat16))
    assert image.min() == 255


@pytest.mark.parametrize("width, height", [(64, 64), (100, 40), (33, 47), (16, 3000)])
@pytest.mark.parametrize("size", [16, 32])
def test_a_crop_is_square_and_central(width, height, size):
    ramp = np.linspace(0, 255, width)[None, :].repeat(height, 0).astype(np.uint8)
    crop = np.asarray(center_crop_resize(Image.fromarray(ramp), size), np.float32)
    assert crop.shape == (size, size)
    assert abs(crop.mean() - 127) < 3


def test_a_crop_of_the_same_size_resamples_nothing(photo):
    crop = np.asarray(center_crop_resize(Image.fromarray(photo), 7))
    assert np.array_equal(crop, center_crop(photo, 7)) and np.array_equal(crop, photo[1:8])


def test_a_crop_is_close_to_resizing_first():
    smooth = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    whole = smooth.resize((36, 24), Image.Resampling.LANCZOS).crop((6, 0, 30, 24))
    ours = center_crop_resize(smooth, 24)
    inner = np.s_[:, 3:-3]  # beyond the crop's border the two see different pixels
    assert np.abs(np.asarray(ours, int)[inner] - np.asarray(whole, int)[inner]).max() <= 2


def test_draws_place_and_mirror_a_crop(photo):
    place = np.array([[0.0, 0.0, 0.9], [0.999, 0.999, 0.9], [0.0, 0.0, 0.1]])
    crops = random_crop([photo] * 3, 5, place, flip=True)
    assert np.array_equal(crops[0], photo[:5, :5])
    assert np.array_equal(crops[1], photo[4:, 2:])
    assert np.array_equal(crops[2], photo[:5, :5][:, ::-1])
    assert np.array_equal(random_crop([photo] * 3, 5, place)[2], photo[:5, :5])


def test_crops_take_the_proportions_that_are_asked_for(photo):
    ramp = np.linspace(0, 255, 80)[None, :].repeat(60, 0).astype(np.uint8)
    crop = np.asarray(center_crop_resize(Image.fromarray(ramp), (10, 40)), np.float32)
    assert crop.shape == (10, 40)
    assert crop[:, 0].mean() < 5 and crop[:, -1].mean() > 250  # the whole width of it
    tall = np.asarray(center_crop_resize(Image.fromarray(ramp), (30, 10)), np.float32)
    assert tall.shape == (30, 10)
    assert abs(tall.mean() - 127.5) < 3 and tall[:, 0].mean() > 90  # a third of it, from the middle
    crops = random_crop([photo], (3, 6), np.array([[0.5, 0.0, 0.9]]))
    assert crops.shape == (1, 3, 6, 3)
    assert center_crop(photo, (3, 6)).shape == (3, 6, 3)
