"""The choice of a perceptual loss: each one trains, the record knows its weights, and a wrong file is one line."""

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clipgen.checkpoint import read_checkpoint, save_weights
from clipgen.tokenizer.perceptual import LPIPS, SqueezeNet

KEY = "tokenizer.train.perceptual"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A SqueezeNet and a VGG16 of random weights, saved as published ones are. Not to be changed."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "squeezenet.npz", **{name: x.numpy() for name, x in SqueezeNet().state_dict().items()})
    lpips = LPIPS.random(0).state_dict()
    torch.save(
        {f"features.{k.split('.', 2)[2]}": x for k, x in lpips.items() if k.startswith("net.")}, folder / "vgg16.pth"
    )
    torch.save({k: x for k, x in lpips.items() if k.startswith("lin")}, folder / "lins.pth")
    return folder


@pytest.fixture
def train(clipgen, tiny, run_folder, tmp_path):
    """`clipgen train stage=vqgan` of tiny settings on the shards of the finished run, into tmp_path/out."""
    place = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}"]
    return lambda *words: clipgen("train", "stage=vqgan", *place, *tiny, *words)


def perceptual_values(folder: Path) -> list[float]:
    with open(folder / "vqgan" / "metrics.csv", newline="") as file:
        return [float(row["train/perceptual"]) for row in csv.DictReader(file) if row.get("train/perceptual")]


def test_none_needs_no_clip(train, tmp_path):
    done = train(f"{KEY}=none", "clip.model=local-dir:nowhere", "trainer.loggers=[csv]")
    assert done.status == 0, done.error
    assert "train/perceptual" not in (tmp_path / "out" / "vqgan" / "metrics.csv").read_text()


def test_a_backbone_file_trains_and_its_content_is_part_of_the_record(train, weights, tmp_path):
    words = [f"{KEY}=squeezenet", "clip.model=local-dir:nowhere", "tokenizer.train.steps=12"]
    one = Path(shutil.copy(weights / "squeezenet.npz", tmp_path))
    sha256 = hashlib.sha256(one.read_bytes()).hexdigest()
    done = train(*words, f"{KEY}_weights={one}", f"{KEY}_sha256={sha256}")
    assert done.status == 0, done.error
    assert perceptual_values(tmp_path / "out")[0] > 0
    state = read_checkpoint(tmp_path / "out" / "vqgan" / "last.ckpt", "vqgan")["state_dict"]
    assert {name.split(".")[0] for name in state} == {"vqgan", "adversary"}

    moved = one.rename(tmp_path / "moved.npz")
    assert "done already" in train(*words, f"{KEY}_weights={moved}").said
    save_weights(SqueezeNet().state_dict(), tmp_path / "other.safetensors")
    said = train(*words, f"{KEY}_weights={tmp_path / 'other.safetensors'}").said
    assert "begins anew, since the perceptual_weights changed" in said


def test_lpips_says_whether_its_channels_are_weighted(train, weights, tmp_path):
    file = Path(shutil.copy(weights / "vgg16.pth", tmp_path))
    words = [f"{KEY}=lpips", f"{KEY}_weights={file}", "tokenizer.train.steps=1", "tokenizer.train.continuous_steps=0"]
    done = train(*words)
    assert done.status == 0, done.error
    assert "vgg16.pth, all channels alike, as there is no vgg.pth beside it" in done.said
    shutil.copy(weights / "lins.pth", tmp_path / "vgg.pth")
    done = train(*words)
    assert "vgg16.pth, weighted" in done.said and "the perceptual_weights changed" in done.said


@pytest.mark.parametrize(
    "words, says",
    [
        ("=vgg", "=vgg is unknown; take clip, lpips, squeezenet or none"),
        ("=lpips", "=lpips needs KEY_weights=FILE: torchvision's vgg16 KEY=clip needs no file"),
        ("=squeezenet", "=squeezenet needs KEY_weights=FILE: the features.*"),
        ("_weights=WEIGHTS/vgg16.pth", "vgg16.pth is for KEY=lpips or squeezenet, but KEY=clip"),
        ("=none KEY_sha256=00", "KEY_sha256=00 is for KEY=lpips or squeezenet, but KEY=none"),
        ("=lpips KEY_weights=WEIGHTS/vgg16.pth KEY_sha256=00", "KEY_sha256=00 is none 64 hex digits"),
        (f"=lpips KEY_weights=WEIGHTS/vgg16.pth KEY_sha256={'0' * 64}", f"vgg16.pth has sha256 KEY_sha256={'0' * 64}"),
        ("=lpips KEY_weights=WEIGHTS/no.pth", "KEY_weights=WEIGHTS/no.pth does not exist; KEY=clip"),
        (
            "=squeezenet KEY_weights=WEIGHTS/vgg16.pth",
            "WEIGHTS/vgg16.pth: it has no tensor features.3.squeeze.weight; give the",
        ),
        (
            "=lpips KEY_weights=WEIGHTS/squeezenet.npz",
            "WEIGHTS/squeezenet.npz: it has no tensor net.slice1.2.weight",
        ),
        ("=lpips KEY_weights=WEIGHTS/lins.pth", "it has neither features.0.weight (VGG16) nor"),
    ],
)
def test_a_wrong_choice_or_file_is_one_line(train, one_line, weights, tmp_path, words, says):
    words = f"KEY{words}".replace("KEY", KEY).replace("WEIGHTS", str(weights)).split()
    line = one_line(train(*words))
    assert all(word in line for word in says.replace("KEY", KEY).replace("WEIGHTS", str(weights)).split()), line
    assert not (tmp_path / "out").exists()


def test_images_too_small_for_the_network(train, one_line, weights, tmp_path):
    words = [f"{KEY}=squeezenet", f"{KEY}_weights={weights / 'squeezenet.npz'}", "tokenizer.image_size=16"]
    assert f"tokenizer.image_size=16 is too small for {KEY}=squeezenet; take at least 17" in one_line(train(*words))
    assert not (tmp_path / "out").exists()


def test_a_run_tells_of_a_missing_file_before_it_prepares_the_images(clipgen, one_line, tiny, pictures, tmp_path):
    words = [f"images={pictures}", f"out={tmp_path / 'out'}", f"{KEY}=lpips", f"{KEY}_weights={tmp_path}/no.pth"]
    assert "no.pth does not exist" in one_line(clipgen("run", *words, *tiny))
    assert not (tmp_path / "out").exists()
