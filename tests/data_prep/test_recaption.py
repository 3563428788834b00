"""Shards get captions that came later: pictures, keys and splits stay, and what belongs to nothing is told."""

import json

import pytest
from PIL import Image

from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from data_prep.pack import pack
from data_prep.recaption import recaption
from data_prep.settings import PackSettings
from data_prep.verify import verify

GIVEN = [("3.png", "a dark red"), ("7.png", "a red"), ("3.png", "nearly black"), ("nowhere.png", "lost")]


@pytest.fixture
def packed(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(9):
        Image.new("RGB", (16, 16), (25 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    settings = PackSettings(min_size=8, val_fraction=0.3, samples_per_shard=4)
    pack(tmp_path / "images", tmp_path / "shards", settings, captions={"4.png": ["of before"]})
    return tmp_path / "shards"


def samples(folder):
    return {split: list(ShardSet(folder, split)) for split in ("train", "val")}


def test_pictures_stay_and_only_the_given_captions_are_theirs(packed, tmp_path):
    out = tmp_path / "out"
    manifest = recaption(packed, out, GIVEN)
    before, after = samples(packed), samples(out)
    texts = {}
    for split in ("train", "val"):
        assert len(before[split]) == len(after[split]) > 0
        for old, new in zip(before[split], after[split], strict=True):
            assert {**old, "txt": None} == {**new, "txt": None}
            texts[json.loads(new["json"])["source"]] = decode_captions(new)
    assert {source: each for source, each in texts.items() if each} == {
        "3.png": ["a dark red", "nearly black"], "7.png": ["a red"]
    }  # fmt: skip
    facts = manifest.facts
    assert (facts["captioned"], facts["unmatched_captions"], facts["first_unmatched_caption"]) == (2, 1, "nowhere.png")
    assert verify(out) == [] and manifest.content != Manifest.load(packed).content


def test_the_same_captions_write_nothing_and_others_are_refused(packed, tmp_path):
    out = tmp_path / "out"
    recaption(packed, out, GIVEN)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    recaption(packed, out, iter(GIVEN))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="holds other pictures or captions"):
        recaption(packed, out, GIVEN[:1])
    (out / "train-000000.tar").unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar is missing"):
        recaption(packed, out, GIVEN)


def test_captions_of_nothing_leave_no_finished_folder(packed, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"none of the 1 captions .* 'images/3\.png'; give paths .* such as '\d\.png'"):
        recaption(packed, out, [("images/3.png", "a dark red")])
    assert not Manifest.exists(out)
    recaption(packed, out, GIVEN)
    assert verify(out) == []
