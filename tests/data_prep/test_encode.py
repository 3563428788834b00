"""Latents are what the networks give for each picture, under its key; a killed run continues to the same bytes."""

import errno
import json
import re
import resource
import shutil
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipgen.clip.frozen import load_clip
from clipgen.data.batches import read_latent
from clipgen.data.manifest import FILE_NAME, Manifest
from clipgen.data.sample import decode_captions, decode_image, decode_npy
from clipgen.data.shards import ShardSet, TarIndex, write_shard
from clipgen.data.transforms import center_crop_resize, to_model_range
from clipgen.errors import UserError
from clipgen.tokenizer.vqgan import VQGAN
from data_prep.crops import crops_of
from data_prep.encode import Encoders, encode
from data_prep.pack import pack
from data_prep.precision import agreement, holds
from data_prep.settings import PackSettings
from data_prep.statistics import STATISTICS, load_statistics
from data_prep.verify import verify

SIZE = 8  # of the crops; the pictures of `image_folder` are 12×10
TEXTS = ["a red circle", "a blue ring", "two black crosses on white", "nothing"]


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    shape = dict(channels=32, channel_multipliers=[1, 2], res_blocks=1, z_channels=8, norm_groups=4)
    return VQGAN(SIZE, codebook_size=64, code_dim=4, **shape).eval()


@pytest.fixture(scope="module")
def clip(tiny_clip_folder):
    return load_clip(f"local-dir:{tiny_clip_folder}")


@pytest.fixture(scope="module")
def encoders(vqgan, clip) -> Encoders:
    identity = {
        "tokenizer": {"sha256": "3f9c", "codebook_size": 64},
        "clip": {**clip.identity.describe(), "fingerprint": clip.identity.fingerprint()},
    }
    tokens = torch.no_grad()(vqgan.encode)
    return Encoders(SIZE, tokens, clip.encode_image, clip.encode_text, torch.device("cpu"), identity)


@pytest.fixture(scope="module")
def latents(image_folder, encoders, tmp_path_factory) -> Path:
    """Of 20 + 5 pictures in 3 + 1 shards. Not to be changed."""
    folder = tmp_path_factory.mktemp("encoded")
    encode(image_folder, folder, encoders, TEXTS, "the test", batch_size=3)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pictures(folder: Path, split: str) -> torch.Tensor:
    """The centre crops of a split in [-1, 1]."""
    whole = (Image.fromarray(decode_image(sample["png"])) for sample in ShardSet(folder, split))
    return to_model_range(torch.from_numpy(np.stack([center_crop_resize(image, SIZE) for image in whole])))


def embeddings(folder: Path, split: str, column: int = 0) -> torch.Tensor:
    shards = ShardSet(folder, split)
    return torch.from_numpy(np.stack([read_latent(shards, i)[1][column] for i in range(len(shards))])).float()


