"""The manifest knows what is there, and says what is not."""

import json

import pytest

from clipgen.data.manifest import FILE_NAME, Manifest, describe_difference
from clipgen.errors import UserError


def edit(folder, change):
    content = json.loads((folder / FILE_NAME).read_text())
    change(content)
    (folder / FILE_NAME).write_text(json.dumps(content))


def test_it_is_read_as_it_was_written(tmp_path, make_images):
    written = make_images(tmp_path)
    read = Manifest.load(tmp_path, "images")
    assert read == written and read.content == written.content
    assert (read.samples("train"), read.samples("val"), read.samples("test")) == (20, 5, 0)
    read.check(tmp_path, deep=True)


def test_it_is_an_index_that_webdataset_reads(image_folder):
    content = json.loads((image_folder / FILE_NAME).read_text())
    assert content["__kind__"] == "wids-shard-index-v1" and content["wids_version"] == 1
    assert {"url", "nsamples", "filesize"} <= set(content["shardlist"][0])


@pytest.mark.parametrize(
    "damage, deep, says",
    [
        (lambda path: path.unlink(), False, "is missing, but the manifest has it with 8 samples"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10_240]), False, r"has \d+ bytes, but the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), True, "has sha256"),
    ],
)
def test_damage_is_named_with_its_shard_and_its_mend(tmp_path, make_images, damage, deep, says):
    manifest = make_images(tmp_path)
    damage(tmp_path / "train-000001.tar")
    with pytest.raises(UserError, match=rf"train-000001\.tar {says}.*run `clipgen prep` again with replace=true"):
        manifest.check(tmp_path, deep)
    assert len(manifest.problems(tmp_path, deep)) == 1


@pytest.mark.parametrize("name", ["../train-000000.tar", "/etc/passwd", "pipe:touch x", "a\nb.tar", ".tar"])
def test_a_shard_that_is_no_plain_file_name_is_refused(tmp_path, make_images, name):
    make_images(tmp_path)
    edit(tmp_path, lambda content: content["shardlist"][0].update(url=name))
    with pytest.raises(UserError, match="not a plain file name"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shardlist": 3}', "\x00"])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is not a manifest of clipgen"):
        Manifest.load(tmp_path)


def test_an_unfinished_folder_is_named(tmp_path):
    assert not Manifest.exists(tmp_path)
    with pytest.raises(UserError, match="does not exist: run `clipgen encode`"):
        Manifest.load(tmp_path, "latents")


def test_a_difference_is_told_by_name():
    old = {"prep": {"size": 64, "crop": True}, "fingerprint": "a", "clip": {"tag": "x"}}
    new = {"prep": {"size": 32, "crop": True}, "fingerprint": "b", "words": [1, 2]}
    assert describe_difference(old, new) == ["prep.size 64 → 32", "clip.tag x → (not set)", "words (not set) → [1, 2]"]
    assert describe_difference({"a": (1, 2)}, {"a": [1, 2]}) == []
