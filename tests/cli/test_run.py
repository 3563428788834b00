"""The whole way from a folder of images to a generator, once for real; then everything a user does with the result."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipgen.cli import results, stages
from clipgen.clip.frozen import load_clip
from clipgen.data.manifest import Manifest
from clipgen.errors import UserError
from clipgen.pipeline import ClipGen
from clipgen.transformer.model import Transformer

METRICS = {
    "images.train", "images.val", "vqgan.psnr", "vqgan.ssim", "vqgan.usage", "vqgan.perplexity",
    "vqgan.gan_share", "transformer.val_loss", "clip.score.conditioning", "nearest.rms", "nearest.rms_least",
    "seconds.prep", "seconds.vqgan", "seconds.encode", "seconds.transformer", "seconds.evaluate", "seconds.total",
}  # fmt: skip
PROMPTS = "prompts=[a red circle,a blue ring on white]"


def stamps(folder: Path, pattern: str) -> dict[str, int]:
    """When the files of a folder were written."""
    found = {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob(pattern)}
    assert found, f"{folder} has no {pattern}"
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def copy(run_folder, tmp_path) -> Path:
    """The finished run, to be changed; its files keep their times."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


@pytest.fixture
def again(clipgen, pictures, tiny, copy):
    """The command of the run again, on the copy, with other settings."""
    return lambda *changes: clipgen("run", f"images={pictures}", f"out={copy}", PROMPTS, *tiny, *changes)


# What comes out