def test_every_picture_has_its_latent_in_the_shard_of_the_same_name(image_folder, latents):
    images, made = Manifest.load(image_folder, "images"), Manifest.load(latents, "latents")
    assert [(s.name, s.split, s.samples) for s in made.shards] == [(s.name, s.split, s.samples) for s in images.shards]
    for shard in made.shards:
        keys = TarIndex(latents / shard.name).keys()
        assert keys == TarIndex(image_folder / shard.name).keys() and len(keys) == shard.samples
    assert verify(latents, image_folder) == []
    assert contents(latents).keys() == {FILE_NAME, STATISTICS, *(shard.name for shard in made.shards)}
    sources = [json.loads(sample["json"])["source"] for sample in ShardSet(latents, "train")]
    assert sources == [f"{i}.png" for i in range(20)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_tokens_and_embeddings_are_those_of_the_networks(image_folder, latents, vqgan, clip, split):
    image_BCHW = pictures(image_folder, split)
    shards = ShardSet(latents, split)
    with torch.no_grad():
        for i, image_CHW in enumerate(image_BCHW):
            tokens_Chw, clip_CE = read_latent(shards, i)
            assert tokens_Chw.shape == (1, 4, 4) and tokens_Chw.dtype == np.uint16
            assert clip_CE.shape == (1, 16) and clip_CE.dtype == np.float16
            assert np.array_equal(tokens_Chw[0], vqgan.encode(image_CHW[None])[0].numpy())
            np.testing.assert_allclose(clip_CE[0], clip.encode_image(image_CHW[None])[0].numpy(), atol=1e-3)
            assert np.linalg.norm(clip_CE[0].astype(np.float32)) == pytest.approx(1, abs=2e-3)


def test_the_statistics_are_numpys_mean_and_covariance(latents, clip):
    found = load_file(latents / STATISTICS)
    for name, rows_NE in (("image", embeddings(latents, "train")), ("text", clip.encode_text(TEXTS))):
        rows_NE = rows_NE.double().numpy()
        np.testing.assert_allclose(found[f"{name}_mean"].numpy(), rows_NE.mean(0), atol=1e-6)
        np.testing.assert_allclose(found[f"{name}_covariance"].numpy(), np.cov(rows_NE.T, bias=True), atol=1e-6)
        assert int(found[f"{name}_count"]) == len(rows_NE)
    assert found["image_count"] == 20, "validation pictures are left out"


def test_the_manifest_says_who_made_them(image_folder, latents, encoders):
    manifest = Manifest.load(latents)
    made_by = manifest.made_by
    assert made_by["tokenizer"] == encoders.identity["tokenizer"] and made_by["clip"] == encoders.identity["clip"]
    assert made_by["images"] == Manifest.load(image_folder).content
    assert made_by["encode"] == {"image_size": SIZE, "crops": 1, "precision": "fp32"}
    facts = manifest.facts
    assert (facts["texts"], facts["texts_from"], facts["crops"]) == (4, "the test", 1)
    assert facts["sources"] == {shard.name: shard.sha256 for shard in Manifest.load(image_folder).shards}


def test_the_batch_size_changes_nothing_but_the_speed(image_folder, latents, encoders, tmp_path):
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=7)
    for split in ("train", "val"):
        ours, theirs = ShardSet(tmp_path, split), ShardSet(latents, split)
        for i in range(len(ours)):
            (tokens, clip), (other_tokens, other_clip) = read_latent(ours, i), read_latent(theirs, i)
            assert np.array_equal(tokens, other_tokens)
            np.testing.assert_allclose(clip, other_clip, atol=1e-3)


def test_a_flip_is_a_second_crop(image_folder, latents, encoders, vqgan, clip, tmp_path):
    manifest = encode(image_folder, tmp_path, encoders, TEXTS, "the test", crops=2)
    assert manifest.facts["crops"] == 2 and manifest.made_by["encode"]["crops"] == 2
    flipped_BCHW = pictures(image_folder, "val").flip(-1)
    shards = ShardSet(tmp_path, "val")
    with torch.no_grad():
        for i in range(len(shards)):
            tokens_Chw, clip_CE = read_latent(shards, i)
            assert tokens_Chw.shape == (2, 4, 4) and clip_CE.shape == (2, 16)
            assert np.array_equal(tokens_Chw[0], read_latent(ShardSet(latents, "val"), i)[0][0])
            assert np.array_equal(tokens_Chw[1], vqgan.encode(flipped_BCHW[i : i + 1])[0].numpy())
            np.testing.assert_allclose(clip_CE[1], clip.encode_image(flipped_BCHW[i : i + 1])[0].numpy(), atol=1e-3)
    found = load_file(tmp_path / STATISTICS)
    both = torch.cat([embeddings(tmp_path, "train", 0), embeddings(tmp_path, "train", 1)])
    np.testing.assert_allclose(found["image_mean"].numpy(), both.double().mean(0).numpy(), atol=1e-6)
    assert found["image_count"] == 40


