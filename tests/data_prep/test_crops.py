"""Crops are where they are said to be, and come in order whatever decodes them."""

import numpy as np
import pytest

from clipgen.data.manifest import Manifest
from clipgen.data.shards import TarIndex
from clipgen.errors import UserError
from data_prep.crops import crops_of, read_crops


def gradient(height: int, width: int) -> np.ndarray:
    """Red is the row, green the column."""
    image_HWC = np.zeros((height, width, 3), np.uint8)
    image_HWC[..., 0] = np.arange(height)[:, None]
    image_HWC[..., 1] = np.arange(width)
    return image_HWC


def test_one_crop_is_the_centre_square():
    (crop_SS3,) = crops_of(gradient(20, 30), 20, 1)
    assert crop_SS3.shape == (20, 20, 3)
    assert crop_SS3[0, 0].tolist() == [0, 5, 0] and crop_SS3[-1, -1].tolist() == [19, 24, 0]


def test_two_are_it_and_its_mirror_image():
    plain, mirrored = crops_of(gradient(20, 30), 20, 2)
    assert np.array_equal(mirrored, plain[:, ::-1]) and not np.array_equal(mirrored, plain)


def test_ten_are_centre_and_corners_and_their_mirror_images():
    ten = crops_of(gradient(22, 22), 20, 10)
    assert ten.shape == (10, 20, 20, 3)
    assert [tuple(crop[0, 0, :2]) for crop in ten[:5]] == [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
    for plain, mirrored in zip(ten[:5], ten[5:], strict=True):
        assert np.array_equal(mirrored, plain[:, ::-1])


def test_ten_of_a_picture_of_just_that_size_differ():
    ten = crops_of(gradient(20, 20), 20, 10)
    assert len({crop.tobytes() for crop in ten}) == 10


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (3, 2), (64, 4)])
def test_batches_are_in_order_and_end_with_their_shard(image_folder, batch_size, workers):
    shards = Manifest.load(image_folder).shards
    batches = list(read_crops(image_folder, shards, 8, 2, batch_size, workers))
    keys = [int(sample["__key__"]) for batch in batches for sample in batch.samples]
    assert keys == [*range(20), *range(100, 105)]
    for batch in batches:
        assert len(batch.samples) == len(batch.crops_NCHW3) <= max(1, batch_size // 2)
        assert {sample["__key__"] for sample in batch.samples} <= set(TarIndex(image_folder / batch.shard.name).keys())
        for sample, crops_CHW3 in zip(batch.samples, batch.crops_NCHW3, strict=True):
            assert (crops_CHW3[..., 0] == int(sample["__key__"])).all()  # conftest: red is the number


def test_a_shard_of_other_bytes_is_refused(make_images, tmp_path):
    make_images(tmp_path)
    shard = tmp_path / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000001\.tar has sha256"):
        list(read_crops(tmp_path, Manifest.load(tmp_path).shards, 8, 1, 4, 2))
