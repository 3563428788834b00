"""What a person can get wrong about a folder, a CLIP or a size: one line that names it, and nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from clipgen.data.lock import Claim
from clipgen.errors import UserError


@pytest.fixture
def run(clipgen, tiny, tmp_path):
    """`clipgen run` of tiny settings into tmp_path/out."""
    return lambda *words: clipgen("run", f"out={tmp_path / 'out'}", *tiny, *words)


# Folders


def test_a_missing_folder(run, one_line, tmp_path):
    assert f"images={tmp_path}/none does not exist" in one_line(run(f"images={tmp_path}/none"))
    assert not (tmp_path / "out").exists()


def test_a_file_for_a_folder(run, one_line, pictures, tmp_path):
    assert "notes.txt is a file" in one_line(run(f"images={pictures / 'notes.txt'}"))
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(run, one_line, tmp_path):
    (tmp_path / "images" / "nested").mkdir(parents=True)
    assert f"images={tmp_path}/images has no file in it" in one_line(run(f"images={tmp_path}/images"))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_image(run, one_line, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("no image")
    line = one_line(run(f"images={tmp_path}/images"))
    assert "has 1 files but no image, the first is 'notes.txt'" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mostly_broken(pictures, tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        shutil.copy(pictures / "nested" / "half.jpg", folder / f"bad {i}.jpg")
    for i in (1, 2, 4):
        shutil.copy(pictures / f"photo {i}.png", folder)
    return folder


def test_more_than_half_of_the_images_broken(run, one_line, mostly_broken, tmp_path):
    line = one_line(run(f"images={mostly_broken}"))
    assert "5 of 8 images cannot be used, mostly as unreadable" in line and "'bad 0.jpg'" in line
    assert "quarantine.jsonl" in line and "prep.max_bad_fraction" in line
    listed = (tmp_path / "out" / "shards" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(text)["file"] for text in listed] == [f"bad {i}.jpg" for i in range(5)]
    assert not (tmp_path / "out" / "shards" / "manifest.json").exists()
    assert not (tmp_path / "out" / "vqgan").exists()


def test_the_named_mend_works(clipgen, mostly_broken, tmp_path):
    words = [f"images={mostly_broken}", f"shards={tmp_path / 'shards'}", "prep.size=32", "prep.workers=1"]
    assert clipgen("prep", *words).status == 2
    outcome = clipgen("prep", *words, "prep.max_bad_fraction=0.9")
    assert outcome.status == 0 and "3 of 8 files" in outcome.said and "5 unreadable" in outcome.said


def test_images_that_are_all_too_small(run, one_line, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / "images" / f"{i}.png")
    line = one_line(run(f"images={tmp_path}/images", "tokenizer=auto"))
    assert "20 pixels small, 32 is the least" in line


@pytest.mark.parametrize("verb", ["run", "prep"])
def test_an_output_inside_the_images(clipgen, one_line, tiny, pictures, tmp_path, verb):
    images = Path(shutil.copytree(pictures, tmp_path / "images"))
    before = sorted(images.rglob("*"))
    line = one_line(clipgen(verb, f"images={images}", f"out={images / 'out'}", *tiny))
    assert f"shards={images}/out/shards lies inside images={images}" in line and "another folder" in line
    assert sorted(images.rglob("*")) == before


def test_shards_made_otherwise_are_not_overwritten(clipgen, one_line, pictures, tmp_path):
    words = [f"images={pictures}", f"shards={tmp_path / 'shards'}", "prep.workers=1"]
    assert clipgen("prep", *words, "prep.size=32").status == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    line = one_line(clipgen("prep", *words, "prep.size=16"))
    assert "prep.size 32 → 16" in line and "replace=true" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == before
    assert clipgen("prep", *words, "prep.size=16", "replace=true").status == 0


def test_a_lost_shard(clipgen, one_line, tiny, pictures, tmp_path):
    shards = tmp_path / "shards"
    assert clipgen("prep", f"images={pictures}", f"shards={shards}", "prep.size=32", "prep.workers=1").status == 0
    (shards / "train-000000.tar").unlink()
    line = one_line(clipgen("train", "stage=vqgan", f"shards={shards}", f"out={tmp_path / 'out'}", *tiny))
    assert "train-000000.tar is missing" in line and "clipgen prep" in line
    assert not (tmp_path / "out").exists()


# CLIP


@pytest.mark.parametrize(
    "words, says",
    [
        (["clip.model=ViT-B-32-quickgelu", "clip.pretrained=openai"], ["ViT-B-32-quickgelu", "openai", "local-dir:"]),
        (["clip.model=hf-hub:nobody/nothing", "clip.pretrained=null"], ["hf-hub:nobody/nothing", "local-dir:"]),
        (["clip.model=ViT-B-32", "clip.pretrained=openai"], ["QuickGELU", "clip.model=ViT-B-32-quickgelu"]),
        (["clip.model=ViT-B-33", "clip.pretrained=openai"], ["clip.model=ViT-B-33"]),
        (["clip.model=ViT-B-32", "clip.pretrained=mine"], ["clip.pretrained=mine", "laion2b_s34b_b79k"]),
        (["clip.model=ViT-B-32", "clip.pretrained=null"], ["clip.pretrained is empty"]),
        (["clip.model=local-dir:nowhere"], ["clip.model=local-dir:nowhere", "open_clip_config.json"]),
    ],
)
def test_a_clip_that_cannot_be_had(clipgen, one_line, tiny, run_folder, tmp_path, words, says):
    place = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}"]
    line = one_line(clipgen("train", "stage=vqgan", *place, *tiny, *words))
    assert all(word in line for word in says), line
    assert not (tmp_path / "out").exists()


def test_a_clip_folder_without_weights(run, one_line, pictures, tiny_clip_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    (folder / "open_clip_model.safetensors").unlink()
    line = one_line(run(f"images={pictures}", f"clip.model=local-dir:{folder}"))
    assert f"{folder} has no weights" in line and "open_clip_model.safetensors" in line
    assert not (tmp_path / "out" / "vqgan").exists() and not list((tmp_path / "out").rglob(".*"))


@pytest.mark.parametrize("broken", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_a_clip_folder_with_a_broken_file(run, one_line, pictures, tiny_clip_folder, tmp_path, broken):
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    (folder / broken).write_bytes((folder / broken).read_bytes()[:100])
    line = one_line(run(f"images={pictures}", f"clip.model=local-dir:{folder}"))
    assert str(folder) in line
    assert not (tmp_path / "out" / "vqgan").exists()


def test_a_missing_captions_file_of_a_clip(run, one_line, pictures):
    assert "clip.captions=nowhere.txt" in one_line(run(f"images={pictures}", "clip.captions=nowhere.txt"))


# Sizes


@pytest.mark.parametrize(
    "words, says",
    [
        (["tokenizer.image_size=30"], "tokenizer.image_size=30 is not divisible by tokenizer.downsample=4; take 28"),
        (["tokenizer.codebook_size=70000"], "tokenizer.codebook_size=70000; tokens are stored as uint16"),
        (["tokenizer.downsample=8"], "tokenizer.channel_multipliers"),
        (["tokenizer.channels=40"], "tokenizer.channels=40"),
        (["transformer.heads=5"], "transformer.heads=5"),
        (["tokenizer.train.steps=0"], "tokenizer.train.steps=0"),
        (["tokenizer=auto", "tokenizer.image_size=32", "tokenizer.downsample=3"], "tokenizer.downsample=3"),
        (["prep.size=0"], "prep.size=0"),
        (["prep.format=bmp"], "prep.format"),
        (["prep.val_fraction=2"], "prep.val_fraction"),
        (["prep.size=16"], "image_size"),
        (["trainer.precision=fp8"], "trainer.precision=fp8"),
        (["trainer.loggers=[paper]"], "trainer.loggers=paper"),
    ],
)
def test_what_is_impossible_stops_before_anything_is_trained(run, one_line, pictures, tmp_path, words, says):
    assert says in one_line(run(f"images={pictures}", *words))
    assert not list((tmp_path / "out").rglob("*.ckpt"))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_least_number_of_steps_works(clipgen, tiny, run_folder, tmp_path, steps):
    words = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}", f"tokenizer.train.steps={steps}"]
    outcome = clipgen("train", "stage=vqgan", *tiny, *words, "tokenizer.train.continuous_steps=null")
    assert outcome.status == 0, outcome.error
    assert (tmp_path / "out" / "vqgan" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    "words, says",
    [
        (["tokenizer.train.gan_layers=5"], "tokenizer.train.gan_layers=5 halve pictures"),
        (["tokenizer.train.continuous_steps=6"], "tokenizer.train.continuous_steps=6 leaves no batch"),
        (["tokenizer.train.betas=[0.9]"], "tokenizer.train.betas=[0.9]"),
        (["tokenizer.train.lr=-1"], "tokenizer.train.lr=-1"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed"),
        (["tokenizer.ckpt=OUT/vqgan/last.ckpt"], "lies in the folder that this training writes into"),
        (["tokenizer.ckpt=OUT/vqgan.previous/last.ckpt"], "lies in the folder that this training writes into"),
    ],
)
def test_a_vqgan_that_would_fail_late_or_undo_itself_is_refused_at_once(
    clipgen, one_line, tiny, run_folder, tmp_path, words, says
):
    words = [word.replace("OUT", str(tmp_path)) for word in words]
    shards = f"shards={run_folder / 'shards'}"
    for name in ("vqgan", "vqgan.previous"):
        (tmp_path / name).mkdir()
        shutil.copy(run_folder / "vqgan" / "last.ckpt", tmp_path / name)
    assert says in one_line(clipgen("train", "stage=vqgan", *tiny, *words, shards, f"out={tmp_path}"))
    assert (tmp_path / "vqgan" / "last.ckpt").is_file() and (tmp_path / "vqgan.previous" / "last.ckpt").is_file()


@pytest.mark.parametrize("words", [[], ["seed=5"]], ids=["the same", "other settings"])
def test_a_folder_that_another_process_trains_is_left_to_it(clipgen, one_line, tiny, run_folder, tmp_path, words):
    shutil.copytree(run_folder / "vqgan", tmp_path / "vqgan")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = ["train", "stage=vqgan", *tiny, f"shards={run_folder / 'shards'}", f"out={tmp_path}", *words]
    claim = Claim(tmp_path / "vqgan")  # of another opening of the folder, as another process has
    assert f"{tmp_path / 'vqgan'} is being made by another process" in one_line(clipgen(*again))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    claim.release()
    for _ in range(2):
        assert clipgen(*again).status == 0, "and it lets go itself"


@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_folder_is_claimed_for_as_long_as_it_is_trained(
    clipgen, tiny, run_folder, pictures, tmp_path, monkeypatch, verb
):
    out, asked = tmp_path / "out", []
    claimed = [out / "vqgan", *([out] if verb == "run" else [])]

    def fit(*_, **__):
        for folder in claimed:
            with pytest.raises(UserError, match="is being made by another process"):
                Claim(folder)
            asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    words = ["stage=vqgan", f"shards={run_folder / 'shards'}"] if verb == "train" else [f"images={pictures}"]
    assert clipgen(verb, *tiny, *words, f"out={out}").status == 130 and asked == claimed
    for folder in claimed:
        Claim(folder).release()


def test_captions_are_needed_to_train_a_clip(clipgen, one_line, run_folder, tmp_path):
    words = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}", "clip=small", "trainer.threads=1"]
    line = one_line(clipgen("train", "stage=clip", *words))
    assert "has no caption" in line and "captions=FILE" in line
    line = one_line(clipgen("train", "stage=clip", *words[:2], "clip.train.steps=2"))
    assert "clip.architecture is empty" in line


def test_compiling_without_a_compiler(clipgen, one_line, tiny, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}", "trainer.compile=true"]
    line = one_line(clipgen("train", "stage=vqgan", *tiny, *words))
    assert "trainer.compile=true: there is no C++ compiler no-such-compiler here; install g++" in line


def test_what_stops_stage_2_leaves_the_old_one_in_place(
    clipgen, one_line, tiny, run_folder, tokenizer, tmp_path, monkeypatch
):
    shutil.copytree(run_folder / "transformer", tmp_path / "transformer")
    before = (tmp_path / "transformer" / "stage.json").read_bytes()
    monkeypatch.setenv("CXX", "no-such-compiler")
    words = [f"latents={run_folder / 'latents'}", tokenizer, "seed=5"]
    words = ["train", "stage=transformer", f"out={tmp_path}", *tiny, *words]
    assert "no C++ compiler" in one_line(clipgen(*words, "trainer.compile=true"))
    of_before = [*words, "sampling.bridge=whiten", "prompts=[a red circle]"]
    with monkeypatch.context() as patched:
        few = lambda folder: {"image_mean": torch.zeros(16), "text_mean": torch.zeros(16)}  # noqa: E731
        patched.setattr("clipgen.cli.stages.load_statistics", few)
        assert "bridge=whiten needs image_covariance" in one_line(clipgen(*of_before))
    assert (tmp_path / "transformer" / "stage.json").read_bytes() == before
    assert not (tmp_path / "transformer.previous").exists()


# Where the work is done


def test_a_cluster_that_is_not_there(clipgen, one_line, pictures, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    words = [f"images={pictures}", f"shards={tmp_path / 'shards'}", "prep.size=32"]
    assert "there is no sbatch here" in one_line(clipgen("prep", *words, "executor=slurm"))
    none = clipgen("prep", *words, "executor=slurm", "executor.tasks=0")
    assert "executor.tasks=0; take at least 1" in one_line(none)
    assert "local ray slurm" in one_line(clipgen("prep", *words, "executor=dask"))
