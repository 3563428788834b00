"""`clipgen train stage=paired` and `transformer.condition=text`: from captions to pictures, and what goes wrong."""

import csv
import json

import pytest
import torch

from clipgen.checkpoint import read_checkpoint
from clipgen.cli.build import paired_settings
from clipgen.config import Config
from clipgen.paired.text import Text
from clipgen.pipeline import ClipGen

PROMPT = "a red circle on a blue background"


def test_captions_to_pictures(train, clipgen, captioned, tokenizer, tiny_clip_folder, one_line, tmp_path):
    outcome = train("captions_share=0.5")
    assert outcome.status == 0, outcome.error
    assert "have captions and are trained on; the others are left out" in outcome.said
    assert "pieces of text" in outcome.said and "paired: done in" in outcome.said
    folder = tmp_path / "paired"
    assert {"last.ckpt", "best.ckpt", "text.model", "stage.json", "metrics.csv", "grids"} <= {
        path.name for path in folder.iterdir()
    }
    assert list((folder / "grids").glob("*.png"))
    with open(folder / "metrics.csv", newline="") as file:
        assert {"val/loss", "val/text"} <= set(csv.DictReader(file).fieldnames)
    assert "done already" in train("captions_share=0.5").said
    clip = [f"clip.model=local-dir:{tiny_clip_folder}", "clip.pretrained=null"]
    model = tmp_path / "model"
    made = clipgen("export", "stage=paired", f"run={tmp_path}", f"out={model}", tokenizer, *clip)
    assert made.status == 0, made.error
    config = json.loads((model / "config.json").read_text())
    assert config["kind"] == "paired" and not {"bridge", "fidelity"} & set(config["sampling"])
    assert {path.suffix for path in model.iterdir() if path.is_file()} <= {".json", ".safetensors", ".md", ".model"}
    for ask in (["n=3"], ["candidates=4", "keep=2", "rerank=self"], ["candidates=4", "keep=2"]):
        sampled = clipgen("sample", f"model={model}", PROMPT, "a " * 70 + "ring", f"out={tmp_path / 'out'}", *ask)
        assert sampled.status == 0, sampled.error
        assert "is longer than the context of this model" in sampled.error and sampled.error.count("is cut") == 1
    assert (tmp_path / "out" / "grid.png").is_file()
    judged = clipgen("evaluate", f"model={model}", "world=shapes", "split=development", "n=1")
    assert judged.status == 0 and "judge.foreground" in judged.said
    pipeline = ClipGen.from_pretrained(model)
    again = ClipGen.from_pretrained(model).generate([PROMPT, "a ring"], n=2, seed=3)
    assert [image.tobytes() for image in pipeline.generate([PROMPT], n=2, seed=3)] == [i.tobytes() for i in again[:2]]
    picture = tmp_path / "picture.png"
    again[0].save(picture)
    for words, why in (
        (["bridge=mean", PROMPT], "bridge=mean has no effect on a model that was trained on captions"),
        (["fidelity=0.9", PROMPT], "fidelity=0.9 has no effect"),
        ([f"image={picture}"], "is asked by text alone, not by an image"),
        (["日本"], 'prompt "日本" has no letter of the captions that this model was trained on'),
        (["\u200b"], "has no letter of the captions"),
    ):
        assert why in one_line(clipgen("sample", f"model={model}", f"out={tmp_path / 'out'}", *words))
    text = (model / "text.model").read_bytes()
    (model / "text.model").write_bytes(text[: len(text) // 2])
    assert "text.model is no model of SentencePiece" in one_line(clipgen("sample", f"model={model}", PROMPT))
    (model / "text.model").unlink()
    assert "text.model cannot be read" in one_line(clipgen("sample", f"model={model}", PROMPT))


def test_other_settings_begin_anew(train, tmp_path):
    assert train().status == 0
    changed = train("paired.txt_loss_scale=5")
    assert changed.status == 0 and "begins anew" in changed.said and "txt_loss_scale" in changed.said
    for name in ("paired", "paired.previous"):
        assert read_checkpoint(tmp_path / name / "last.ckpt", "paired")["clipgen"]["batches"] == 6


def test_one_of_ours_goes_on_from_its_weights_with_its_pieces(train, run_folder, one_line, tmp_path):
    assert train("paired.text_length=5").status == 0
    start = tmp_path / "paired" / "best.ckpt"
    out = tmp_path / "out"
    words = [f"transformer.ckpt={start}", "captions_share=0.5", "paired.shrink_gradient=0.5"]  # other captions
    still = ["transformer.train.lr=1e-9", "transformer.train.muon_lr=1e-9"]
    outcome = train(*words, *still, out=out)
    assert outcome.status == 0, outcome.error
    assert "are longer than 5 pieces and are cut there" in outcome.said
    wanted, found = (read_checkpoint(path, "paired") for path in (start, out / "paired" / "last.ckpt"))
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], atol=1e-6, rtol=0)
    assert (out / "paired" / "text.model").read_bytes() == (tmp_path / "paired" / "text.model").read_bytes()
    assert "done already" in train(*words, *still, out=out).said
    for more, why in (
        (["transformer.width=128"], f"{start} has width 64, but transformer.width is 128; take transformer.width=64"),
        (["paired.sandwich=true"], "has sandwich False, but paired.sandwich is True; take paired.sandwich=False"),
        ([f"out={tmp_path}"], "lies in the folder that this training writes into"),
        ([f"transformer.ckpt={run_folder / 'transformer' / 'last.ckpt'}"], "is of stage transformer, but stage paired"),
    ):
        assert why in one_line(train(*words, *more, out=tmp_path / "other"))
    other = read_checkpoint(start, "paired")
    other["clipgen"]["inputs"]["tokenizer"] = "0123456789"
    torch.save(other, start)
    assert "best.ckpt was trained with tokenizer 01234567…" in one_line(train(*words, out=tmp_path / "other"))
    text = Text.train(["a red ring", "a blue ring on white"], 100)
    text.save(start.with_name("text.model"))
    assert "best.ckpt was trained with text " in one_line(train(*words, out=tmp_path / "other"))
    start.with_name("text.model").unlink()
    assert "text.model cannot be read" in one_line(train(*words, out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_figures_are_those_of_the_last_training(train, captioned, tmp_path):
    words = [f"shards={captioned / 'shards'}", "prompts=[a red circle]", "metric=clip.score.conditioning"]
    found = []
    for steps in (6, 6, 7):
        assert train(*words, f"transformer.train.steps={steps}").status == 0
        found.append(json.loads((tmp_path / "metrics.json").read_text()))
    assert found[0] == found[1] and found[0]["paired.val_loss"] != found[2]["paired.val_loss"]


@pytest.mark.parametrize("at", ["cogview_tiny", "clipgen_tiny"])
def test_cogview_s_preset_trains_with_everything_on(train, at, tmp_path):
    small = ["transformer.width=64", "transformer.depth=1", "transformer.heads=1", "transformer.train.ema=0.9"]
    outcome = train(f"model={at}", *small, "transformer.train.accumulate=2", "prompts=[a red circle]")
    assert outcome.status == 0, outcome.error
    kept = read_checkpoint(tmp_path / "paired" / "last.ckpt", "paired")["clipgen"]["settings"]["paired"]
    assert kept["pb_relax"] is (at == "cogview_tiny") and kept["style"] == ("gpt2" if kept["sandwich"] else "modern")


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["paired.window=5", "paired.pivots=3"]])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_train_what_one_does(train, clipgen_process, tmp_path, strategy, words):
    common = ["trainer.precision=32-true", "transformer.train.optimizer=adamw", "transformer.dropout=0", *words]
    states = []
    for devices in ([], ["trainer.devices=2", f"trainer.strategy={strategy}"]):
        out = tmp_path / str(len(devices))
        outcome = train(*common, *devices, out=out, command=clipgen_process)
        assert outcome.status == 0, outcome.error
        states.append(read_checkpoint(out / "paired" / "last.ckpt", "paired")["state_dict"])
    for name, tensor in states[0].items():
        assert (states[1][name].float() - tensor.float()).abs().mean() < 1e-5, name


