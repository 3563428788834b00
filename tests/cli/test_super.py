"""`clipgen train stage=super`, `sample upscale=` and `clipgen upscale`: pictures at twice the size."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen import ClipGen, Upscaler
from clipgen.checkpoint import read_checkpoint
from clipgen.errors import UserError
from clipgen.shapes.draw import world

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def large(encode, tmp_path_factory):
    """Shards and latents of 40 pictures of 64 px, by the finished run's tokenizer. Not to be changed."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "images").mkdir()
    for i, (_, pixels, _) in enumerate(world(40, 3, 64)):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    encode(folder, encode=("encode.large=true",))
    return folder


@pytest.fixture
def train(train_on, large, tmp_path):
    """`clipgen train stage=super` on them."""

    def train(*words: str, out=tmp_path, **how):
        return train_on(large, out, "stage=super", *words, **how)

    return train


def test_from_a_transformer_to_larger_pictures(train, clipgen, one_line, run_folder, tokenizer, tmp_path):
    start = f"transformer.ckpt={run_folder / 'transformer' / 'best.ckpt'}"
    outcome = train(start)
    assert outcome.status == 0, outcome.error
    assert "super: done in" in outcome.said and "done already" in train(start).said
    folder = tmp_path / "super"
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "grids"} <= {path.name for path in folder.iterdir()}
    assert "val/accuracy" in (folder / "metrics.csv").read_text() and list((folder / "grids").glob("*.png"))
    model = tmp_path / "upscaler"
    made = clipgen("export", "stage=super", f"run={tmp_path}", f"out={model}", tokenizer, "sampling.temperature=0.5")
    assert made.status == 0, made.error
    assert json.loads((model / "config.json").read_text())["kind"] == "super"
    assert {path.suffix for path in model.iterdir()} == {".json", ".safetensors", ".md"}

    sampled = clipgen("sample", f"model={run_folder / 'model'}", f"upscale={model}", PROMPT, "n=2", f"out={tmp_path}/o")
    assert sampled.status == 0, sampled.error
    plain = ClipGen.from_pretrained(run_folder / "model").generate([PROMPT], n=2)
    upscaler = Upscaler.from_pretrained(model)
    assert upscaler.sampling["temperature"] == 0.5
    wanted = upscaler.upscale(plain)
    drawn = torch.from_numpy(np.array([image.info["tokens"] for image in plain]))
    assert torch.equal(upscaler._tokens(plain), drawn)
    bare = [Image.fromarray(np.asarray(image)) for image in plain]
    changed = [image.copy() for image in plain]
    changed[0].paste("white", (0, 0, 16, 16))
    by_pixels = upscaler._tokens(bare)
    assert not torch.equal(by_pixels, drawn), "else this would show nothing"
    assert torch.equal(upscaler._tokens(changed)[1], drawn[1])
    assert torch.equal(upscaler._tokens(changed)[0], upscaler._tokens([Image.fromarray(np.asarray(changed[0]))])[0])
    for i, image in enumerate(wanted):
        assert image.size == (64, 64) and Image.open(tmp_path / "o" / f"{i:05d}.png").tobytes() == image.tobytes()
    line = json.loads((tmp_path / "o" / "samples.jsonl").read_text().splitlines()[0])
    assert line["upscale"] == str(model)

    picture = tmp_path / "wide.png"
    wanted[0].crop((0, 0, 64, 40)).save(picture)
    outcome = clipgen("upscale", f"model={model}", f"image={picture}", "seed=3", "temperature=1")
    assert outcome.status == 0 and "64×40 → 128×80 pixels" in outcome.said
    (again,) = upscaler.upscale([Image.open(picture)], seed=3, temperature=1)
    assert Image.open(tmp_path / "wide.2x.png").tobytes() == again.tobytes()

    for size in ((64, 42), (12, 64)):
        wanted[0].crop((0, 0, *size)).save(picture)
        line = one_line(clipgen("upscale", f"model={model}", f"image={picture}"))
        assert f"a picture of {size[0]}×{size[1]} pixels cannot be enlarged" in line
        assert "multiples of 4, and at least 16×16" in line
    with pytest.raises(UserError, match=r"pictures of 64×64 and of 64×40 pixels; give those of one size"):
        upscaler.upscale([wanted[0], wanted[0].crop((0, 0, 64, 40))])
    for words, why in (
        (["sample", f"model={model}", PROMPT], "enlarges pictures and reads no text; give it as upscale=FOLDER"),
        (["sample", f"model={run_folder / 'model'}", f"upscale={run_folder / 'model'}", PROMPT], "no model that"),
        (["upscale", f"model={run_folder / 'model'}", f"image={picture}"], "is no model that enlarges"),
        (["upscale", f"model={tmp_path / 'nothing'}", f"image={picture}"], "is no model folder"),
        (["upscale", f"model={model}", f"image={tmp_path / 'nothing'}"], "cannot be read as an image"),
        (["upscale", f"model={model}", f"image={picture}", "top_k=9999"], "top_k=9999 is out of range"),
    ):
        assert why in one_line(clipgen(*words, *([f"out={tmp_path}/o"] if words[0] == "sample" else [])))


def test_from_nothing_and_on_from_there(train, tmp_path):
    assert train(out=tmp_path / "first").status == 0
    start = tmp_path / "first" / "super" / "last.ckpt"
    assert train(f"transformer.ckpt={start}", "model=clipgen_tiny").status == 0
    before, after = (read_checkpoint(path, "super") for path in (start, tmp_path / "super" / "last.ckpt"))
    assert before["clipgen"]["settings"]["super"] == after["clipgen"]["settings"]["super"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["transformer.train.rar=true"], "transformer.train.rar=True has no effect on stage=super"),
        (["transformer.width=128", "transformer.ckpt=START"], "has width 64, but transformer.width is 128; take"),
        (["transformer.ckpt=nothing.ckpt"], "nothing.ckpt does not exist"),
        (["tokenizer.ckpt=START"], "is of stage transformer, but stage vqgan is needed"),
    ],
)
def test_what_cannot_be_is_one_line(train, one_line, run_folder, words, why, tmp_path):
    start = str(run_folder / "transformer" / "best.ckpt")
    assert why in one_line(train(*(word.replace("START", start) for word in words)))
    assert not list(tmp_path.iterdir())


def test_latents_of_one_size_are_refused(train, one_line, run_folder):
    assert "encode.large=true" in one_line(train(f"latents={run_folder / 'latents'}"))


@pytest.mark.slow
def test_it_is_compiled(train, clipgen_process, tmp_path):
    outcome = train("trainer.compile=true", command=clipgen_process)
    assert outcome.status == 0, outcome.error
    assert read_checkpoint(tmp_path / "super" / "last.ckpt", "super")["clipgen"]["batches"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_train_what_one_does(train, clipgen_process, tmp_path, strategy):
    common = ["trainer.precision=32-true", "transformer.train.optimizer=adamw", "transformer.dropout=0"]
    states = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        how = [f"trainer.devices={devices}", f"trainer.strategy={strategy if devices > 1 else 'ddp'}"]
        outcome = train(*common, *how, out=out, command=clipgen_process)
        assert outcome.status == 0, outcome.error
        states.append(read_checkpoint(out / "super" / "last.ckpt", "super")["state_dict"])
    for name, tensor in states[0].items():
        assert (states[1][name].float() - tensor.float()).abs().mean() < 1e-5, name