def test_captions_become_text_embeddings(encoders, clip, tmp_path):
    captions = {}
    for i in range(4):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(path)
        captions[path.name] = [f"a {TEXTS[i]}", "ein Kreis, größer"][: 1 + i % 2]
    del captions["3.png"]
    pack(tmp_path / "images", tmp_path / "shards", PackSettings(min_size=8, val_fraction=0), captions=captions)
    encode(tmp_path / "shards", tmp_path / "latents", encoders, TEXTS, "the test")
    samples = {json.loads(sample["json"])["source"]: sample for sample in ShardSet(tmp_path / "latents", "train")}
    assert len(samples) == 4 and "text_clip.npy" not in samples["3.png"] and "txt" not in samples["3.png"]
    for name, texts in captions.items():
        assert decode_captions(samples[name]) == texts
        text_clip = decode_npy(samples[name]["text_clip.npy"])
        assert text_clip.dtype == np.float16 and text_clip.shape == (len(texts), 16)
        np.testing.assert_allclose(text_clip, clip.encode_text(texts).numpy(), atol=1e-3)
    assert verify(tmp_path / "latents", tmp_path / "shards") == []


class Counted:
    """An encoder of tokens that counts its batches, and dies in one of them."""

    def __init__(self, tokens, dies_at: int | None = None, of: type[BaseException] = KeyboardInterrupt):
        self.tokens, self.dies_at, self.of, self.batches = tokens, dies_at, of, 0

    def __call__(self, image_BCHW):
        self.batches += 1
        if self.batches == self.dies_at:
            raise self.of
        return self.tokens(image_BCHW)


# shards of 8, 8, 4 and 5 pictures, so 3 + 3 + 2 + 2 batches of 3
@pytest.mark.parametrize("dies_at, left", [(1, 10), (4, 7), (5, 7), (7, 4), (10, 2)])
@pytest.mark.parametrize("of", [KeyboardInterrupt, MemoryError])
def test_a_killed_run_continues_after_its_last_shard(image_folder, latents, encoders, tmp_path, dies_at, left, of):
    with pytest.raises(of):
        dying = changed(encoders, tokens=Counted(encoders.tokens, dies_at, of))
        encode(image_folder, tmp_path, dying, TEXTS, "the test", batch_size=3)
    assert not Manifest.exists(tmp_path) and not list(tmp_path.glob(".*tmp*"))
    going_on = Counted(encoders.tokens)
    encode(image_folder, tmp_path, changed(encoders, tokens=going_on), TEXTS, "the test", batch_size=3)
    assert going_on.batches == left
    assert contents(tmp_path) == contents(latents)


def test_a_shard_that_was_damaged_meanwhile_is_made_again(image_folder, latents, encoders, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        dying = changed(encoders, tokens=Counted(encoders.tokens, 7))
        encode(image_folder, tmp_path, dying, TEXTS, "the test", batch_size=3)
    (tmp_path / "train-000000.tar").write_bytes(b"cut")
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3)
    assert contents(tmp_path) == contents(latents)


def test_what_is_done_is_not_done_again(image_folder, latents, encoders):
    before = {path: path.stat().st_mtime_ns for path in latents.iterdir()}
    idle = Counted(encoders.tokens)
    manifest = encode(image_folder, latents, changed(encoders, tokens=idle), TEXTS, "the test", batch_size=3)
    assert idle.batches == 0 and manifest.samples("train") == 20
    assert {path: path.stat().st_mtime_ns for path in latents.iterdir()} == before


@pytest.mark.parametrize(
    "part, key, value, says",
    [
        ("tokenizer", "sha256", "81d0", r"tokenizer\.sha256 3f9c → 81d0"),
        ("tokenizer", "codebook_size", 32, r"tokenizer\.codebook_size 64 → 32"),
        ("clip", "sha256", "0000", r"clip\.sha256 \w+ → 0000"),
        ("clip", "image_size", 64, r"clip\.image_size 32 → 64"),
    ],
)
def test_latents_of_another_tokenizer_or_clip_are_kept_unless_replaced(
    image_folder, encoders, tmp_path, part, key, value, says
):
    encode(image_folder, tmp_path, encoders, TEXTS, "the test")
    before = contents(tmp_path)
    identity = {**encoders.identity, part: {**encoders.identity[part], key: value}}
    with pytest.raises(UserError, match=rf"latents=.* was made otherwise \({says}\).*replace=true") as raised:
        encode(image_folder, tmp_path, changed(encoders, identity=identity), TEXTS, "the test")
    assert "\n" not in str(raised.value) and contents(tmp_path) == before
    encode(image_folder, tmp_path, changed(encoders, identity=identity), TEXTS, "the test", replace=True)
    assert Manifest.load(tmp_path).made_by[part][key] == value