def test_a_run_leaves_what_the_design_says(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    stages = {"shards", "latents", "vqgan", "transformer", "model"}
    pictures = {"samples.png", "reconstructions.png", "nearest.png"}
    assert names == stages | pictures | {"report.html", "metrics.json", "config.yaml", "run.json"}
    for stage in ("vqgan", "transformer"):
        names = {path.name for path in (run_folder / stage).iterdir()}
        best = {"best.ckpt"} if stage == "transformer" else set()  # of a VQGAN the last weights are used
        assert names == {"last.ckpt", "metrics.csv", "stage.json", "grids", "tensorboard"} | best
        grids = {path.name for path in (run_folder / stage / "grids").iterdir()}
        assert grids == {"000003.png", "000006.png", "latest.png"}
    assert not [path for path in run_folder.rglob(".*")], "something temporary was left"


def test_the_metrics_are_flat_numbers_under_known_names(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert metrics.keys() == METRICS
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert metrics["images.train"] + metrics["images.val"] == 60 and metrics["images.val"] >= 1
    assert metrics["vqgan.gan_share"] == 0.5
    parts = sum(metrics[f"seconds.{stage}"] for stage in ("prep", "vqgan", "encode", "transformer", "evaluate"))
    assert metrics["seconds.total"] == pytest.approx(parts, abs=0.5)


def test_what_was_set_aside_is_listed_and_counted(run_folder, finished):
    lines = [json.loads(line) for line in (run_folder / "shards" / "quarantine.jsonl").read_text().splitlines()]
    assert {(line["file"], line["reason"]) for line in lines} == {
        ("nested/half.jpg", "unreadable"),
        ("notes.txt", "format"),
    }
    assert "60 of 62 files" in finished[1].said and "set aside: 1 format, 1 unreadable" in finished[1].said


def test_choices_are_printed_and_kept(run_folder, finished):
    assert "transformer.dropout=0.1  (57 images)" in finished[1].said
    from omegaconf import OmegaConf

    config = OmegaConf.load(run_folder / "config.yaml")
    assert config.transformer.dropout == 0.1 and config.tokenizer.train.lr > 0
    assert config.tokenizer.train.steps == 6 and config.out == str(run_folder)


def test_it_ends_by_saying_what_was_made_and_what_to_type_next(run_folder, finished):
    said = finished[1].said
    made = said[said.index("Made:") :].splitlines()
    assert len(made) < 15 and f"{run_folder}/report.html" in said
    assert f"clipgen sample model={run_folder}/model" in said
    assert "training vqgan" in said and "training transformer" in said and "loss=" in said


def test_the_record_says_where_it_was_made(run_folder):
    record = json.loads((run_folder / "run.json").read_text())
    assert {"command", "commit", "device", "started", "versions", "python", "threads"} <= record.keys()
    assert record["device"].startswith("cpu") and record["threads"] == 1
    assert {"torch", "pytorch-lightning", "open_clip_torch", "webdataset", "hydra-core"} <= record["versions"].keys()
    assert "images=" in record["command"]


def test_the_pictures_are_pictures(run_folder):
    for name in ("samples", "reconstructions", "nearest"):
        with Image.open(run_folder / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) >= 64, name


def test_the_report_needs_no_other_file(run_folder):
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page and "a blue ring on white" in page
    assert 'src="http' not in page and "<link" not in page


def test_the_model_folder_needs_nothing_else_and_has_no_pickle(run_folder, tmp_path):
    model = Path(shutil.copytree(run_folder / "model", tmp_path / "elsewhere"))
    assert {path.suffix for path in model.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md", ".txt"}
    images = ClipGen.from_pretrained(model).generate(["a red circle"], n=2, guidance_scale=3.0, seed=0)
    assert [image.size for image in images] == [(32, 32)] * 2


# The same command again


def test_again_everything_is_skipped(again, copy):
    kept = {pattern: stamps(copy, pattern) for pattern in ("shards/*", "latents/*", "*/*.ckpt", "*/stage.json")}
    before = json.loads((copy / "metrics.json").read_text())
    outcome = again()
    assert outcome.status == 0
    assert "vqgan: done already" in outcome.said and "transformer: done already" in outcome.said
    assert "training" not in outcome.said and "packing" not in outcome.error and "encoding" not in outcome.error
    for pattern, written in kept.items():
        assert stamps(copy, pattern) == written, pattern
    after = json.loads((copy / "metrics.json").read_text())
    assert {k: v for k, v in after.items() if not k.startswith("seconds.")} == {
        k: v for k, v in before.items() if not k.startswith("seconds.")
    }
    assert after["seconds.vqgan"] == pytest.approx(before["seconds.vqgan"], abs=0.1)


def test_a_stage_whose_checkpoint_is_gone_is_trained_again(again, copy):
    rows = (copy / "vqgan" / "metrics.csv").read_text().count("\n")
    (copy / "vqgan" / "last.ckpt").unlink()
    outcome = again()
    assert outcome.status == 0, outcome.error
    assert "vqgan: was done, but its checkpoint is gone" in outcome.said
    assert (copy / "vqgan" / "last.ckpt").is_file() and (copy / "vqgan" / "metrics.csv").read_text().count("\n") == rows


def test_a_changed_transformer_redoes_only_the_transformer_and_says_so(again, copy):
    kept = {pattern: stamps(copy, pattern) for pattern in ("shards/*", "latents/*", "vqgan/*.ckpt")}
    old = (copy / "transformer" / "best.ckpt").read_bytes()
    outcome = again("transformer.train.lr=0.001")
    assert "transformer: begins anew, since transformer.train.lr 0.003 → 0.001" in outcome.said
    assert "vqgan: done already" in outcome.said
    for pattern, written in kept.items():
        assert stamps(copy, pattern) == written, pattern
    assert (copy / "transformer.previous" / "best.ckpt").read_bytes() == old
    assert (copy / "transformer" / "best.ckpt").read_bytes() != old


def test_a_changed_tokenizer_redoes_all_but_the_shards(again, copy):
    shards = stamps(copy, "shards/*")
    latents = Manifest.load(copy / "latents").made_by
    outcome = again("tokenizer.codebook_size=64")
    assert outcome.status == 0, outcome.error
    assert "vqgan: begins anew, since tokenizer.codebook_size 128 → 64" in outcome.said
    assert "transformer: begins anew" in outcome.said
    assert stamps(copy, "shards/*") == shards
    now = Manifest.load(copy / "latents").made_by
    assert now["tokenizer"]["codebook_size"] == 64 and now["tokenizer"]["sha256"] != latents["tokenizer"]["sha256"]
    assert json.loads((copy / "model" / "config.json").read_text())["settings"]["tokenizer"]["codebook_size"] == 64


def test_a_new_picture_in_the_folder_redoes_everything(clipgen, pictures, tiny, copy, tmp_path):
    images = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    Image.new("RGB", (40, 40), "teal").save(images / "new.png")
    outcome = clipgen("run", f"images={images}", f"out={copy}", PROMPTS, *tiny)
    assert outcome.status == 0, outcome.error
    assert "61 of 63 files" in outcome.said
    assert "vqgan: begins anew, since the images changed" in outcome.said
    assert "vqgan: begins anew" in outcome.said and "transformer: begins anew" in outcome.said


def test_changed_shards_and_latents_are_made_again_and_it_says_so(again, copy):
    before = json.loads((copy / "metrics.json").read_text())["seconds.prep"]
    outcome = again("encode.crops=2")
    assert f"encode: makes {copy / 'latents'} again, since encode.crops 1 → 2" in outcome.said
    assert json.loads((copy / "metrics.json").read_text())["seconds.prep"] == before
    outcome = again("prep.background=black")
    assert f"prep: makes {copy / 'shards'} again, since prep.background white → black" in outcome.said


def test_without_prompts_the_samples_are_variations(clipgen, pictures, tiny, copy):
    outcome = clipgen("run", f"images={pictures}", f"out={copy}", *tiny)
    assert outcome.status == 0, outcome.error
    assert "clip.score.conditioning" not in json.loads((copy / "metrics.json").read_text())
    with Image.open(copy / "samples.png") as picture:
        assert picture.width > 4 * 32


def test_held_out_pictures_are_not_looked_up_as_samples(clipgen, pictures, tiny, copy, monkeypatch):
    found, made = [], []
    looked_up, vary = results._nearest, ClipGen.vary
    monkeypatch.setattr(ClipGen, "vary", lambda *words: made.extend(each := vary(*words)) or each)
    monkeypatch.setattr(
        results, "_nearest", lambda data, images, out: found.extend(images) or looked_up(data, images, out)
    )
    assert clipgen("run", f"images={pictures}", f"out={copy}", *tiny, "seed=0").status == 0
    assert len(made) > 4 and [id(image) for image in found] == [id(image) for image in made]


def test_latents_of_another_run_are_never_made_again(clipgen, one_line, pictures, tiny, run_folder, tmp_path):
    before = stamps(run_folder / "latents", "*")
    said = one_line(
        clipgen("run", f"images={pictures}", f"out={tmp_path}", *tiny, f"latents={run_folder / 'latents'}", "seed=3")
    )
    assert "latents" in said and "other" in said and stamps(run_folder / "latents", "*") == before


# Stages of their own, and sweeps


def test_a_sweep_reuses_the_data_and_leaves_a_folder_for_each_job(clipgen, tiny, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = {pattern: stamps(copy, pattern) for pattern in ("shards/*", "latents/*", "*/*.ckpt", "*/stage.json")}
    outcome = clipgen(
        "train", "stage=transformer", "name=bars", f"out={copy}", *tiny, "-m", "transformer.train.lr=1e-3,3e-3"
    )
    assert outcome.status == 0, outcome.error
    for pattern, written in kept.items():
        assert stamps(copy, pattern) == written, pattern
    jobs = sorted(path for path in (tmp_path / "multirun" / "bars").iterdir() if path.is_dir())
    assert [job.name for job in jobs] == ["transformer.train.lr=0.001", "transformer.train.lr=0.003"]
    for job, rate in zip(jobs, ("0.001", "0.003"), strict=True):
        assert (job / "transformer" / "best.ckpt").is_file()
        stage = json.loads((job / "transformer" / "stage.json").read_text())
        assert stage["settings"]["transformer.train"]["lr"] == float(rate) and stage["status"] == "done"
    assert not same_weights(*(job / "transformer" / "last.ckpt" for job in jobs))


def test_the_stages_one_by_one_give_what_a_run_gives(clipgen, pictures, tiny, run_folder, tmp_path):
    out = tmp_path / "by_hand"
    settings = [f"out={out}", PROMPTS, *tiny]
    assert clipgen("prep", f"images={pictures}", "prep.size=32", *settings).status == 0
    assert clipgen("train", "stage=vqgan", *settings).status == 0
    encoded = clipgen("encode", *settings)
    assert encoded.status == 0 and "encode: 60 images (1 crop each)" in encoded.said
    trained = clipgen("train", "stage=transformer", *settings)
    assert trained.status == 0 and "val/loss" in trained.said
    images = Manifest.load(out / "latents").samples("train")
    assert f"of {images} images {images % 8} sit out each epoch, other ones every time" in trained.said
    for name in ("shards", "latents"):
        assert Manifest.load(out / name).content == Manifest.load(run_folder / name).content
    for stage in ("vqgan", "transformer"):
        assert same_weights(out / stage / "last.ckpt", run_folder / stage / "last.ckpt")
    whole = ("transformer.train.steps=1", f"transformer.train.batch_size={images}", "trainer.val_every=1")
    trained = clipgen("train", "stage=transformer", *settings, *whole)
    assert trained.status == 0 and "sit out" not in trained.said


def test_export_gives_the_models_of_the_run(clipgen, tiny, run_folder, tmp_path):
    clip = [word for word in tiny if word.startswith("clip.")]
    outcome = clipgen("export", f"run={run_folder}", f"out={tmp_path / 'exported'}", *clip)
    assert outcome.status == 0, outcome.error
    for name in ("tokenizer", "transformer", "statistics"):
        exported = (tmp_path / "exported" / f"{name}.safetensors").read_bytes()
        assert exported == (run_folder / "model" / f"{name}.safetensors").read_bytes()


def test_export_asks_as_it_was_trained_to_be_asked_and_as_is_typed(clipgen, tiny, copy, tmp_path):
    """A preset or an experiment of the training has settings of sampling, which the verb alone would not know."""
    path = copy / "transformer" / "stage.json"
    stage = json.loads(path.read_text())
    assert stage["beside"]["strategy"] == "ddp" and stage["beside"]["sampling"]["bridge"] == "mean"
    stage["beside"]["sampling"] |= {"temperature": 0.6, "top_k": 16, "bridge": "none"}
    path.write_text(json.dumps(stage))
    clip = [word for word in tiny if word.startswith("clip.")]
    (copy / "latents").rename(tmp_path / "elsewhere")
    out, latents = tmp_path / "exported", f"latents={tmp_path / 'elsewhere'}"
    outcome = clipgen("export", f"run={copy}", f"out={out}", latents, *clip, "sampling.top_k=8")
    assert outcome.status == 0, outcome.error
    assert "export: as it was trained with, sampling.temperature=0.6, sampling.bridge=none" in outcome.said
    sampling = json.loads((out / "config.json").read_text())["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["bridge"]) == (0.6, 8, "none")
    (tmp_path / "elsewhere").rename(copy / "latents")


def test_switches_of_a_training_reach_the_exported_model(clipgen, tiny, copy, tmp_path):
    switches = [
        f"transformer.train.{word}"
        for word in ("steps=12", "rar=true", "keep_random=true", "recon.weight=0.1", "recon.every=1")
    ]
    outcome = clipgen("train", "stage=transformer", f"out={copy}", PROMPTS, *tiny, *switches)
    assert outcome.status == 0, outcome.error
    with open(copy / "transformer" / "metrics.csv", newline="") as file:
        lost = [float(row["train/reconstruction"]) for row in csv.DictReader(file) if row["train/reconstruction"]]
    assert lost and all(loss > 0 for loss in lost)
    clip = [word for word in tiny if word.startswith("clip.")]
    assert clipgen("export", f"run={copy}", f"out={tmp_path / 'exported'}", *clip).status == 0
    assert ClipGen.from_pretrained(tmp_path / "exported").transformer.any_order, "which completes by all that is kept"


def test_what_was_shared_out_goes_on_so_and_another_precision_is_told(clipgen, one_line, tiny, copy):
    path = copy / "transformer" / "stage.json"
    stage = json.loads(path.read_text())
    stage |= {"status": "running", "beside": stage["beside"] | {"strategy": "fsdp"}}
    path.write_text(json.dumps(stage))
    words = ["train", "stage=transformer", f"out={copy}", *tiny]
    said = one_line(clipgen(*words, PROMPTS))
    assert "was begun with trainer.strategy=fsdp and cannot go on with ddp" in said
    other = {"32-true": "bf16-mixed"}.get(stage["beside"]["precision"], "32-true")
    stage["beside"] |= {"strategy": "ddp", "precision": other}
    path.write_text(json.dumps(stage))
    outcome = clipgen(*words, PROMPTS)
    assert outcome.status == 0 and f"where it began in {other}" in outcome.said, outcome.error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sampling.bridge=foo"], "bridge=foo is unknown"),
        (["sampling.fidelity=3"], "sampling.fidelity=3 is out of range"),
        (["sampling.bridge=knn", "bank=0"], "sampling.bridge=knn needs a bank"),
        (["bank=-1"], "bank=-1; take at least 0"),
        (["sampling.top_k=500"], "sampling.top_k=500 is more than the 128 codes of the tokenizer"),
    ],
)
def test_export_refuses_what_no_model_can_do(clipgen, one_line, tiny, run_folder, tmp_path, words, says):
    clip = [word for word in tiny if word.startswith("clip.")]
    line = one_line(clipgen("export", f"run={run_folder}", f"out={tmp_path / 'exported'}", *clip, *words))
    assert says in line and not (tmp_path / "exported").exists()


def test_too_large_a_top_k_is_refused_before_stage_1(again, one_line, copy):
    before = stamps(copy, "vqgan/*")
    assert "sampling.top_k=500 is more than the 128 codes" in one_line(again("sampling.top_k=500"))
    assert stamps(copy, "vqgan/*") == before


def test_report_writes_the_page_again(clipgen, copy):
    (copy / "report.html").unlink()
    assert clipgen("report", f"run={copy}").status == 0
    assert (copy / "report.html").stat().st_size > 10_000


def test_a_tokenizer_can_be_evaluated_alone(clipgen, run_folder, tmp_path):
    outcome = clipgen(
        "evaluate", f"model={run_folder / 'model'}", f"shards={run_folder / 'shards'}", f"out={tmp_path / 'm.json'}"
    )
    assert outcome.status == 0, outcome.error
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert json.loads((tmp_path / "m.json").read_text())["vqgan.psnr"] == pytest.approx(metrics["vqgan.psnr"], abs=1e-3)


# Sampling


@pytest.fixture
def sample(clipgen, run_folder, tmp_path):
    def sample(*words, out="samples"):
        return clipgen("sample", f"model={run_folder / 'model'}", f"out={tmp_path / out}", *words)

    return sample


def pngs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("0*.png"))]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_gives_the_same_bytes(sample, tmp_path):
    for out, seed in (("one", 7), ("two", 7), ("three", 8)):
        assert sample("a red circle", "n=3", f"seed={seed}", out=out).status == 0
    one, two, three = (pngs(tmp_path / out) for out in ("one", "two", "three"))
    assert len(one) == 3 and one == two and one != three
    assert len(set(one)) == 3, "the images of a prompt differ"


def test_an_image_does_not_depend_on_the_other_prompts(sample, tmp_path):
    sample("a red circle", "n=2", out="alone")
    sample("a blue ring", "a red circle", "n=3", "batch_size=2", out="together")
    assert pngs(tmp_path / "together")[3:5] == pngs(tmp_path / "alone")


def test_prompts_work_as_they_are_typed(sample, tmp_path):
    prompts = [
        'a "red" circle, it\'s on blue: a = b, [x] {y} (z)', "größe=groß, 赤い円", "x=y", "${oops}", "a\\b", "-7 cats",
    ]  # fmt: skip
    assert sample(*prompts, "n=1", "--", "n=4", "--help").status == 0
    assert [line["prompt"] for line in lines(tmp_path / "samples")] == [*prompts, "n=4", "--help"]


def test_a_folder_holds_the_pictures_of_one_command(sample, tmp_path):
    sample("a red circle", "n=3")
    (tmp_path / "samples" / "00009.png").write_bytes(b"of someone else")
    sample("a blue ring", "n=1")
    names = {"00000.png", "00009.png", "grid.png", "samples.jsonl"}
    assert {path.name for path in (tmp_path / "samples").iterdir()} == names


def test_each_image_is_described(sample, run_folder, tmp_path):
    outcome = sample("a red circle", "a ring", "n=2", "seed=5", "guidance_scale=1.5")
    described = lines(tmp_path / "samples")
    assert [(line["file"], line["prompt"], line["number"]) for line in described] == [
        ("00000.png", "a red circle", 0),
        ("00001.png", "a red circle", 1),
        ("00002.png", "a ring", 0),
        ("00003.png", "a ring", 1),
    ]
    for line in described:
        assert line["seed"] == 5 and line["model"] == str(run_folder / "model")
        assert line["settings"]["guidance_scale"] == 1.5 and line["settings"]["temperature"] == 1.0
        assert -1 <= line["clip_score"] <= 1 and line["clip_score_by"] == "the conditioning CLIP"
    assert "the conditioning CLIP's own" in outcome.said and (tmp_path / "samples" / "grid.png").is_file()


def test_prompts_come_from_a_file_too(sample, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\n  ein Kreis, größer als n=4 \n", encoding="utf-8")
    assert sample(f"prompts={tmp_path / 'prompts.txt'}", "n=1").status == 0
    assert [line["prompt"] for line in lines(tmp_path / "samples")] == ["a red circle", "ein Kreis, größer als n=4"]


def test_a_prompt_that_is_cut_is_said(sample):
    fits, cut = "red " * 7, "red " * 500
    error = sample(fits, cut, "n=1", f"negative={cut}").error
    assert error.count("is longer than the context of this CLIP; what goes beyond is cut") == 2


def test_an_image_is_a_prompt_too(sample, pictures, tmp_path):
    image = pictures / "photo 1.png"
    outcome = sample(f"image={image}", "n=3")
    assert outcome.status == 0, outcome.error
    described = lines(tmp_path / "samples")
    assert len(pngs(tmp_path / "samples")) == 3 and described[0]["settings"]["fidelity"] == 1.0
    assert all(line["prompt"] is None and line["image"] == str(image) for line in described)


def test_the_best_of_many_candidates(sample, tmp_path):
    outcome = sample(
        "a red circle", "a ring", "candidates=4", "keep=2", "rerank=self", "guidance_schedule=power_cosine"
    )
    assert outcome.status == 0 and "4 images in" in outcome.said and "tokens/s" in outcome.said
    described = lines(tmp_path / "samples")
    assert [line["number"] for line in described] == [0, 1, 0, 1]
    assert "CLIP and decoding included" in outcome.said
    assert all(line["candidates"] == 4 and line["rerank"] == "self" for line in described)


def test_a_masked_image_is_completed(sample, one_line, pictures, tmp_path):
    image, mask = pictures / "photo 1.png", tmp_path / "mask.png"
    Image.new("L", Image.open(image).size, 255).save(mask)
    outcome = sample(f"image={image}", f"mask={mask}", "n=2")
    assert outcome.status == 0 and "images/s" in outcome.said and "tokens/s" not in outcome.said
    assert sample(f"image={image}", f"mask={mask}", "a red circle", "n=2", out="prompted").status == 0
    assert [line["prompt"] for line in lines(tmp_path / "prompted")] == ["a red circle"] * 2
    Image.new("RGBA", Image.open(image).size).save(mask)  # a layer that nothing is painted on
    assert "the mask has no white" in one_line(sample(f"image={image}", f"mask={mask}"))
    Image.new("L", (5, 5), 255).save(mask)
    assert "the mask has 5×5 pixels" in one_line(sample(f"image={image}", f"mask={mask}"))


@pytest.mark.parametrize(
    "words, says",
    [
        (["a circle", "top_k=100000"], "top_k=100000 is out of range"),
        (["a circle", "candidates=2", "keep=3"], "keep=3 of candidates=2"),
        (["a circle", "keep=3"], "keep=3 of how many?"),
        (["a circle", "candidates=2", "n=1", "rerank=beauty"], "rerank=beauty is unknown"),
        (["a circle", "rerank=self"], "rerank=self has nothing to rank; give candidates=32"),
        (["image=x.png", "rerank=clip"], "nothing to rank"),
        (["a circle", "guidance_schedule=up"], "guidance_schedule=up is unknown; take constant or power_cosine"),
        (["a circle", "mask=m.png"], "give image=FILE"),
        (["image=x.png", "candidates=3"], "leave out image=x.png"),
        (["", "n=1"], "prompt is empty"),
        (["  "], "prompt is empty"),
        ([], "there is no prompt"),
        (["a circle", "n=0"], "n=0"),
        (["a circle", "temperature=-1"], "temperature=-1"),
        (["a circle", "top_p=1.5"], "top_p=1.5"),
        (["a circle", "device=tpu"], "device=tpu"),
        (["a circle", "n=many"], "many"),
        (["a circle", "image=x.png"], "both given"),
        (["image=absent.png"], "image=absent.png"),
        (["image=words.txt"], "image=words.txt"),
        (["image=words.txt", "mask=words.txt"], "words.txt"),
        (["a circle", "bridge=none+all"], "bridge=none+all"),
        (["a circle", "fidelity=1.5"], "fidelity=1.5"),
        (["a circle", "fidelity=0.1"], "fidelity=0.1"),
        (["prompts=absent.txt"], "prompts=absent.txt"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(sample, one_line, tmp_path, words, says):
    (tmp_path / "words.txt").write_text("no picture")
    assert says in one_line(sample(*words))
    assert not (tmp_path / "samples").exists()


def test_a_level_that_is_not_heard_is_one_line(clipgen, one_line, run_folder, tmp_path):
    model = ClipGen.from_pretrained(run_folder / "model")
    settings = model.settings["transformer"]
    settings["level_token"] = False
    model.transformer = Transformer(**settings)
    model.save_pretrained(tmp_path / "model")
    asked = ["sample", f"model={tmp_path / 'model'}", f"out={tmp_path / 'samples'}", "n=1", "a circle"]
    assert "fidelity=0.7 has no effect" in one_line(clipgen(*asked, "fidelity=0.7"))
    assert not (tmp_path / "samples").exists()
    assert clipgen(*asked).status == 0


def test_a_model_that_is_none_is_one_line(clipgen, one_line, run_folder):
    assert "model=nowhere is no model folder" in one_line(clipgen("sample", "model=nowhere", "a circle"))
    assert "model" in one_line(clipgen("sample", "a circle"))


# Shards and latents that are not what they should be


def test_verify_finds_a_flipped_byte(clipgen, one_line, copy):
    assert clipgen("verify", f"shards={copy / 'shards'}").status == 0
    latents = clipgen("verify", f"shards={copy / 'shards'}", f"latents={copy / 'latents'}")
    assert latents.status == 0 and latents.said.count("is as its manifest says") == 2
    latents = clipgen("verify", f"shards={copy / 'latents'}")
    assert latents.status == 0 and latents.said.count("is as its manifest says") == 1
    line = one_line(clipgen("verify", f"shards={copy / 'latents'}", f"latents={copy / 'latents'}"))
    assert "holds latents, but images are needed here" in line
    shard = copy / "shards" / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    broken = clipgen("verify", f"shards={copy / 'shards'}")
    assert broken.status == 1 and str(shard) in broken.said and "Traceback" not in broken.said + broken.error


@pytest.mark.parametrize("part, name", [("latents", "train-000000.tar"), ("shards", "val-000000.tar")])
def test_verify_makes_again_just_what_is_broken(clipgen, pictures, copy, part, name):
    shard = copy / part / name
    before = {path: path.read_bytes() for path in (copy / part).iterdir()}
    shard.write_bytes(shard.read_bytes()[:-700])
    words = ("verify", f"shards={copy / 'shards'}", f"latents={copy / 'latents'}", f"images={pictures}")
    assert clipgen(*words).status == 1 and shard.read_bytes() != before[shard]
    mended = clipgen(*words, "repair=true", "device=cpu")
    assert mended.status == 0 and f"made again in {copy / part}: {name}" in mended.said, mended
    assert {path: path.read_bytes() for path in (copy / part).iterdir()} == before


def test_repair_refuses_another_clip_and_leaves_the_latents_alone(clipgen, one_line, copy, tiny_clip_folder, tmp_path):
    clip = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    words = [f"out={copy}", f"clip.model=local-dir:{clip}", "clip.pretrained=null", "trainer.device=cpu"]
    before = {path: path.read_bytes() for path in (copy / "latents").glob("*.tar")}
    assert clipgen("encode", *words).status == 0  # the same CLIP in another place is the same CLIP
    assert {path: path.read_bytes() for path in before} == before
    manifest = json.loads((copy / "latents" / "manifest.json").read_text())
    manifest["made_by"]["clip"]["model"] = f"local-dir:{clip}"
    (copy / "latents" / "manifest.json").write_text(json.dumps(manifest))
    config = json.loads((clip / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (clip / "open_clip_config.json").write_text(json.dumps(config))
    shard = copy / "latents" / "train-000000.tar"
    shard.write_bytes(before[shard][:-700])
    words = ("verify", f"latents={copy / 'latents'}", f"shards={copy / 'shards'}", "repair=true", "device=cpu")
    assert "is not the CLIP that made" in clipgen(*words).error
    assert {path: path.read_bytes() for path in before} == before | {shard: before[shard][:-700]}


def test_browse_shows_latents_beside_their_originals(clipgen, one_line, copy, tmp_path):
    out = tmp_path / "sheet.html"
    words = ("browse", f"latents={copy / 'latents'}", f"shards={copy / 'shards'}", f"out={out}", "n=6", "device=cpu")
    assert "6 samples" in clipgen(*words).said
    assert out.read_text().count("<img ") == 12
    checkpoint = torch.load(copy / "vqgan" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["vqgan.decoder.conv_out.bias"] += 1
    torch.save(checkpoint, tmp_path / "other.ckpt")
    other = f"tokenizer.ckpt={tmp_path / 'other.ckpt'}"
    assert "were made with tokenizer" in one_line(clipgen(*words, other))
    assert "shards is not set" in one_line(clipgen("browse"))


def test_encode_names_the_setting_that_changed(clipgen, one_line, copy, tiny):
    line = one_line(clipgen("encode", f"out={copy}", "encode.crops=10", *tiny))
    assert "encode.crops 1 → 10" in line and "replace=true" in line
    assert "encode.crops=3" in one_line(clipgen("encode", f"out={copy}", "encode.crops=3", *tiny))


def test_a_changed_text_mean_stops_the_training_in_one_line(clipgen, one_line, tiny, copy):
    statistics = copy / "latents" / "statistics.safetensors"
    data = bytearray(statistics.read_bytes())
    data[-1] ^= 1
    statistics.write_bytes(data)
    shutil.rmtree(copy / "transformer")
    assert str(statistics) in one_line(clipgen("train", "stage=transformer", f"out={copy}", *tiny))


def test_a_broken_shard_stops_the_training_in_one_line(clipgen, one_line, tiny, copy):
    shard = copy / "latents" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    shutil.rmtree(copy / "transformer")
    assert str(shard) in one_line(clipgen("train", "stage=transformer", f"out={copy}", *tiny))
    assert not (copy / "transformer").exists()


def test_a_broken_shard_of_the_same_length_stops_the_training_in_one_line(clipgen, one_line, tiny, copy):
    shard = copy / "shards" / "train-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:2048] + bytes(4096) + data[6144:])
    assert str(shard) in one_line(clipgen("train", "stage=vqgan", f"out={copy}", *tiny, "tokenizer.train.lr=1e-4"))


@pytest.fixture(scope="module")
def other_vqgan(clipgen, tiny, run_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    outcome = clipgen("train", "stage=vqgan", f"out={folder}", f"shards={run_folder / 'shards'}", "seed=1", *tiny)
    assert outcome.status == 0, outcome.error
    return folder / "vqgan" / "last.ckpt"


def test_latents_of_another_vqgan_are_refused(clipgen, one_line, tiny, run_folder, other_vqgan, tmp_path):
    words = ["stage=transformer", f"out={tmp_path}", f"latents={run_folder / 'latents'}", *tiny]
    line = one_line(clipgen("train", *words, f"tokenizer.ckpt={other_vqgan}"))
    made = Manifest.load(run_folder / "latents").made_by["tokenizer"]["sha256"]
    assert made[:8] in line and str(other_vqgan) in line and "clipgen encode" in line
    assert not (tmp_path / "transformer").exists()


def test_latents_of_another_clip_are_refused(clipgen, one_line, tiny, copy, tiny_clip_folder, tmp_path):
    other = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4] * 3
    (other / "open_clip_config.json").write_text(json.dumps(config))
    words = ["stage=transformer", f"out={copy}", *tiny, f"clip.model=local-dir:{other}"]
    line = one_line(clipgen("train", *words))
    assert str(tiny_clip_folder) in line and str(other) in line and "clipgen encode" in line


def test_a_clip_that_was_moved_is_the_same_clip(clipgen, tiny, copy, tiny_clip_folder, tmp_path):
    moved, before = shutil.copytree(tiny_clip_folder, tmp_path / "elsewhere"), stamps(copy, "latents/*")
    again = clipgen("encode", f"out={copy}", *tiny, f"clip.model=local-dir:{moved}")
    assert again.status == 0 and "encode.precision=" not in again.said, "what holds in bf16 was measured again"
    assert stamps(copy, "latents/*") == before


def test_latents_made_otherwise_are_not_overwritten(clipgen, one_line, tiny, copy, other_vqgan):
    before = stamps(copy, "latents/*")
    line = one_line(clipgen("encode", f"out={copy}", f"tokenizer.ckpt={other_vqgan}", *tiny))
    assert "tokenizer.sha256" in line and "replace=true" in line
    assert stamps(copy, "latents/*") == before


@pytest.mark.parametrize("content", ["transformer", "nonsense", "absent"])
def test_a_checkpoint_that_is_no_tokenizer_is_refused(clipgen, one_line, tiny, copy, tmp_path, content):
    path = copy / "transformer" / "best.ckpt"
    if content != "transformer":
        path = tmp_path / "file.ckpt"
    if content == "nonsense":
        path.write_bytes(b"PK\3\4 no checkpoint at all")
    line = one_line(clipgen("train", "stage=transformer", f"out={copy}", f"tokenizer.ckpt={path}", *tiny))
    assert str(path) in line
    says = {"transformer": "stage transformer, but stage vqgan", "nonsense": "no checkpoint", "absent": "not exist"}
    assert says[content] in line.replace("not a checkpoint", "no checkpoint")


# A full disk, Ctrl-C


def test_a_full_disk_leaves_the_checkpoint_of_before(clipgen, one_line, tiny, run_folder, tmp_path, monkeypatch):
    words = ["train", "stage=vqgan", f"out={tmp_path}", f"shards={run_folder / 'shards'}", PROMPTS, *tiny]

    def full(path, data):
        if path.suffix != ".ckpt" and ".ckpt." in path.name and (tmp_path / "vqgan" / "last.ckpt").exists():
            write(path, bytes(data)[:1000])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    with monkeypatch.context() as patch:
        write = Path.write_bytes
        patch.setattr(Path, "write_bytes", full)
        assert "ckpt: the disk is full" in one_line(clipgen(*words))
    assert not list(tmp_path.rglob(".*tmp*"))
    assert clipgen(*words).status == 0
    assert same_weights(tmp_path / "vqgan" / "last.ckpt", run_folder / "vqgan" / "last.ckpt")


def test_a_clip_is_done_only_when_its_folder_is_written(clipgen, one_line, tmp_path, monkeypatch):
    images, shards = tmp_path / "images", tmp_path / "shards"
    assert clipgen("draw", f"out={images}", "n=30", "captions=true").status == 0
    assert clipgen("prep", f"images={images}", f"shards={shards}", f"captions={images}.tsv").status == 0
    words = ["train", "stage=clip", "clip=small", f"out={tmp_path}", f"shards={shards}", "clip.train.steps=2"]
    words += ["clip.train.batch_size=4", "trainer.threads=1", "trainer.val_every=2"]

    def full(module, folder, captions):
        raise UserError(f"{folder}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "save_open_clip", full)
        assert "the disk is full" in one_line(clipgen(*words))
    continued = clipgen(*words)
    assert continued.status == 0 and "skipped" not in continued.said
    assert load_clip(f"local-dir:{tmp_path / 'clip'}").encode_text(["a red ring"]).shape == (1, 64)
    assert "skipped" in clipgen(*words).said


def test_without_pictures_to_validate_on_there_is_no_preview(clipgen, pictures, tiny, tmp_path):
    assert clipgen("prep", f"images={pictures}", f"out={tmp_path}", "prep.val_fraction=0", "prep.size=32").status == 0
    assert clipgen("train", "stage=vqgan", f"out={tmp_path}", *tiny).status == 0
    assert not list(tmp_path.rglob("grids/*.png"))


INTERRUPTED = """
import os, signal, sys
from clipgen.cli.main import main
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from clipgen.callbacks.throughput import Throughput
def press(self, trainer, module, batch, batch_idx):
    if module.batches == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return start(self, trainer, module, batch, batch_idx)
start, Throughput.on_train_batch_start = Throughput.on_train_batch_start, press
main(sys.argv[1:])
"""


@pytest.mark.parametrize("stage", ["vqgan", "transformer"])
def test_ctrl_c_can_be_continued_to_the_same_end(clipgen, tiny, run_folder, tmp_path, stage):
    data = [f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}"]
    tokenizer = [] if stage == "vqgan" else [f"tokenizer.ckpt={run_folder}/vqgan/last.ckpt"]
    words = ["train", f"stage={stage}", f"out={tmp_path}", *data, *tokenizer, PROMPTS, *tiny]
    stopped = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped after batch 2 of 6; the same command again continues" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert json.loads((tmp_path / stage / "stage.json").read_text())["status"] == "running"

    continued = clipgen(*words)
    assert continued.status == 0 and f"{stage}: continues from" in continued.said
    bars = [line for line in (continued.said + continued.error).replace("\r", "\n").split("\n") if "it/s" in line]
    assert bars[-1].startswith(f"training {stage}: 100%") and "6/6" in bars[-1]
    assert same_weights(tmp_path / stage / "last.ckpt", run_folder / stage / "last.ckpt")
    rows = (tmp_path / stage / "metrics.csv").read_text().splitlines()
    assert len(rows) == len((run_folder / stage / "metrics.csv").read_text().splitlines())