def test_sparse_attention_to_pictures(train, clipgen, tokenizer, tiny_clip_folder, tmp_path):
    words = ["paired.window=5", "paired.pivots=3", "sampling.clusters=8", "sampling.top_k=3"]
    outcome = train(*words, "sampling.prefix_boost=0.5")
    assert outcome.status == 0, outcome.error
    settings = read_checkpoint(tmp_path / "paired" / "best.ckpt", "paired")["clipgen"]["settings"]["paired"]
    assert (settings["window"], settings["pivots"]) == (5, 3)
    inputs = [tokenizer, f"clip.model=local-dir:{tiny_clip_folder}"]
    model = tmp_path / "model"
    made = clipgen("export", "stage=paired", f"run={tmp_path}", f"out={model}", *inputs, "clip.pretrained=null")
    assert made.status == 0, made.error
    for ask in ([], ["clusters=0", "prefix_boost=0", "top_k=0"]):
        sampled = clipgen("sample", f"model={model}", PROMPT, f"out={tmp_path / 'out'}", "n=2", *ask)
        assert sampled.status == 0, sampled.error
    assert "begins anew" in train("paired.window=5", "paired.pivots=2").said
    assert "window" not in json.dumps(paired_settings(Config(), [4, 4], 8, 9, 9))  # as trainings of before have it