def test_other_images_another_crop_and_other_texts_are_noticed(image_folder, make_images, encoders, tmp_path):
    latents, images = tmp_path / "latents", tmp_path / "images"
    make_images(images, n_train=4, n_val=2)
    encode(images, latents, encoders, TEXTS, "the test")
    for shards, changes, texts, crops in (
        (image_folder, encoders, TEXTS, 1),
        (images, encoders, TEXTS, 2),
        (images, encoders, TEXTS[:2], 1),
    ):
        with pytest.raises(UserError, match=r"was made (otherwise|of another)"):
            encode(shards, latents, changes, texts, "the test", crops)
    manifest = encode(image_folder, latents, encoders, TEXTS, "the test", replace=True)
    assert {path.name for path in latents.glob("*.tar")} == {shard.name for shard in manifest.shards}


def test_an_image_smaller_than_the_tokenizers_is_named(image_folder, encoders, tmp_path):
    with pytest.raises(UserError, match=r"sample 000000000 is smaller than tokenizer\.image_size 11.*prep\.size=11"):
        encode(image_folder, tmp_path, changed(encoders, image_size=11), TEXTS, "the test")
    assert not Manifest.exists(tmp_path) and not list(tmp_path.glob("*.tar"))


def test_a_broken_image_shard_is_named_and_leaves_no_latents(make_images, encoders, tmp_path):
    make_images(tmp_path / "images")
    shard = tmp_path / "images" / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    place = re.search(rb"\x89PNG", data).start()
    data[place : place + 64] = bytes(64)
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000001\.tar has sha256 .* but the manifest says"):
        encode(tmp_path / "images", tmp_path / "latents", encoders, TEXTS, "the test")
    assert not Manifest.exists(tmp_path / "latents")
    assert [path.name for path in (tmp_path / "latents").glob("*.tar")] == ["train-000000.tar"]
    shard.unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar is missing"):
        encode(tmp_path / "images", tmp_path / "other", encoders, TEXTS, "the test")
    assert not (tmp_path / "other").exists()


def grown(make_images, folder: Path, n_train: int) -> Manifest:
    """Image shards with more pictures than before, in shards of their own: those of before keep their bytes."""
    return make_images(folder, n_train=n_train, n_val=2, split_at=4)


def test_added_images_are_encoded_and_nothing_else(make_images, encoders, tmp_path):
    images, latents = tmp_path / "images", tmp_path / "latents"
    grown(make_images, images, 8)
    encode(images, latents, encoders, TEXTS, "the test")
    before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in latents.glob("*.tar")}
    grown(make_images, images, 12)
    counted = Counted(encoders.tokens)
    manifest = encode(images, latents, changed(encoders, tokens=counted), TEXTS, "the test")
    assert counted.batches == 1 and manifest.samples("train") == 12
    assert {name: ((latents / name).read_bytes(), (latents / name).stat().st_ino) for name in before} == before
    assert verify(latents, images) == [] and load_file(latents / STATISTICS)["image_count"] == 12
    encode(images, tmp_path / "at-once", encoders, TEXTS, "the test")
    assert contents(latents) == contents(tmp_path / "at-once")


def test_latents_stay_usable_while_added_images_are_encoded(make_images, encoders, tmp_path):
    images, latents = tmp_path / "images", tmp_path / "latents"
    grown(make_images, images, 8)
    encode(images, latents, encoders, TEXTS, "the test")
    before = contents(latents)
    grown(make_images, images, 16)
    with pytest.raises(KeyboardInterrupt):
        encode(images, latents, changed(encoders, tokens=Counted(encoders.tokens, 2)), TEXTS, "the test")
    assert contents(latents).items() >= before.items() and verify(latents)[0].text.startswith("shard")
    going_on = Counted(encoders.tokens)
    encode(images, latents, changed(encoders, tokens=going_on), TEXTS, "the test")
    assert going_on.batches == 1 and verify(latents, images) == []


