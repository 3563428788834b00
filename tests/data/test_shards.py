"""Tars: the same samples give the same bytes, random access gives them back, and damage is noticed."""

import io
import os
import pickle
import subprocess
import sys
import tarfile

import pytest

from clipgen.data.atomic import sha256_file
from clipgen.data.shards import ShardSet, TarIndex, write_shard
from clipgen.errors import UserError

SAMPLES = [{"__key__": f"{i:09d}", "json": b"{}" * i, "txt": b"", "png": bytes([i]) * (i * 300)} for i in range(5)]


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_shard(path, SAMPLES)
    return path


def test_a_shard_tells_what_it_holds(tmp_path):
    shard = write_shard(tmp_path / "val-000003.tar", iter(SAMPLES))
    assert (shard.name, shard.split, shard.samples) == ("val-000003.tar", "val", 5)
    path = tmp_path / shard.name
    assert shard.bytes == path.stat().st_size and shard.sha256 == sha256_file(path)


def test_the_same_samples_give_the_same_bytes_whoever_writes_them_whenever(tmp_path, shard):
    reordered = [dict(reversed(sample.items())) for sample in SAMPLES]
    assert write_shard(tmp_path / "train-000001.tar", reordered).sha256 == sha256_file(shard)
    with tarfile.open(shard) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_the_bytes_are_those_of_webdatasets_own_writer(tmp_path):
    import webdataset

    for blocks in range(20):  # a tar is filled up to 20 blocks, and its end mark has two
        last = {"__key__": "7", "tokens.npy": bytes(512 * blocks), "jpg": b"", "_at": b"left out"}
        samples, peer = [*SAMPLES, last], io.BytesIO()
        write_shard(tmp_path / "train-000000.tar", samples)
        with webdataset.TarWriter(peer, encoder=False, user="", group="", mode=0o644, mtime=0) as writer:
            for sample in samples:
                writer.write(sample)
        assert (tmp_path / "train-000000.tar").read_bytes() == peer.getvalue()


def test_samples_are_read_at_random(shard):
    index = TarIndex(shard, samples=5)
    assert index.keys() == [sample["__key__"] for sample in SAMPLES]
    for row in (3, 0, 4):
        assert index[row] == SAMPLES[row]
    assert list(index) == SAMPLES
    with pytest.raises(IndexError):
        index.read(5)


def test_webdataset_reads_the_same_samples(shard):
    import webdataset

    read = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    assert [{k: v for k, v in s.items() if k not in ("__url__", "__local_path__")} for s in read] == SAMPLES


def test_an_index_goes_to_other_processes_without_open_files(shard):
    open_files = len(os.listdir("/proc/self/fd"))
    index = pickle.loads(pickle.dumps(TarIndex(shard)))
    assert index[2] == SAMPLES[2] and len(os.listdir("/proc/self/fd")) == open_files


def test_a_failure_while_writing_leaves_no_shard(tmp_path):
    def samples():
        yield SAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "train-000000.tar", samples())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(0, 10_240, 512))
def test_a_cut_shard_is_noticed_wherever_it_is_cut(shard, cut):
    data = shard.read_bytes()
    shard.write_bytes(data[:cut])
    if data[cut:].strip(b"\0") or cut < len(data) - 10_240:
        with pytest.raises(UserError, match=r"train-000000\.tar"):
            TarIndex(shard)


def test_a_cut_while_in_use_is_noticed(shard):
    index = TarIndex(shard)
    os.truncate(shard, 2048)
    with pytest.raises(UserError, match="was cut while it was in use"):
        index[4]


def test_another_count_than_the_manifest_says_is_an_error(shard):
    with pytest.raises(UserError, match=r"train-000000\.tar holds 5 samples, but its manifest says 6"):
        TarIndex(shard, samples=6)


def test_a_garbled_header_is_noticed(shard):
    data = bytearray(shard.read_bytes())
    data[512 * 2 + 100] ^= 255
    shard.write_bytes(data)
    with pytest.raises(UserError, match="broken or cut short"):
        TarIndex(shard)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    entry = tarfile.TarInfo("000000000.png")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        tar.addfile(entry)
    with pytest.raises(UserError, match=r"'000000000\.png', which is not a plain file"):
        TarIndex(tmp_path / "train-000000.tar")


def test_a_key_in_two_places_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.png", "b.png", "a.json"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="one key in two places"):
        TarIndex(tmp_path / "x.tar")


def test_a_split_is_one_sequence_over_its_shards(image_folder):
    train, val = ShardSet(image_folder, "train"), ShardSet(image_folder, "val")
    assert (len(train), len(val), len(ShardSet(image_folder, "test"))) == (20, 5, 0)
    assert [sample["__key__"] for sample in train] == [f"{i:09d}" for i in range(20)]
    assert val[0]["__key__"] == "000000100"
    assert train.where(9).endswith("train-000001.tar: sample 000000009")
    with pytest.raises(IndexError):
        train[20]


def test_reading_imports_neither_torch_nor_webdataset():
    code = "import sys, clipgen.data.shards; print({'torch', 'webdataset'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