def test_a_transformer_of_captions(train, clipgen, captioned, tokenizer, tiny_clip_folder, one_line, tmp_path):
    outcome = train("stage=transformer", "transformer.condition=text", "captions_share=0.9")
    assert outcome.status == 0, outcome.error
    assert "transformer: of " in outcome.said and "are left out" in outcome.said
    model = tmp_path / "model"
    (tmp_path / "latents").symlink_to(captioned / "latents")
    clip = [f"clip.model=local-dir:{tiny_clip_folder}", "clip.pretrained=null"]
    made = clipgen("export", f"run={tmp_path}", f"out={model}", tokenizer, *clip)
    assert made.status == 0, made.error
    pipeline = ClipGen.from_pretrained(model)
    assert pipeline.transformer.condition == "text"
    own = pipeline._text_conditions([PROMPT])
    mean_E = pipeline.statistics["text_mean"]
    wanted = pipeline.clip.encode_text([PROMPT]) - mean_E
    assert (own - wanted / wanted.norm()).abs().max() < 1e-5
    assert (pipeline._text_conditions([PROMPT], "none") == own).all()
    assert len(pipeline.generate([PROMPT], n=2)) == 2
    refused = train("stage=transformer", "transformer.condition=text", "transformer.train.recon.weight=0.1")
    assert "transformer.condition=text knows their captions" in one_line(refused)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["captions_share=0"], "captions_share=0; take more than 0 and at most 1"),
        (["captions_share=1e-9"], "leaves none that has a caption"),
        (["paired.vocab_size=60000"], "paired.vocab_size=60000; take at most 50000"),
        (["paired.vocab_size=4"], "change paired.vocab_size"),
        (["paired.img_loss_scale=0"], "trains on no image"),
        (["paired.text_length=0"], "paired.text_length=0; take at least 1"),
        (["paired.shrink_gradient=2"], "paired.shrink_gradient=2.0 is out of range"),
        (["paired.window=-1"], "paired.window=-1; take at least 0"),
        (["paired.pivots=4"], "paired.pivots=4 has no effect with paired.window=0, which sees all tokens"),
        (["paired.window=60", "paired.pivots=4"], "are all 64 tokens of an image; take fewer, or paired.window=0"),
        (["sampling.clusters=8"], "sampling.clusters=8 has no effect with sampling.top_k=0, which counts clusters"),
        (["sampling.clusters=500", "sampling.top_k=5"], "sampling.clusters=500 of 128 codes; take fewer clusters"),
        (["sampling.prefix_boost=-1"], "sampling.prefix_boost=-1 is out of range; take a value from 0 to 100"),
        (["transformer.train.rar=true"], "transformer.train.rar=True has no effect on stage=paired"),
        (["transformer.condition=words"], "transformer.condition=words is unknown"),
    ],
)
def test_what_cannot_be_is_one_line(train, one_line, words, why):
    assert why in one_line(train(*words))


def test_latents_without_captions_are_refused_before_anything_is_written(train, one_line, run_folder, tmp_path):
    for words in (["stage=paired"], ["stage=transformer", "transformer.condition=text"]):
        line = one_line(train(f"latents={run_folder / 'latents'}", *words))
        assert "has a caption; pack the images again with captions=FILE" in line
    assert not list(tmp_path.iterdir())


def test_captions_that_are_too_long_are_cut_and_counted(train):
    outcome = train("paired.text_length=4")
    assert outcome.status == 0 and "captions are longer than 4 pieces and are cut there" in outcome.said


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["paired.window=5", "paired.pivots=3"]])
def test_compiling_changes_nothing(train, tmp_path, words):
    words = [*words, "trainer.precision=32-true", "trainer.num_workers=0", "transformer.dropout=0"]
    losses = []
    for name, compile in (("plain", "false"), ("compiled", "true")):
        outcome = train(*words, f"trainer.compile={compile}", out=tmp_path / name)
        assert outcome.status == 0, outcome.error
        with open(tmp_path / name / "paired" / "metrics.csv", newline="") as file:
            losses.append([float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