def test_a_stale_latent_is_named_and_only_it_is_made_again(make_images, encoders, tmp_path):
    images, latents = tmp_path / "images", tmp_path / "latents"
    grown(make_images, images, 8)
    encode(images, latents, encoders, TEXTS, "the test")
    manifest = Manifest.load(images)
    samples = [dict(sample) for sample in TarIndex(images / "train-000001.tar")]
    samples[0]["png"] = samples[1]["png"]
    manifest.shards[1] = write_shard(images / "train-000001.tar", samples)
    manifest.save(images)
    with pytest.raises(UserError, match=r"train-000001\.tar was made of another train-000001\.tar than shards="):
        encode(images, latents, encoders, TEXTS, "the test")
    assert [problem.file for problem in verify(latents, images)] == ["train-000001.tar"]
    counted = Counted(encoders.tokens)
    encode(images, latents, changed(encoders, tokens=counted), TEXTS, "the test", replace=True)
    assert counted.batches == 1 and verify(latents, images) == []


@pytest.mark.parametrize("name", ["train-000001.tar", STATISTICS])
def test_what_was_damaged_is_made_again_alone(image_folder, latents, encoders, tmp_path, name):
    copy = Path(shutil.copytree(latents, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[-1 if name == STATISTICS else 600] ^= 1
    (copy / name).write_bytes(data)
    assert [problem.file for problem in verify(copy)] == [name]
    counted = Counted(encoders.tokens)
    again = changed(encoders, tokens=counted)
    encode(image_folder, copy, again, TEXTS, "the test", batch_size=3, replace=True, redo={name})
    assert counted.batches == (0 if name == STATISTICS else 3) and contents(copy) == contents(latents)


def test_changed_statistics_stop_whoever_reads_them(latents, tmp_path):
    copy = Path(shutil.copytree(latents, tmp_path / "copy"))
    assert load_statistics(copy)["image_count"] == 20
    data = bytearray((copy / STATISTICS).read_bytes())
    data[-1] ^= 1
    (copy / STATISTICS).write_bytes(data)
    with pytest.raises(UserError, match=r"statistics\.safetensors is not the one"):
        load_statistics(copy)


def test_other_texts_make_other_statistics_but_no_latents(image_folder, latents, encoders, tmp_path):
    copy, counted = Path(shutil.copytree(latents, tmp_path / "copy")), Counted(encoders.tokens)
    encode(image_folder, copy, changed(encoders, tokens=counted), TEXTS[:2], "the test", replace=True)
    assert counted.batches == 0 and load_statistics(copy)["text_count"] == 2


def test_captions_are_the_texts_where_there_are_enough(encoders, clip, tmp_path, monkeypatch):
    captions = {}
    for i in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
        captions[f"{i}.png"] = [TEXTS[i]]
    pack(tmp_path / "images", tmp_path / "shards", PackSettings(min_size=8, val_fraction=0), captions=captions)
    few = encode(tmp_path / "shards", tmp_path / "few", encoders, TEXTS, "the test")
    assert (few.facts["texts"], few.facts["texts_from"]) == (4, "the test")
    monkeypatch.setattr("data_prep.statistics.ENOUGH_CAPTIONS", 3)
    enough = encode(tmp_path / "shards", tmp_path / "enough", encoders, TEXTS, "the test")
    assert (enough.facts["texts"], enough.facts["texts_from"]) == (3, "captions of the images")
    mean_E = clip.encode_text(TEXTS[:3]).mean(0)
    np.testing.assert_allclose(load_statistics(tmp_path / "enough")["text_mean"], mean_E, atol=1e-3)
    alone = encode(
        tmp_path / "shards", tmp_path / "enough", encoders, TEXTS, "the test", replace=True, own_captions=False
    )
    assert (alone.facts["texts"], alone.facts["texts_from"]) == (4, "the test")


def test_ten_crops_are_those_of_crops_of(image_folder, encoders, vqgan, clip, tmp_path):
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", crops=10, batch_size=30, workers=2)
    images, shards = ShardSet(image_folder, "val"), ShardSet(tmp_path, "val")
    for i in range(len(shards)):
        crops_CHW3 = crops_of(decode_image(images[i]["png"]), SIZE, 10)
        image_CCHW = to_model_range(torch.from_numpy(crops_CHW3))
        tokens_Chw, clip_CE = read_latent(shards, i)
        assert tokens_Chw.shape == (10, 4, 4)
        with torch.no_grad():
            assert np.array_equal(tokens_Chw, vqgan.encode(image_CCHW).numpy())
        np.testing.assert_allclose(clip_CE, clip.encode_image(image_CCHW).numpy(), atol=1e-3)


@pytest.mark.parametrize("crops", [2, 10])
def test_large_tokens_are_those_of_the_same_crops_at_twice_the_size(make_images, encoders, vqgan, tmp_path, crops):
    make_images(tmp_path / "images", width=26, height=24)
    made = encode(tmp_path / "images", tmp_path, encoders, TEXTS, "the test", crops=crops, batch_size=30, large=True)
    assert made.made_by["encode"]["large"] is True and verify(tmp_path, tmp_path / "images") == []
    images, shards = ShardSet(tmp_path / "images", "val"), ShardSet(tmp_path, "val")
    for i in range(len(shards)):
        large_CHW3 = crops_of(decode_image(images[i]["png"]), 2 * SIZE, crops)
        halves = [np.asarray(center_crop_resize(Image.fromarray(each), SIZE)) for each in large_CHW3]
        with torch.no_grad():
            for name, pixels in (("tokens.npy", np.stack(halves)), ("large.npy", large_CHW3)):
                wanted = vqgan.encode(to_model_range(torch.from_numpy(pixels))).numpy()
                assert np.array_equal(decode_npy(shards[i][name]), wanted)
    with pytest.raises(UserError, match=r"made otherwise \(encode\.large"):
        encode(tmp_path / "images", tmp_path, encoders, TEXTS, "the test", crops=crops)


def test_pictures_too_small_for_large_tokens_are_refused(image_folder, encoders, tmp_path):
    with pytest.raises(UserError, match=r"smaller than twice tokenizer\.image_size .*, 16; pack again"):
        encode(image_folder, tmp_path, encoders, TEXTS, "the test", large=True)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_no_byte(image_folder, latents, encoders, tmp_path, workers):
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3, workers=workers)
    assert contents(tmp_path) == contents(latents)


def test_tars_of_something_else_are_not_written_over(image_folder, encoders, tmp_path):
    (tmp_path / "train-000000.tar").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"holds train-000000\.tar but no manifest"):
        encode(image_folder, tmp_path, encoders, TEXTS, "the test")
    assert contents(tmp_path) == {"train-000000.tar": b"precious"}
    with pytest.raises(UserError, match="holds images, but latents are needed here"):
        encode(image_folder, image_folder, encoders, TEXTS, "the test")


