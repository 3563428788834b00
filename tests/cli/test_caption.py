"""A captioner from training to captions, re-ranking by its loss, and what goes wrong; `clipgen caption`."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image

from clipgen import Captioner
from clipgen.checkpoint import read_checkpoint
from clipgen.errors import UserError
from clipgen.shapes.draw import world

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def trained(clipgen, train_on, captioned, tokenizer, tmp_path_factory):
    """A run's folder with a captioner of six batches in it. Not to be changed."""
    folder = tmp_path_factory.mktemp("captioner")
    outcome = train_on(captioned, folder, "stage=paired", "task=caption", "transformer.train.ema=0.5")
    assert outcome.status == 0, outcome.error
    assert "caption: done in" in outcome.said and "are trained on; the others are left out" in outcome.said
    exported = clipgen("export", "stage=paired", "task=caption", f"run={folder}", tokenizer)
    assert exported.status == 0, exported.error
    assert f"clipgen caption model={folder / 'captioner'} image=FILE" in exported.said
    return folder


@pytest.fixture(scope="module")
def captioner(trained):
    """Its model folder. Not to be changed."""
    return trained / "captioner"


@pytest.fixture
def photos(tmp_path):
    """Three pictures of other sizes, one in a folder below, a text file, and half a PNG."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i, (_, pixels, _) in enumerate(world(3, 8, 40 + 24)):
        Image.fromarray(pixels).resize((64, 50 + i)).save(folder / ("below" if i == 2 else "") / f"größe {i}.png")
    (folder / "notes.txt").write_text("no picture")
    content = (folder / "größe 0.png").read_bytes()
    (folder / "half.png").write_bytes(content[: len(content) // 2])
    return folder


def test_the_stage_and_the_model_folder(trained, captioner):
    names = {path.name for path in (trained / "caption").iterdir()}
    assert {"last.ckpt", "best.ckpt", "text.model", "stage.json", "metrics.csv", "grids"} <= names
    assert list((trained / "caption" / "grids").glob("*.png")) and not (trained / "paired").exists()
    with open(trained / "caption" / "metrics.csv", newline="") as file:
        assert "val/loss" in csv.DictReader(file).fieldnames
    assert json.loads((captioner / "config.json").read_text())["kind"] == "caption"
    made = {"config.json", "tokenizer.safetensors", "transformer.safetensors", "text.model", "README.md"}
    assert {path.name for path in captioner.iterdir()} == made


def test_a_folder_of_pictures_into_captions_that_prep_takes(clipgen, captioner, photos, tiny, tmp_path):
    out = tmp_path / "captions.tsv"
    outcome = clipgen("caption", f"model={captioner}", f"image={photos}", "n=2", f"out={out}")
    assert outcome.status == 1  # as one file has no caption
    lines = outcome.said.splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        name for name in ("below/größe 2.png", "größe 0.png", "größe 1.png") for _ in range(2)
    ]
    assert all(line.split("\t")[1].strip() for line in lines)
    assert "half.png: cannot be read as an image" in outcome.error and "1 of 4 files have no caption" in outcome.error
    assert "notes.txt" not in outcome.error and "captioning: 100%" in outcome.error
    assert out.read_text().splitlines() == ["file\tcaption", *lines]
    (photos / "half.png").unlink()
    packed = clipgen("prep", f"images={photos}", f"captions={out}", f"shards={tmp_path / 'shards'}", *tiny)
    assert packed.status == 0, packed.error
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["facts"]["captioned"] == 3


def test_one_file_and_a_glob(clipgen, captioner, photos):
    one = clipgen("caption", f"model={captioner}", f"image={photos / 'größe 1.png'}")
    some = clipgen("caption", f"model={captioner}", f"image={photos / 'gr*.png'}")
    assert one.status == some.status == 0, one.error + some.error
    assert one.said.startswith("größe 1.png\t") and one.said in some.said and some.said.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["image=absent.png"], "image=absent.png does not exist"),
        (["image=absent/*.png"], "image=absent/*.png is matched by no file"),
        (["image=EMPTY"], "has no image in it"),
        (["image=FILE", "model=absent"], "model=absent is no model folder"),
        (["image=FILE", "model=GENERATOR"], "is a generator, not a captioner; train one with"),
        (["image=FILE", "out=captions.txt"], "out=captions.txt is no .tsv"),
        (["image=FILE", "n=0"], "n=0; take at least 1"),
        (["image=FILE", "n=3", "temperature=0"], "n=3 captions at temperature=0 are all the same"),
        (["image=FILE", "top_p=2"], "top_p=2.0 is out of range"),
    ],
)
def test_what_cannot_be_captioned_is_one_line(clipgen, one_line, captioner, run_folder, photos, tmp_path, words, why):
    (tmp_path / "empty").mkdir()
    known = {"FILE": photos / "größe 0.png", "EMPTY": tmp_path / "empty", "GENERATOR": run_folder / "model"}
    asked = [f"{key}={known.get(value, value)}" for key, _, value in (word.partition("=") for word in words)]
    assert why in one_line(clipgen("caption", *([] if "model=" in str(words) else [f"model={captioner}"]), *asked))


def test_a_caption_does_not_depend_on_the_other_pictures(captioner):
    by = Captioner.from_pretrained(captioner)
    images = [Image.fromarray(pixels) for _, pixels, _ in world(6, 8, 32)]
    together, losses = by.caption(images, n=3, seed=1), by.caption_loss(images, [PROMPT] * 6)
    again = Captioner.from_pretrained(captioner)
    assert [again.caption([image], n=3, seed=1)[0] for image in images] == together
    assert [again.caption_loss([image], [PROMPT])[0] for image in images] == losses and len(set(losses)) == 6
    assert by.caption(images, n=3, seed=2) != together and len({*together[0], *together[1]}) > 1
    assert by.caption(images) == by.caption(images, seed=5) and len(by.caption(images)[0]) == 1
    for texts, why in (([PROMPT], "6 images and 1 texts"), ([PROMPT] * 5 + [" "], "text 6 is empty")):
        with pytest.raises(UserError, match=why):
            by.caption_loss(images, texts)


def test_candidates_are_ranked_by_a_captioner_s_loss(clipgen, one_line, captioner, run_folder, tmp_path):
    words = ["sample", f"model={run_folder / 'model'}", PROMPT, "a ring " * 40, f"out={tmp_path}", "candidates=6"]
    every = clipgen(*words, "keep=6", "rerank=caption", f"captioner={captioner}")
    assert every.status == 0, every.error
    assert "is longer than the context of the captioner" in every.error
    images = [Image.open(tmp_path / f"{i:05d}.png").copy() for i in range(6)]
    losses = Captioner.from_pretrained(captioner).caption_loss(images, [PROMPT] * 6)
    assert losses == sorted(losses) and losses[0] < losses[-1]
    line = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
    assert (line["rerank"], line["captioner"]) == ("caption", str(captioner))
    for more, why in (
        (["rerank=caption"], "rerank=caption needs captioner=FOLDER"),
        ([f"captioner={captioner}"], "has nothing to rank; give candidates=32 rerank=caption too"),
        (["rerank=caption", "captioner=absent"], "captioner=absent is no model folder"),
        (["rerank=caption", f"captioner={run_folder / 'model'}"], "is a generator, not a captioner"),
        ([f"model={captioner}"], "is a captioner, which makes no pictures"),
    ):
        assert why in one_line(clipgen(*words, *more))


def test_caploss_is_a_figure_of_a_generator(clipgen, captioner, run_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na ring\n")
    words = ["evaluate", f"model={run_folder / 'model'}", f"prompts={tmp_path / 'prompts.txt'}", "n=2", "nearest=0"]
    words += [f"shards={run_folder / 'shards'}", f"out={tmp_path / 'out.json'}", f"captioner={captioner}"]
    outcome = clipgen(*words)
    assert outcome.status == 0, outcome.error
    found = json.loads((tmp_path / "out.json").read_text())
    figure = found["how"]["caploss"]
    assert figure["n"] == 4 and str(captioner) in figure["implementation"] and not figure["circular"]
    assert found["caploss"] > 0 and "caploss" not in found["left_out"]


def test_it_goes_on_from_a_paired_model_or_a_captioner(train, trained, one_line, tmp_path):
    still = ["transformer.train.lr=1e-9", "transformer.train.muon_lr=1e-9"]
    assert train().status == 0
    starts = {"paired": tmp_path / "paired" / "best.ckpt", "caption": trained / "caption" / "best.ckpt"}
    for stage, start in starts.items():
        out = tmp_path / stage
        outcome = train("task=caption", f"transformer.ckpt={start}", *still, out=out)
        assert outcome.status == 0, outcome.error
        wanted, found = (
            read_checkpoint(path, at) for path, at in ((start, stage), (out / "caption" / "last.ckpt", "caption"))
        )
        averaged = {**wanted["state_dict"], **wanted.get("ema", {})}
        torch.testing.assert_close(found["state_dict"], averaged, atol=1e-6, rtol=0)
    refused = train(f"transformer.ckpt={starts['caption']}", out=tmp_path / "other")
    assert "is of stage caption, but stage paired is needed" in one_line(refused)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["task=words"], "task=words is unknown; take image or caption"),
        (["task=caption", "stage=transformer"], "task=caption is one of `clipgen train stage=paired`"),
        (["task=caption", "paired.txt_loss_scale=5"], "have no effect with task=caption"),
        (["task=caption", "paired.window=8"], "paired.window=8 has no effect with task=caption"),
        (["task=caption", "metric=judge.shape"], "metric=judge.shape is a figure of images"),
    ],
)
def test_what_cannot_be_trained_is_one_line(train, one_line, words, why):
    assert why in one_line(train(*words))


def test_other_verbs_know_no_task(clipgen, one_line, tiny, trained, tmp_path):
    assert "this is stage=vqgan" in one_line(clipgen("train", *tiny, "stage=vqgan", "task=caption", f"out={tmp_path}"))
    for verb in ("run", "compare", "encode", "prep"):
        words = [verb, *tiny, "task=caption", f"out={tmp_path}", f"images={tmp_path}"]
        assert "task=caption is one of `clipgen train stage=paired`" in one_line(clipgen(*words)), verb
    said = one_line(clipgen("export", "task=caption", f"run={trained}"))
    assert "or stage=paired task=caption for a captioner" in said


def test_a_broken_model_folder_is_one_line(clipgen, one_line, captioner, photos, tmp_path):
    model = tmp_path / "model"
    for name, why in (("text.model", "text.model cannot be read"), ("transformer.safetensors", "does not exist")):
        shutil.copytree(captioner, model)
        (model / name).unlink()
        assert why in one_line(clipgen("caption", f"model={model}", f"image={photos}"))
        shutil.rmtree(model)
