"""What comes later goes to new shards; copies are packed once; every file is accounted for."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipgen.data.manifest import Manifest
from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from clipgen.errors import UserError
from data_prep.executor import LOCAL
from data_prep.ledger import Ledger
from data_prep.near import settle_near
from data_prep.pack import COUNTS, QUARANTINE, REPORT, pack
from data_prep.scan import SourceFile, walk
from data_prep.settings import PackSettings
from data_prep.verify import verify

SMALL = PackSettings(size=16, samples_per_shard=10, min_size=8)


def draw(folder: Path, n: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All but the report, which tells how long it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT}


def lines(folder: Path) -> dict[str, dict]:
    return {line["file"]: line for line in map(json.loads, (folder / "files.jsonl").read_text().splitlines())}


def counts(folder: Path) -> dict:
    found = json.loads((folder / COUNTS).read_text())
    assert found["seen"] == found["written"] + found["duplicates"] + sum(found["set_aside"].values())
    assert len((folder / QUARANTINE).read_text().splitlines()) == sum(found["set_aside"].values())
    assert len(lines(folder)) == found["seen"]
    return found


def sources(folder: Path) -> list[str]:
    return sorted(json.loads(s["json"])["source"] for split in ("train", "val") for s in ShardSet(folder, split))


def test_added_images_go_to_new_shards(tmp_path):
    images, out = draw(tmp_path / "images", 25), tmp_path / "shards"
    pack(images, out, SMALL)
    before = contents(out)
    draw(images, 12, first=100)
    draw(images / "0000 sorts first", 3, first=200)
    shutil.copy(images / "0003.png", images / "0000 copy.png")
    manifest = pack(images, out, SMALL)
    after = contents(out)
    shards = {name for name in before if name.endswith(".tar")}
    assert all(before[name] == after[name] for name in shards)
    assert len({name for name in after if name.endswith(".tar")}) >= len(shards) + 2
    assert after["files.jsonl"].startswith(before["files.jsonl"])
    assert (counts(out)["written"], counts(out)["duplicates"], manifest.samples("train") + manifest.samples("val")) == (
        40,
        1,
        40,
    )
    assert lines(out)["0000 copy.png"]["duplicate_of"] == "0003.png"
    assert verify(out) == [] and len(sources(out)) == 40
    assert pack(images, out, SMALL) == manifest and contents(out) == after


def test_an_addition_ends_the_same_after_a_kill(tmp_path, monkeypatch):
    images, out = draw(tmp_path / "images", 25), tmp_path / "shards"
    pack(images, out, SMALL)
    shutil.copytree(out, tmp_path / "unbroken")
    draw(images, 22, first=100)
    pack(images, tmp_path / "unbroken", SMALL)
    old = Manifest.load(out)
    _killed(images, out, 1, seed=1)
    assert Manifest.load(out).shards[: len(old.shards)] or old.shards  # what was packed stays usable meanwhile
    pack(images, out, SMALL)
    assert contents(out) == contents(tmp_path / "unbroken")


def test_junk_that_comes_and_goes_changes_no_shard(tmp_path):
    images, out = draw(tmp_path / "images", 12), tmp_path / "shards"
    (images / "notes.txt").write_text("no image")
    pack(images, out, SMALL)
    before = contents(out)
    (images / "notes.txt").write_text("longer now")
    (images / ".DS_Store").write_bytes(b"litter")
    pack(images, out, SMALL)
    assert counts(out)["set_aside"] == {"format": 1, "hidden": 1}
    made_by = Manifest.load(out).made_by
    (images / "notes.txt").unlink()
    pack(images, out, SMALL)
    assert counts(out)["set_aside"] == {"hidden": 1}
    assert Manifest.load(out).made_by == made_by, "what went away is no addition"
    assert all(contents(out)[name] == before[name] for name in before if name.endswith(".tar"))


def test_changed_captions_of_packed_images_are_refused(tmp_path):
    images, out = draw(tmp_path / "images", 12), tmp_path / "shards"
    pack(images, out, SMALL, captions={"0001.png": ["a bird"]})
    assert pack(images, out, SMALL, captions={"0001.png": ["a bird"], "0099.png": ["nobody"]}).facts["captioned"] == 1
    for changed in ({"0001.png": ["a cat"]}, {"0001.png": ["a bird"], "0002.png": ["x"]}, None):
        with pytest.raises(UserError, match=r"captions changed for 1 packed images.*replace=true"):
            pack(images, out, SMALL, captions=changed)
    draw(images, 1, first=99)
    manifest = pack(images, out, SMALL, captions={"0001.png": ["a bird"], "0099.png": ["nobody"]})
    assert manifest.facts["captioned"] == 2


def test_copies_are_packed_once(tmp_path):
    images = draw(tmp_path / "images", 5)
    for name in ("0000 first.png", "z.png", "z.jpg"):
        shutil.copy(images / "0002.png", images / name)
    (images / "bad.png").write_bytes((images / "0001.png").read_bytes()[:300])
    shutil.copy(images / "bad.png", images / "bad too.png")
    pack(images, tmp_path / "shards", SMALL)
    found = counts(tmp_path / "shards")
    assert (found["written"], found["duplicates"], found["set_aside"]) == (5, 3, {"unreadable": 2})
    assert "0000 first.png" in sources(tmp_path / "shards")
    assert {line.get("duplicate_of") for line in lines(tmp_path / "shards").values()} == {None, "0000 first.png"}
    pack(images, tmp_path / "all", PackSettings(size=16, min_size=8, deduplicate=False))
    assert counts(tmp_path / "all")["written"] == 8


def test_near_copies_are_packed_once_where_that_is_wanted(tmp_path):
    pytest.importorskip("imagehash")
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        smooth = Image.fromarray(np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth.resize((96, 96), Image.Resampling.BICUBIC).save(images / f"{i}.png")
    Image.open(images / "3.png").save(images / "4 again.jpg", quality=60)
    Image.open(images / "2.png").resize((12, 12)).save(images / "0 too small.png")  # stands for no other
    settings = PackSettings(size=16, near_duplicates=4)
    pack(images, tmp_path / "one", settings)
    assert counts(tmp_path / "one")["duplicates"] == 1 and "2.png" in sources(tmp_path / "one")
    assert lines(tmp_path / "one")["4 again.jpg"]["duplicate_of"] == "3.png"
    pack(images, tmp_path / "two", settings, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    Image.open(images / "5.png").save(images / "6.jpg", quality=60)  # also of what was packed before
    pack(images, tmp_path / "one", settings)
    assert lines(tmp_path / "one")["6.jpg"]["duplicate_of"] == "5.png"


def test_hashes_of_earlier_pictures_stay_on_the_disk(tmp_path):
    pytest.importorskip("imagehash").phash(Image.new("L", (8, 8)))  # what it imports is not counted
    images, n = draw(tmp_path / "images", 1), 8000
    seen = Ledger()
    seen.add([*(SourceFile(f"earlier/{i:060d}.png", i) for i in range(n)), *walk(images)])
    for i in range(n):
        seen.settle(f"earlier/{i:060d}.png", old=1, key=f"{i:09d}", hash=f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}")
    tracemalloc.start()
    settle_near(seen, images, tmp_path, PackSettings(near_duplicates=4), 1, LOCAL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * n
    assert seen.count("old = 0 AND hash IS NOT NULL") == 1


def test_a_shape_or_a_limit_in_bytes(tmp_path):
    images = draw(tmp_path / "images", 9)
    Image.new("RGB", (90, 20)).save(images / "long.png")
    size = (images / "0000.png").stat().st_size
    settings = PackSettings(size=16, min_size=8, max_aspect=3, source_bytes_per_shard=4 * size + 100, val_fraction=0)
    manifest = pack(images, tmp_path / "shards", settings)
    assert counts(tmp_path / "shards")["set_aside"] == {"aspect": 1}
    assert max(shard.samples for shard in manifest.shards) <= 5 and len(manifest.shards) >= 2


def test_a_file_changed_in_place_is_found_when_asked(tmp_path):
    images, out = draw(tmp_path / "images", 12), tmp_path / "shards"
    for name in ("0003.png", "0007.png"):
        Image.new("RGB", (20, 24), "red").save(images / name, "bmp")
    shutil.copy(images / "0002.png", images / "copy.png")
    pack(images, out, SMALL)
    before = contents(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    pack(images, out, SMALL, check=True)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps
    data = bytearray((images / "copy.png").read_bytes())
    data[-5] ^= 1  # which Pillow does not look at
    (images / "copy.png").write_bytes(data)  # no copy any more, so it is new
    assert counts(out)["written"] == 11
    pack(images, out, SMALL, check=True)
    assert (counts(out)["duplicates"], counts(out)["written"]) == (1, 12) and verify(out) == []
    Image.new("RGB", (20, 24), "blue").save(images / "0003.png", "bmp")
    pack(images, out, SMALL)  # not asked
    with pytest.raises(UserError, match=r"a packed image is gone or changed, the first is '0003\.png'.*replace=true"):
        pack(images, out, SMALL, check=True)
    pack(images, out, SMALL, check=True, replace=True)
    assert counts(out)["written"] == 13 and lines(out)["0007.png"]["sha256"] != lines(out)["0003.png"]["sha256"]
    assert contents(out) != before


def test_only_the_formats_asked_for_are_taken(tmp_path):
    images = draw(tmp_path / "images", 4)
    for name, kind in (("a.gif", "gif"), ("b.jpg", "gif"), ("c.png", "jpeg"), ("d.bmp", "bmp"), ("e.tga", "tga")):
        Image.new("RGB", (20, 20 + ord(name[0])), "red").save(images / name, kind)
    (images / "cut.gif").write_bytes((images / "a.gif").read_bytes()[:-20])
    (images / "cut.png").write_bytes((images / "0001.png").read_bytes()[:-400])
    settings = PackSettings(size=16, min_size=8, formats=["png", "jpg"])
    manifest = pack(images, tmp_path / "shards", settings)
    assert counts(tmp_path / "shards")["set_aside"] == {"format": 5, "unreadable": 1}
    assert manifest.facts["formats"] == {"JPEG": 1, "PNG": 4} and manifest.made_by["prep"]["formats"] == ["jpg", "png"]
    details = {name: line.get("detail") for name, line in lines(tmp_path / "shards").items()}
    assert details["b.jpg"] == "gif is not among prep.formats"
    stamp = (tmp_path / "shards" / "manifest.json").stat().st_mtime_ns
    pack(images, tmp_path / "shards", PackSettings(size=16, min_size=8, formats=["jpg", "png"]))
    assert (tmp_path / "shards" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"prep\.formats \['jpg', 'png'\] → \['jpg', .*'tga'\]"):
        pack(images, tmp_path / "shards", PackSettings(size=16, min_size=8))
    (images / "cut.png").unlink()
    with pytest.raises(UserError, match=r"10 of 10 images cannot be used, mostly as format, the first is '0000\.png'"):
        pack(images, tmp_path / "none", PackSettings(formats=["webp"]))


def test_text_beside_an_image_is_its_caption(tmp_path):
    images = draw(tmp_path / "images", 3)
    draw(images / "d", 1, first=9)
    (images / "0000.txt").write_text("one\n\n two \n")
    (images / "d" / "0009.txt").write_text("ein Vögelchen", encoding="utf-8")
    (images / "readme.txt").write_text("no caption")
    pack(images, tmp_path / "shards", SMALL, captions="sidecar")
    found = counts(tmp_path / "shards")
    assert found["set_aside"] == {"caption": 2, "format": 1} and found["captioned"] == 2
    assert (found["unmatched_captions"], found["first_unmatched_caption"]) == (1, "readme.txt")
    said = {json.loads(s["json"])["source"]: decode_captions(s) for s in ShardSet(tmp_path / "shards", "train")}
    with pytest.raises(UserError, match="captions changed for 2 packed images"):
        pack(images, tmp_path / "shards", SMALL)
    (images / "0002.png").unlink()
    pack(images, tmp_path / "shards", SMALL, captions="sidecar", replace=True)
    assert counts(tmp_path / "shards")["set_aside"] == found["set_aside"] and len(sources(tmp_path / "shards")) == 3
    assert said["0000.png"] == ["one", "two"] and said["d/0009.png"] == ["ein Vögelchen"] and said["0001.png"] == []


def test_texts_that_are_asked_for_and_not_there_are_an_error(tmp_path):
    images = draw(tmp_path / "images", 3)
    with pytest.raises(UserError, match=r"captions=sidecar: no \.txt file stands beside an image of its name"):
        pack(images, tmp_path / "shards", SMALL, captions="sidecar")
    (images / "readme.txt").write_text("no caption")
    with pytest.raises(UserError, match=r"none of the 1 \.txt files \(the first is 'readme\.txt'\) stands beside"):
        pack(images, tmp_path / "shards", SMALL, captions="sidecar")
    assert not (tmp_path / "shards").exists()


def test_captions_of_no_image_are_counted_and_the_first_is_named(tmp_path):
    images = draw(tmp_path / "images", 3)
    captions = [("0000.png", "a bird"), ("zebra.png", "x"), ("gone.png", "y"), ("gone.png", "z")]
    facts = pack(images, tmp_path / "shards", SMALL, captions=captions).facts
    assert (facts["captioned"], facts["unmatched_captions"], facts["first_unmatched_caption"]) == (1, 2, "zebra.png")


def test_the_report_shows_what_came_of_it_without_a_network(tmp_path):
    images = draw(tmp_path / "images", 12)
    (images / "<script>alert(1)<script>.png").write_bytes(b"no image")
    Image.new("RGB", (5, 5)).save(images / "small.png")
    shutil.copy(images / "0001.png", images / "\u202egnp.png")
    pack(images, tmp_path / "shards", SMALL)
    page = (tmp_path / "shards" / REPORT).read_text(encoding="utf-8")
    assert page.count("<img") >= 14  # samples, the duplicate and what was too small
    for words in ("a second", "PNG", "too_small", "unreadable", "train-000000.tar", "Duplicates: 1"):
        assert words in page
    assert "<script" not in page and "\u202e" not in page and "http://" not in page
    assert "a second" not in "".join(map(str, contents(tmp_path / "shards").values()))


_SCRIPT = """
import sys
from data_prep.pack import pack
from data_prep.settings import PackSettings
pack(sys.argv[1], sys.argv[2], PackSettings(size=16, samples_per_shard=10, min_size=8))
"""


def _killed(images: Path, out: Path, times: int, seed: int) -> list[str]:
    """Kill `times` runs at random moments; the shards that were made twice, none being right."""
    chance, made, twice = random.Random(seed), {}, []
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(images), str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        deadline = time.monotonic() + 60
        begun = list(out.glob(".chunk-*.json")) if out.exists() else []
        while process.poll() is None and time.monotonic() < deadline:  # until it does something worth a kill
            at_work = (out / ".prep.json").exists() and any(out.glob(".chunk-*.jsonl"))
            if at_work and (len(list(out.glob(".chunk-*.json"))) > len(begun) or chance.random() < 0.02):
                break
            time.sleep(0.001)
        time.sleep(chance.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for note in out.glob(".chunk-??????.json"):
            for shard in json.loads(note.read_text())["shards"]:
                stamp = (out / shard["name"]).stat().st_mtime_ns
                if made.setdefault(shard["name"], stamp) != stamp:
                    twice.append(shard["name"])
    return twice


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_as_an_unbroken_run(tmp_path, kills):
    images = draw(tmp_path / "images", 40 * kills)
    for i in range(0, 40 * kills, 7):
        shutil.copy(images / f"{i:04d}.png", images / f"copy {i:04d}.png")
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert _killed(images, tmp_path / "killed", kills, seed=kills) == []
    pack(images, tmp_path / "killed", SMALL)
    pack(images, tmp_path / "unbroken", SMALL, workers=2)
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")
    counts(tmp_path / "killed")


def test_neither_workers_nor_listing_order_nor_the_day_change_a_byte(tmp_path, monkeypatch):
    images = draw(tmp_path / "images", 35)
    (images / "again.png").write_bytes((images / "0007.png").read_bytes())
    (images / "notes.txt").write_text("no image")
    pack(images, tmp_path / "1", SMALL)
    expected = contents(tmp_path / "1")
    for workers in (2, 4):
        pack(images, tmp_path / str(workers), SMALL, workers=workers)
        assert contents(tmp_path / str(workers)) == expected
    listed = os.scandir

    class Listing(list):
        __enter__, __exit__ = (lambda self: iter(self)), (lambda self, *_: None)

    def scandir(path="."):
        return Listing(sorted(listed(path), key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", scandir)
    for path in images.iterdir():
        os.utime(path, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    pack(images, tmp_path / "reversed", SMALL)
    assert contents(tmp_path / "reversed") == expected


def test_only_what_is_like_the_words_is_kept(tmp_path):
    images = draw(tmp_path / "images", 8)
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for i in range(3):
        Image.new("RGB", (20, 20 + i), "red").save(images / f"red {i}.png")
    asked = []

    def redness(pictures):
        asked.extend(pictures)
        return [float(np.asarray(p)[..., 0].mean() - np.asarray(p)[..., 1].mean()) / 255 for p in pictures]

    settings = PackSettings(size=16, min_size=8, clip_words=["red"], clip_score=0.5)
    with pytest.raises(UserError, match="needs a CLIP"):
        pack(images, tmp_path / "shards", settings)
    pack(images, tmp_path / "shards", settings, clip=(redness, "redness"))
    found = counts(tmp_path / "shards")
    assert found["set_aside"] == {"clip_score": 8, "unreadable": 1} and len(asked) == 11
    assert sources(tmp_path / "shards") == ["red 0.png", "red 1.png", "red 2.png"]
    Image.new("RGB", (30, 30), "red").save(images / "red later.png")
    pack(images, tmp_path / "shards", settings, clip=(redness, "redness"))
    assert len(asked) == 12 and counts(tmp_path / "shards")["written"] == 4


# in a process of its own: one that has run other tests doubles Python's table of interned strings at some time
PEAK_OF_PACKING = """
import sys, tracemalloc
from data_prep.pack import pack
from data_prep.settings import PackSettings
tracemalloc.start()
pack(*sys.argv[1:], PackSettings(min_size=8, samples_per_shard=50))
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for n in (150, 900):
        images = tmp_path / f"{n}"
        images.mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(images / f"{i:060d}.bmp")
        words = [sys.executable, "-c", PEAK_OF_PACKING, images, tmp_path / f"shards {n}"]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 200 * (900 - 150)
