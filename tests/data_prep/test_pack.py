"""Folders as people have them become shards, with nothing dropped in silence."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from clipgen.data import atomic
from clipgen.data.manifest import FILE_NAME, Manifest
from clipgen.data.sample import decode_captions, decode_image, image_bytes
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from data_prep import chunk as chunk_module
from data_prep import pack as pack_module
from data_prep.pack import COUNTS, QUARANTINE, REPORT, pack
from data_prep.settings import PackSettings
from data_prep.verify import verify

SMALL = PackSettings(size=16, samples_per_shard=10, min_size=8)


def draw(folder: Path, n: int, first: int = 0, width: int = 24, height: int = 20) -> Path:
    for i in range(first, first + n):
        path = folder / f"{i % 3}" / f"photo.{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    return draw(tmp_path / "images", 35)


def contents(folder: Path) -> dict[str, bytes]:
    """All but the report, which tells how long it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT}


def samples(folder: Path) -> list[dict]:
    return [sample for split in ("train", "val") for sample in ShardSet(folder, split)]


def test_a_folder_becomes_shards(images, tmp_path):
    manifest = pack(images, tmp_path / "shards", SMALL)
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {
        FILE_NAME,
        QUARANTINE,
        COUNTS,
        REPORT,
        "files.jsonl",
        *(shard.name for shard in manifest.shards),
    }
    assert manifest.facts["seen"] == manifest.facts["written"] == 35 and manifest.facts["set_aside"] == {}
    assert manifest.facts["pixels"]["train"] == manifest.samples("train") * 16 * 16
    assert verify(tmp_path / "shards") == []
    for sample in samples(tmp_path / "shards"):
        meta = json.loads(sample["json"])
        source = images / meta["source"]
        assert meta["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert (meta["original_width"], meta["original_height"], meta["width"], meta["height"]) == (24, 20, 16, 16)
        assert decode_image(image_bytes(sample)).shape == (16, 16, 3)


def test_pixels_are_kept_where_nothing_is_resized(images, tmp_path):
    pack(images, tmp_path / "shards", PackSettings(size=None))
    sample = samples(tmp_path / "shards")[0]
    source = np.asarray(Image.open(images / json.loads(sample["json"])["source"]))
    assert np.array_equal(decode_image(image_bytes(sample)), source)


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_shorter_side_and_other_formats(images, tmp_path, extension):
    pack(images, tmp_path / "shards", PackSettings(size=10, crop=False, format=extension))
    sample = samples(tmp_path / "shards")[0]
    assert extension in sample and decode_image(image_bytes(sample)).shape == (10, 12, 3)


def test_the_bytes_do_not_depend_on_the_number_of_processes(images, tmp_path):
    pack(images, tmp_path / "one", SMALL)
    pack(images, tmp_path / "three", SMALL, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_packing_again_does_nothing(images, tmp_path, monkeypatch):
    first = pack(images, tmp_path / "shards", SMALL)
    before = contents(tmp_path / "shards")
    monkeypatch.setattr(pack_module, "make_chunk", lambda *_: pytest.fail("made again"))
    (tmp_path / "shards" / ".chunk-000000.json").write_text("left by a kill just after the manifest was written")
    assert pack(images, tmp_path / "shards", SMALL) == first
    assert contents(tmp_path / "shards") == before


def test_other_settings_or_images_are_refused_by_name_or_replace(images, tmp_path):
    out = tmp_path / "shards"
    pack(images, out, SMALL)
    with pytest.raises(UserError, match=r"prep\.size 16 → 32"):
        pack(images, out, PackSettings(size=32, samples_per_shard=10))
    (images / "0" / "photo.0000.png").unlink()
    with pytest.raises(UserError, match=r"a packed image is gone or changed, the first is '0/photo\.0000\.png'"):
        pack(images, out, SMALL)
    assert len(samples(out)) == 35  # a refusal changes nothing
    manifest = pack(images, out, PackSettings(size=32, samples_per_shard=100), replace=True)
    assert len(list(out.glob("train-*.tar"))) == 1 and verify(out) == []
    pack(images, tmp_path / "fresh", PackSettings(size=32, samples_per_shard=100))
    assert contents(out) == contents(tmp_path / "fresh") and manifest.facts["written"] == 34


def test_a_lost_shard_is_named_and_made_again_on_demand(images, tmp_path):
    out = tmp_path / "shards"
    pack(images, out, SMALL)
    before = contents(out)
    (out / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar is missing.*replace=true"):
        pack(images, out, SMALL)
    pack(images, out, SMALL, replace=True)
    assert contents(out) == before


def test_hostile_names_are_kept_as_text_only(tmp_path):
    names = [
        b"\xff.png",
        b"new\nline.png",
        "\u202egnp.png".encode(),
        b"x" * 240 + b".png",
        b"A.png",
        b"a.png",
        b"..png.png",
    ]
    images = draw(tmp_path / "images", 1)
    for name in names:
        os.link(images / "0" / "photo.0000.png", os.fsencode(images) + b"/" + name)
    pack(images, tmp_path / "shards", PackSettings(size=16, deduplicate=False))
    sources = {os.fsencode(json.loads(sample["json"])["source"]) for sample in samples(tmp_path / "shards")}
    assert sources == {*names, b"0/photo.0000.png"} - {b"..png.png"}  # a leading dot hides a file


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(images, tmp_path):
    pack(images, tmp_path / "unbroken", SMALL)
    out = tmp_path / "killed"
    context = multiprocessing.get_context("fork")
    for chunk in range(3):
        process = context.Process(target=_pack_slowly, args=(images, out))
        process.start()
        deadline = time.monotonic() + 20
        while not (out / f".chunk-{chunk:06d}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not Manifest.exists(out)
    first = out / "train-000000.tar"
    made = first.stat().st_mtime_ns
    pack(images, out, SMALL)
    assert first.stat().st_mtime_ns == made  # what was complete is not made twice
    assert contents(out) == contents(tmp_path / "unbroken")


def _pack_slowly(images: Path, out: Path) -> None:
    tqdm.set_lock(threading.RLock())  # else a bar's lock is shared with the test, and killed with it held
    convert = chunk_module.convert
    chunk_module.convert = lambda *args: time.sleep(0.02) or convert(*args)
    pack(images, out, SMALL)


def test_a_full_disk_is_told_and_what_is_complete_is_kept(images, tmp_path, monkeypatch):
    out, flush = tmp_path / "shards", atomic._flush

    def full(path):
        if "train-000002" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(atomic, "_flush", full)
    with pytest.raises(UserError, match=r"train-000002\.tar: the disk is full"):
        pack(images, out, SMALL)
    names = {path.name for path in out.iterdir()}
    assert "train-000001.tar" in names and FILE_NAME not in names
    assert not any("train-000002" in name or "tmp" in name for name in names)
    monkeypatch.undo()
    pack(images, out, SMALL)
    pack(images, tmp_path / "fresh", SMALL)
    assert contents(out) == contents(tmp_path / "fresh")


def test_an_interrupted_run_with_other_settings_leaves_no_trace(images, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    monkeypatch.setattr(pack_module, "_finish", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(images, out, PackSettings(size=8, samples_per_shard=4))
    monkeypatch.undo()
    pack(images, out, SMALL)
    pack(images, tmp_path / "fresh", SMALL)
    assert contents(out) == contents(tmp_path / "fresh")


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_picture_is_always_on_one_side(tmp_path):
    images = draw(tmp_path / "images", 60)
    draw(images / "copies", 60)
    settings = PackSettings(size=16, samples_per_shard=7, val_fraction=0.3, min_size=8, deduplicate=False)
    pack(images, tmp_path / "shards", settings)
    sides = {
        split: {json.loads(sample["json"])["sha256"] for sample in ShardSet(tmp_path / "shards", split)}
        for split in ("train", "val")
    }
    assert len(sides["train"]) + len(sides["val"]) == 60 and not sides["train"] & sides["val"]
    assert 8 <= len(sides["val"]) <= 30


@pytest.mark.parametrize(
    "n, val_fraction, expected",
    [(1, 0.9, (1, 0)), (19, 1e-9, (19, 0)), (20, 1e-9, (19, 1)), (25, 1e-9, (24, 1)), (25, 0, (25, 0))],
)
def test_small_folders_have_something_on_each_side(tmp_path, n, val_fraction, expected):
    draw(tmp_path / "images", n)
    settings = PackSettings(size=16, samples_per_shard=8, val_fraction=val_fraction)
    manifest = pack(tmp_path / "images", tmp_path / "shards", settings)
    assert (manifest.samples("train"), manifest.samples("val")) == expected
    assert verify(tmp_path / "shards") == []


def test_bad_files_are_set_aside_with_a_reason(images, tmp_path):
    (images / "text.png").write_text("<html>")
    (images / "notes.txt").write_text("not an image, and does not claim to be one")
    (images / "empty.jpg").write_bytes(b"")
    good = (images / "0" / "photo.0000.png").read_bytes()
    (images / "cut.png").write_bytes(good[: len(good) // 2])
    Image.new("RGB", (7, 90)).save(images / "thin.png")
    Image.new("L", (8000, 8000)).save(images / "huge.png")
    (images / "new\nline.png").write_bytes(good[:-400])
    manifest = pack(images, tmp_path / "shards", SMALL)
    lines = [json.loads(line) for line in (tmp_path / "shards" / QUARANTINE).read_text().splitlines()]
    assert {line["file"]: line["reason"] for line in lines} == {
        "cut.png": "unreadable",
        "empty.jpg": "unreadable",
        "huge.png": "too_many_pixels",
        "new\nline.png": "unreadable",
        "notes.txt": "format",
        "text.png": "unreadable",
        "thin.png": "too_small",
    }
    assert all(line["detail"] for line in lines)
    assert manifest.facts["set_aside"] == {"format": 1, "too_many_pixels": 1, "too_small": 1, "unreadable": 4}
    assert manifest.facts["seen"] == 42 == manifest.facts["written"] + 7


def test_too_many_bad_files_stop_the_run(images, tmp_path):
    for i in range(36):
        (images / f"bad-{i:02d}.jpg").write_text("nothing")
    with pytest.raises(
        UserError, match=r"36 of 71 images cannot be used, mostly as unreadable, the first is 'bad-00\.jpg'"
    ):
        pack(images, tmp_path / "shards", SMALL)
    assert not Manifest.exists(tmp_path / "shards")
    (images / "bad-00.jpg").unlink()
    assert pack(images, tmp_path / "shards", SMALL).facts["written"] == 35


def test_captions_come_along(images, tmp_path):
    captions = {"0/photo.0000.png": ["a red bird", "a bird"], "gone.png": ["nobody"]}
    manifest = pack(images, tmp_path / "shards", SMALL, captions=captions)
    captioned = {
        json.loads(s["json"])["source"]: decode_captions(s) for s in samples(tmp_path / "shards") if "txt" in s
    }
    assert captioned == {"0/photo.0000.png": ["a red bird", "a bird"]} and manifest.facts["captioned"] == 1
    with pytest.raises(UserError, match=r"none of the 1 captions belongs to a file.*'gone\.png'"):
        pack(images, tmp_path / "other", SMALL, captions={"gone.png": ["nobody"]})


def test_wrong_places_are_refused(images, tmp_path, make_latents):
    with pytest.raises(UserError, match="lies inside images="):
        pack(images, images / "shards", SMALL)
    make_latents(tmp_path / "latents")
    with pytest.raises(UserError, match="holds latents"):
        pack(images, tmp_path / "latents", SMALL, replace=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "train-000000.tar").write_bytes(b"someone else's")
    with pytest.raises(UserError, match=r"holds train-000000\.tar but no manifest"):
        pack(images, tmp_path / "foreign", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        pack(images, tmp_path / "file", SMALL)
    with pytest.raises(UserError, match="does not exist"):
        pack(tmp_path / "gone", tmp_path / "new", SMALL)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", [{"format": "gif"}, {"size": 0}, {"val_fraction": 1.0}, {"quality": 101}])
def test_impossible_settings_are_named(change):
    with pytest.raises(UserError, match=rf"prep\.{next(iter(change))}"):
        PackSettings(**change)


def test_the_malformed_set_packs_without_a_crash(shared_data, tmp_path):
    with tarfile.open(shared_data / "malformed.tar") as tar:
        tar.extractall(tmp_path / "images", filter="data")
    manifest = pack(tmp_path / "images", tmp_path / "shards", PackSettings(size=32, min_size=1))
    lines = list(map(json.loads, (tmp_path / "shards" / "files.jsonl").read_text().splitlines()))
    listed = list(map(json.loads, (tmp_path / "shards" / QUARANTINE).read_text().splitlines()))
    facts = manifest.facts
    assert facts["seen"] == len(lines) == sum(path.is_file() for path in (tmp_path / "images").rglob("*"))
    assert facts["seen"] == facts["written"] + facts["duplicates"] + sum(facts["set_aside"].values())
    assert (
        facts["written"] == sum("key" in line for line in lines) == manifest.samples("train") + manifest.samples("val")
    )
    assert len(listed) == sum(facts["set_aside"].values()) and all(line["detail"] for line in listed)
    counts = json.loads((tmp_path / "shards" / COUNTS).read_text())
    assert {name: counts[name] for name in ("seen", "written", "duplicates", "set_aside")} == {
        name: facts[name] for name in ("seen", "written", "duplicates", "set_aside")
    }
    assert verify(tmp_path / "shards") == []
    became = {line["file"].split("/", 1)[1]: line for line in lines}
    rows = [line.split("\t") for line in (tmp_path / "images/malformed/index.tsv").read_text().splitlines()[1:]]
    formats = {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "TGA", "MPO"}
    # Pillow reads these three only when asked a second time: they are broken
    broken = {f"pillow_tests/{n}.png" for n in ("broken_data_stream", "truncated_end_chunk", "apng__chunk_no_fctl")}
    for path, outcome, image_format, *_ in rows:
        usable = outcome == "ok" and image_format in formats and path not in broken
        line = became[path]
        line = became[line["duplicate_of"].split("/", 1)[1]] if "duplicate_of" in line else line
        assert ("key" in line) == usable, (path, outcome, line)
    assert facts["set_aside"]["too_many_pixels"] >= 5 and facts["duplicates"] > 20
    assert "<img" in (tmp_path / "shards" / REPORT).read_text()