@pytest.mark.parametrize("error, says", [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission to write")])
def test_a_full_disk_and_a_missing_permission_are_told(image_folder, latents, encoders, tmp_path, error, says):
    def fail(sample):
        raise OSError(error, "as the system says it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipgen.data.shards._members", fail)
        with pytest.raises(UserError, match=rf"train-000000\.tar: {says}"):
            encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3)
    assert not list(tmp_path.glob("*.tar")) and not Manifest.exists(tmp_path)
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3)
    assert contents(tmp_path) == contents(latents)


def test_a_disk_that_takes_no_more_is_told_and_the_run_goes_on(image_folder, latents, encoders, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # enough for the first notes, not for a shard
    try:
        with pytest.raises(UserError, match=r"train-000000\.tar: .*disk"):
            encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    encode(image_folder, tmp_path, encoders, TEXTS, "the test", batch_size=3)
    assert contents(tmp_path) == contents(latents)


def test_bf16_is_measured_against_float32(image_folder, encoders):
    assert agreement(image_folder, encoders, encoders) == (1.0, pytest.approx(1.0))
    shifted = changed(encoders, tokens=lambda image_BCHW: encoders.tokens(image_BCHW) + 1)
    assert agreement(image_folder, encoders, shifted)[0] == 0.0
    assert holds(0.996, 0.9999) and not holds(0.994, 0.9999) and not holds(0.996, 0.99)
