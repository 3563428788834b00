"""Image shards that were damaged come back from the images; others are not touched."""

import pytest
from PIL import Image

from clipgen.data.manifest import Manifest
from clipgen.errors import UserError
from data_prep.pack import pack
from data_prep.repair import repair_images
from data_prep.settings import PackSettings
from data_prep.verify import verify


@pytest.fixture
def packed(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    settings = PackSettings(min_size=8, val_fraction=0, samples_per_shard=3)
    pack(tmp_path / "images", tmp_path / "shards", settings, captions={"4.png": ["the fourth"]})
    return tmp_path / "shards"


def test_a_damaged_and_a_missing_shard_come_back(packed):
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in packed.iterdir()}
    data = bytearray((packed / "train-000001.tar").read_bytes())
    data[700] ^= 1
    (packed / "train-000001.tar").write_bytes(data)
    (packed / "train-000002.tar").unlink()
    broken = {problem.file for problem in verify(packed)}
    assert broken == {"train-000001.tar", "train-000002.tar"}
    repair_images(packed, broken, packed.parent / "images", {"4.png": ["the fourth"]})
    assert verify(packed) == []
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == {n: data for n, (data, _) in before.items()}
    assert (packed / "train-000000.tar").stat().st_ino == before["train-000000.tar"][1]


def test_images_that_have_changed_repair_nothing(packed):
    (packed / "train-000001.tar").write_bytes(b"cut")
    Image.new("RGB", (16, 16), "blue").save(packed.parent / "images" / "3.png")
    with pytest.raises(UserError, match=r"train-000001\.tar cannot be made again"):
        repair_images(packed, {"train-000001.tar"}, packed.parent / "images")
    assert (packed / "train-000001.tar").read_bytes() == b"cut" and not (packed / ".repair").exists()


def test_shards_of_an_earlier_version_are_told(packed):
    manifest = Manifest.load(packed)
    manifest.made_by["prep"]["bytes_per_shard"] = None
    manifest.save(packed)
    with pytest.raises(UserError, match=r"earlier version, with the setting prep\.bytes_per_shard.*replace=true"):
        repair_images(packed, {"train-000001.tar"}, packed.parent / "images")


def test_shards_of_an_addition_come_back_too(packed):
    for i in range(8, 12):
        Image.new("RGB", (16, 16), (0, 20 * i, 0)).save(packed.parent / "images" / f"0{i}.png")
    captions = {"4.png": ["the fourth"]}
    settings = PackSettings(min_size=8, val_fraction=0, samples_per_shard=3)
    manifest = pack(packed.parent / "images", packed, settings, captions=captions)
    assert len(manifest.shards) == 5
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    for name in ("train-000000.tar", "train-000003.tar"):
        (packed / name).unlink()
    repair_images(packed, {"train-000000.tar", "train-000003.tar"}, packed.parent / "images", captions)
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before
