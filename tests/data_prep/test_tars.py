"""What img2dataset wrote is read as it lies; what a hostile tar holds does no harm."""

import io
import json
import os
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipgen.data.sample import decode_captions
from clipgen.data.shards import ShardSet
from data_prep.pack import COUNTS, pack
from data_prep.settings import PackSettings
from data_prep.tars import BrokenTar, members

SETTINGS = PackSettings(size=16, min_size=8, val_fraction=0)


def picture(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **header) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in header.items():
        setattr(entry, key, value)
    tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def from_img2dataset(tmp_path) -> Path:
    """Two tars of three images as img2dataset lays them out; of eight rows two failed."""
    folder = tmp_path / "laion"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(3):
                key = f"{shard:05d}{i:04d}"
                told = {"url": f"http://x/{key}", "caption": f"bird {key}", "status": "success", "exif": "{}"}
                add(tar, f"{key}.jpg", picture(10 * shard + i))
                add(tar, f"{key}.txt", f"bird {key}".encode())
                add(tar, f"{key}.json", json.dumps(told).encode())
        stats = {"count": 4, "successes": 3, "failed_to_download": 1, "failed_to_resize": 0}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return folder


def test_what_img2dataset_wrote_is_an_input(from_img2dataset, tmp_path):
    out = tmp_path / "shards"
    facts = pack(from_img2dataset, out, SETTINGS).facts
    assert facts["written"] == facts["captioned"] == 6 and facts["img2dataset_failed_rows"] == 2
    assert facts["set_aside"] == {"caption": 6, "format": 4, "metadata": 6} and facts["seen"] == 22
    samples = {json.loads(sample["json"])["source"]: sample for sample in ShardSet(out, "train")}
    sample = samples["00001.tar/000010002.jpg"]
    assert decode_captions(sample) == ["bird 000010002"]
    assert json.loads(sample["json"])["origin"]["url"] == "http://x/000010002"
    again = tmp_path / "again"
    pack(from_img2dataset, again, SETTINGS, workers=2)
    names = [path.name for path in out.iterdir() if path.suffix != ".html"]
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_table_of_captions_goes_before_those_in_a_tar(from_img2dataset, tmp_path):
    pack(from_img2dataset, tmp_path / "shards", SETTINGS, captions={"00000.tar/000000001.jpg": ["mine"]})
    said = {json.loads(s["json"])["source"]: decode_captions(s) for s in ShardSet(tmp_path / "shards", "train")}
    assert said["00000.tar/000000001.jpg"] == ["mine"] and said["00000.tar/000000000.jpg"] == []


def test_a_hostile_tar_does_no_harm(tmp_path):
    images, secret = tmp_path / "images", tmp_path / "secret.png"
    images.mkdir()
    Image.new("RGB", (20, 20), "red").save(secret)

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    with tarfile.open(images / "evil.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "../../escaped.jpg", picture(1))
        add(tar, "/absolute.jpg", picture(2))
        add(tar, "link.png", type=tarfile.SYMTYPE, linkname=str(secret))
        add(tar, "hard.png", type=tarfile.LNKTYPE, linkname="../secret.png")
        add(tar, "device.png", type=tarfile.CHRTYPE)
        add(tar, "pipe.png", type=tarfile.FIFOTYPE)
        add(tar, "x.pickle", pickle.dumps(Bomb()))
        add(tar, "x.pyd", pickle.dumps(Bomb()))
        add(tar, "new\nline \u202egnp.jpg", picture(3))
        add(tar, "same.jpg", picture(4))
        add(tar, "same.jpg", picture(5))
        add(tar, "same.json", b'{"depth": 1e999}')
        add(tar, "pipe:touch harm.jpg", picture(6))
        add(tar, "n" * 3000 + ".jpg", picture(7))
    before = sorted(path.name for path in tmp_path.iterdir())
    facts = pack(images, tmp_path / "shards", SETTINGS).facts
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "shards"])
    assert facts["set_aside"] == {"format": 2, "metadata": 1, "special": 4}
    assert (facts["seen"], facts["written"]) == (15 - 1, 7 + 0)
    counts = json.loads((tmp_path / "shards" / COUNTS).read_text())
    assert counts["seen"] == counts["written"] + counts["duplicates"] + sum(counts["set_aside"].values())


@pytest.mark.parametrize("what", ["cut", "cut at a border", "no tar", "empty", "huge member", "huge header", "sparse"])
def test_a_broken_tar_is_set_aside_and_what_comes_before_the_place_is_used(tmp_path, what):
    images = tmp_path / "images"
    images.mkdir()
    path = images / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(3):
            add(tar, f"{i}.jpg", picture(i))
    data, good = path.read_bytes(), 3
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    if what == "cut":
        data, good = data[: last.offset_data + 100], 2
    elif what == "cut at a border":
        data, good = data[: last.offset], 2
    elif what == "no tar":
        data, good = b"no tar" * 1000, 0
    elif what == "empty":
        data, good = b"", 0
    else:
        entry = tarfile.TarInfo("evil.jpg")
        entry.size = 1 << 40
        entry.type = {"huge member": tarfile.REGTYPE, "huge header": tarfile.GNUTYPE_LONGNAME}.get(what, b"S")
        end = last.offset_data + -(-last.size // 512) * 512
        data = data[:end] + entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    path.write_bytes(data)
    (images / "fine.jpg").write_bytes(picture(9))
    tracemalloc.start()
    with pytest.raises(BrokenTar):
        list(members(path))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    facts = pack(images, tmp_path / "shards", SETTINGS).facts
    assert facts["written"] == good + 1
    assert facts["set_aside"].get("unreadable") == 1, facts
