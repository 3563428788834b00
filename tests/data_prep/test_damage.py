"""Damage to shards of either kind: `verify` names the shard, and training stops with its name."""

import pytest

from clipgen.data.manifest import Manifest
from clipgen.data.module import ImageData, LatentData
from clipgen.data.shards import TarIndex
from clipgen.errors import UserError
from data_prep.verify import verify

NAME = "train-000001.tar"


def flip_a_byte(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 3] ^= 1
    (folder / name).write_bytes(data)


def cut(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:2000])


def cut_between_samples(folder, name):
    """What is left is a tar without an error in it."""
    data, index = (folder / name).read_bytes(), TarIndex(folder / name)
    border = int(index._members_M3[index._first_S[3], 0]) - 512
    (folder / name).write_bytes(data[:border] + bytes(1024))
    assert len(TarIndex(folder / name)) == 3


def remove(folder, name):
    (folder / name).unlink()


def swap(folder, name):
    other = folder / "train-000000.tar"
    content, instead = (folder / name).read_bytes(), other.read_bytes()
    assert len(content) == len(instead), "else its size gives it away"
    (folder / name).write_bytes(instead)
    other.write_bytes(content)


DAMAGES = [flip_a_byte, cut, cut_between_samples, remove, swap]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["images", "latents"])
def test_damage_is_named_and_training_stops(make_images, make_latents, tmp_path, kind, damage):
    if kind == "images":
        make_images(tmp_path)
        train = lambda: ImageData(tmp_path, 8, batch_size=4, steps=2).setup("fit")  # noqa: E731
    else:
        make_latents(tmp_path)
        train = lambda: LatentData(tmp_path, batch_size=4, steps=2).setup("fit")  # noqa: E731
    train()
    damage(tmp_path, NAME)
    broken = {problem.file for problem in verify(tmp_path)}
    assert broken == ({NAME, "train-000000.tar"} if damage is swap else {NAME})
    with pytest.raises(UserError, match=r"train-00000[01]\.tar"):
        train()


def test_images_that_are_not_held_are_checked_when_their_shard_is_first_read(make_images, tmp_path):
    make_images(tmp_path)
    data = ImageData(tmp_path, 8, batch_size=4, steps=2, memory_limit_bytes=0)
    data.setup("fit")
    flip_a_byte(tmp_path, NAME)
    data.train_batches.plain([0])
    with pytest.raises(UserError, match=r"train-000001\.tar has sha256"):
        data.train_batches.plain([8])


def test_a_shard_of_another_family_in_the_folder_is_told(make_images, tmp_path):
    make_images(tmp_path)
    (tmp_path / "00000.tar").write_bytes(b"")
    (problem,) = verify(tmp_path)
    assert "00000.tar is not in the manifest" in problem.text and problem.file is None


def test_latents_of_other_images_are_told(make_images, make_latents, tmp_path):
    make_images(tmp_path / "images")
    make_latents(tmp_path / "latents", n_train=20)
    images, manifest = Manifest.load(tmp_path / "images"), Manifest.load(tmp_path / "latents")
    manifest.facts["sources"] = {shard.name: shard.sha256 for shard in images.shards} | {NAME: "0" * 64}
    manifest.save(tmp_path / "latents")
    (problem,) = verify(tmp_path / "latents", tmp_path / "images")
    assert problem.file == NAME and "was made of another train-000001.tar" in problem.text
