"""Damage is found and named; sound folders have no problems."""

import numpy as np

from clipgen.data.manifest import Manifest
from clipgen.data.sample import encode_npy
from clipgen.data.shards import ShardSet, write_shard
from data_prep.verify import verify


def rewrite(folder, change):
    """Change the samples of the first shard, under a manifest that knows of it."""
    manifest = Manifest.load(folder)
    samples = [dict(ShardSet(folder, "train")[i]) for i in range(manifest.shards[0].samples)]
    change(samples)
    manifest.shards[0] = write_shard(folder / manifest.shards[0].name, samples)
    manifest.save(folder)


def test_sound_folders_have_no_problems(image_folder, latent_folder):
    assert verify(image_folder) == [] and verify(latent_folder) == []


def test_a_flipped_byte_is_found(tmp_path, make_images):
    make_images(tmp_path)
    path = tmp_path / "train-000002.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    (problem,) = verify(tmp_path)
    assert problem.file == "train-000002.tar" and "train-000002.tar has sha256" in problem.text


def test_a_missing_shard_does_not_hide_the_others(tmp_path, make_images):
    make_images(tmp_path)
    (tmp_path / "train-000000.tar").unlink()
    (tmp_path / "val-000000.tar").write_bytes(b"")
    assert len(verify(tmp_path)) == 2


def test_an_image_that_does_not_decode_is_found(tmp_path, make_images):
    make_images(tmp_path)
    rewrite(tmp_path, lambda samples: samples[3].update(png=samples[3]["png"][:40]))
    (problem,) = verify(tmp_path)
    assert "train-000000.tar: sample 000000003 is not a readable image" in problem.text


def test_keys_that_do_not_rise_are_found(tmp_path, make_images):
    make_images(tmp_path)
    rewrite(tmp_path, lambda samples: samples.insert(0, samples.pop(5)))
    assert any("sample 000000000 comes after 000000005" in problem.text for problem in verify(tmp_path))


def test_latents_that_differ_are_found(tmp_path, make_latents):
    make_latents(tmp_path)
    rewrite(tmp_path, lambda samples: samples[2].update({"tokens.npy": encode_npy(np.zeros((2, 3, 3), np.uint16))}))
    assert any("sample 000000002 has tokens (2, 3, 3)" in problem.text for problem in verify(tmp_path))
    rewrite(tmp_path, lambda samples: samples[2].pop("tokens.npy"))
    assert any("sample 000000002 has no tokens.npy" in problem.text for problem in verify(tmp_path))


def test_latents_are_compared_with_their_images(tmp_path, make_images, make_latents):
    make_images(tmp_path / "images")
    make_latents(tmp_path / "latents", n_train=20)
    assert verify(tmp_path / "latents", tmp_path / "images") == []
    make_latents(tmp_path / "latents", n_train=21)
    assert any("other keys" in problem.text for problem in verify(tmp_path / "latents", tmp_path / "images"))
