"""Weights as files: of the right stage, whole, and never executed."""

import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from clipgen.checkpoint import load_weights, read_checkpoint, read_weights, save_weights, submodule, weights_sha256
from clipgen.errors import UserError

GOOD = {
    "clipgen": {"stage": "vqgan", "batches": 3, "settings": {"tokenizer": {"channels": 32}}},
    "state_dict": {"vqgan.weight": torch.arange(3.0), "vqgan.in.vqgan.bias": torch.ones(1), "other.w": torch.ones(1)},
}


class Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path: Path, stage: str = "vqgan") -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, stage)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_read_back(tmp_path):
    torch.save(GOOD, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt", "vqgan")
    assert checkpoint["clipgen"] == GOOD["clipgen"]
    state = submodule(checkpoint, "vqgan")
    assert set(state) == {"weight", "in.vqgan.bias"}
    assert torch.equal(state["weight"], torch.arange(3.0))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, legacy):
    path, executed = tmp_path / "last.ckpt", tmp_path / "executed"
    torch.save({**GOOD, "callbacks": Attack(executed)}, path, _use_new_zipfile_serialization=not legacy)
    assert "is not a checkpoint of clipgen" in refused(path)
    path.write_bytes(pickle.dumps(Attack(executed)))
    assert "is not a checkpoint of clipgen" in refused(path)
    assert not executed.exists()


def test_a_checkpoint_of_another_stage(tmp_path):
    torch.save(GOOD, tmp_path / "last.ckpt")
    assert "is of stage vqgan, but stage transformer is needed" in refused(tmp_path / "last.ckpt", "transformer")


def test_a_checkpoint_that_is_missing(tmp_path):
    assert "clipgen train stage=vqgan" in refused(tmp_path / "last.ckpt")
    assert "does not exist" in refused(tmp_path)


CONTENTS = [{"state_dict": {}}, {"clipgen": "vqgan"}, {"clipgen": {}}, [1, 2], torch.ones(3), "text", None, 7]


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_a_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    assert "is not a checkpoint of clipgen" in refused(tmp_path / "last.ckpt")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncated_or_damaged_file_gets_one_line(tmp_path, legacy):
    path = tmp_path / "last.ckpt"
    torch.save(GOOD, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 1 + len(whole) // 60):
        path.write_bytes(whole[:size])
        refused(path)


NO_CHECKPOINT = [b"", b"\x00" * 1000, b"text\n" * 50, b"\x80\x02.", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x89PNG\r\n"]


@pytest.mark.parametrize("content", NO_CHECKPOINT)
def test_bytes_that_are_no_checkpoint(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    refused(tmp_path / "last.ckpt")


def test_weights_go_through_safetensors(tmp_path):
    tied = torch.arange(6.0).view(2, 3)
    state = {"a": tied.T, "b": tied, "c": torch.tensor([1, 2], dtype=torch.uint8), "d": tied.half()}
    save_weights(state, tmp_path / "deep" / "w.safetensors")
    loaded = load_weights(tmp_path / "deep" / "w.safetensors")
    assert set(loaded) == set(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert weights_sha256(loaded) == weights_sha256(state)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]  # nothing half-written


def test_everyone_who_may_read_the_folder_may_read_the_weights(tmp_path):
    save_weights({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text("{}")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "w.json").stat().st_mode


def test_a_disk_that_takes_no_more_is_told(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"w\.safetensors: .*disk"):
            save_weights({"a": torch.ones(1000)}, tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_weights_that_are_missing_or_broken(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        load_weights(path)
    for content in (b"", b"garbage that is long enough to be a header", pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a readable safetensors file") as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)


def test_the_sha256_tells_weights_apart():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0001])},
        {"a": torch.zeros(2, 3)},
    ]
    assert weights_sha256(base) == weights_sha256(dict(reversed(base.items())))
    assert weights_sha256({"a": torch.zeros(0), "b": torch.tensor(1.0)})  # empty and scalar ones too
    assert len({weights_sha256(each) for each in [base, *others]}) == 5


def test_weights_of_every_kind_of_file_are_read_by_name(tmp_path):
    state = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    save_weights(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.ckpt")
    np.savez(tmp_path / "w.npz", **{name: x.numpy() for name, x in state.items()})
    for file in tmp_path.iterdir():
        found = read_weights(file)
        assert found.keys() == state.keys() and all(torch.equal(found[name], x) for name, x in state.items()), file


def test_files_that_hold_no_weights_are_refused_in_one_line_and_not_executed(tmp_path):
    torch.save({"x": Attack(tmp_path / "attacked")}, tmp_path / "attack.pth")
    np.savez(tmp_path / "attack.npz", x=np.array([Attack(tmp_path / "attacked")], dtype=object))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    for name in ("broken.pth", "broken.npz", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.arange(1000.0))
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:4000])
    whole.unlink()
    for file in [*tmp_path.iterdir(), tmp_path / "absent.pth"]:
        with pytest.raises(UserError) as caught:
            read_weights(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
        assert ".npz" in str(caught.value), caught.value
    assert not (tmp_path / "attacked").exists()
