"""A checkpoint that taming or HFAiLab published goes wherever one of ours goes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clipgen.checkpoint import read_checkpoint
from clipgen.cli.build import load_tokenizer
from clipgen.data.manifest import Manifest
from clipgen.pipeline import ClipGen
from data_prep.statistics import load_statistics

PROMPTS = "prompts=[a red circle]"


@pytest.fixture(scope="module")
def theirs(published):
    return published.random(published.VQModel(published.config()))


@pytest.fixture(scope="module")
def words(published, theirs, tmp_path_factory) -> list[str]:
    """tokenizer.ckpt and its YAML, in a folder whose name Hydra's grammar has its own ideas about."""
    folder = tmp_path_factory.mktemp("taming, f4=small")
    published.save_taming(theirs, folder / "last.ckpt", folder / "of it.yaml", published.config())
    return [f"tokenizer.ckpt={folder / 'last.ckpt'}", f"tokenizer.ckpt_config={folder / 'of it.yaml'}"]


@pytest.fixture(scope="module")
def imported_run(clipgen, pictures, tiny, words, tmp_path_factory):
    """`clipgen run` with taming's checkpoint: its folder and what it said. Not to be changed."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    outcome = clipgen("run", f"images={pictures}", f"out={folder}", PROMPTS, *tiny, *words, "encode.precision=fp32")
    assert outcome.status == 0, outcome.error
    return folder, outcome.said


def members(folder: Path, ending: str) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {
                each.name.split(".")[0]: tar.extractfile(each).read() for each in tar if each.name.endswith(ending)
            }
    return found


@torch.no_grad()
def check_latents_of(latents: Path, shards: Path, theirs) -> None:
    """The tokens are those that taming's own modules give the very pictures."""
    tokens, images = members(latents, "tokens.npy"), members(shards, ".png")
    assert tokens.keys() == images.keys() and len(tokens) == 60
    for key, image in list(images.items())[:10]:
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(image)))).permute(2, 0, 1)[None]
        found_hw = torch.from_numpy(np.load(io.BytesIO(tokens[key]))[0].astype(np.int64))
        differs_hw = found_hw != theirs.tokens(pixels / 127.5 - 1)[0]
        assert differs_hw.float().mean() < 0.05
        z_hwD = theirs.quant_conv(theirs.encoder(pixels / 127.5 - 1))[0].permute(1, 2, 0)
        distances_hwK = torch.cdist(z_hwD, theirs.quantize.embedding.weight)
        chosen_hw = distances_hwK.gather(-1, found_hw[..., None])[..., 0]
        torch.testing.assert_close(chosen_hw, distances_hwK.amin(-1), rtol=1e-4, atol=1e-5)  # a tie may fall either way


def test_run_takes_a_published_tokenizer_as_it_is(imported_run, theirs):
    folder, said = imported_run
    assert "is taken as it is" in said and not (folder / "vqgan").exists()
    assert "not begun" not in (folder / "report.html").read_text()
    check_latents_of(folder / "latents", folder / "shards", theirs)
    model = ClipGen.from_pretrained(folder / "model")
    tokens_Bhw = torch.randint(48, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.vqgan.decode(tokens_Bhw), theirs.decode(tokens_Bhw), atol=1e-5, rtol=1e-5)
    assert model.generate(["a red circle"], n=1)[0].size == (32, 32)


def test_encode_gives_the_tokens_of_taming(clipgen, tiny, run_folder, words, theirs, tmp_path):
    shards = run_folder / "shards"
    latents = ["encode.precision=fp32", f"shards={shards}", f"latents={tmp_path / 'latents'}"]
    outcome = clipgen("encode", *latents, *tiny, *words)
    assert outcome.status == 0, outcome.error
    check_latents_of(tmp_path / "latents", shards, theirs)


def test_export_browse_and_repair_take_it_too(clipgen, one_line, tiny_clip_folder, imported_run, words, tmp_path):
    folder, _ = imported_run
    clip = [f"clip.model=local-dir:{tiny_clip_folder}", "clip.pretrained=null"]
    assert "last.ckpt does not exist" in one_line(clipgen("export", f"run={folder}", f"out={tmp_path / 'm'}", *clip))
    outcome = clipgen("export", f"run={folder}", f"out={tmp_path / 'm'}", *clip, *words)
    assert outcome.status == 0, outcome.error
    same = [path / "tokenizer.safetensors" for path in (tmp_path / "m", folder / "model")]
    assert same[0].read_bytes() == same[1].read_bytes()

    data = [f"shards={folder / 'shards'}", f"latents={folder / 'latents'}", "device=cpu"]
    sheet = tmp_path / "sheet.html"
    assert "6 samples" in clipgen("browse", *data, f"out={sheet}", "n=6", *words).said
    broken = folder / "latents" / "train-000000.tar"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-700])
    outcome = clipgen("verify", *data, "repair=true", *words)
    assert outcome.status == 0 and broken.read_bytes() == whole, outcome.error


def test_latents_of_another_tokenizer_are_not_exported(
    clipgen, one_line, run_folder, tiny_clip_folder, words, tmp_path
):
    clip = [f"clip.model=local-dir:{tiny_clip_folder}", "clip.pretrained=null"]
    line = one_line(clipgen("export", f"run={run_folder}", f"out={tmp_path / 'm'}", *clip, *words))
    assert Manifest.load(run_folder / "latents").made_by["tokenizer"]["sha256"][:8] in line
    assert not (tmp_path / "m").exists()


def test_training_goes_on_from_a_published_tokenizer(clipgen, tiny, run_folder, words, tmp_path):
    arguments = ["train", "stage=vqgan", f"out={tmp_path}", f"shards={run_folder / 'shards'}", *tiny, *words]
    outcome = clipgen(*arguments, "tokenizer.train.lr=1e-5", "tokenizer.train.restart_dead=false")
    assert outcome.status == 0, outcome.error
    assert "tokenizer.channel_multipliers=[1,2,2]  (tokenizer.ckpt)" in outcome.said
    assert "tokenizer.codebook_size=48  (tokenizer.ckpt)" in outcome.said  # which the command has as 128
    before, settings, sha256 = load_tokenizer(words[0].partition("=")[2], words[1].partition("=")[2])
    after, continued, sha256_after = load_tokenizer(tmp_path / "vqgan" / "last.ckpt")
    assert sha256 != sha256_after and settings.items() <= continued.items()
    moved = (after.quantizer.codebook - before.quantizer.codebook).abs().max()
    assert 0 < moved < 1e-3  # six batches of Adam at 1e-5; a codebook drawn anew would be elsewhere
    assert "skipped" in clipgen(*arguments, "tokenizer.train.lr=1e-5", "tokenizer.train.restart_dead=false").said


def test_a_yaml_that_does_not_match_stops_in_one_line(published, clipgen, one_line, tiny, run_folder, words, tmp_path):
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(published.config(n_embed=1024)))
    other = f"tokenizer.ckpt_config={tmp_path / 'other.yaml'}"
    arguments = [f"out={tmp_path / 'out'}", f"shards={run_folder / 'shards'}", *tiny, words[0], other]
    for verb in (["train", "stage=vqgan"], ["encode"]):
        assert "n_embed=1024, but the checkpoint has 48" in one_line(clipgen(*verb, *arguments))
    assert not (tmp_path / "out" / "vqgan").exists()


GPT = [
    "transformer.style=gpt2", "transformer.width=64", "transformer.depth=1", "transformer.heads=1",
    "transformer.n_prefix=1", "transformer.cond_drop_prob=0", "transformer.centred=false", "transformer.dropout=0",
    "transformer.train.min_level=1", "transformer.train.optimizer=adamw", "sampling.guidance_scale=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def gpt(published_gpt, tmp_path_factory) -> Path:
    """A Transformer in HFAiLab's own layout, of the shape of the finished run. Not to be changed."""
    path = tmp_path_factory.mktemp("hfai") / "gpt_coco.pt"
    theirs = published_gpt(vocabulary=128, depth=1, width=64, length=64, embed_dim=16)
    torch.save({"model": theirs.state_dict(), "epoch": 3}, path)
    return path


def test_the_published_transformer_goes_on_from_its_weights(
    clipgen, one_line, run_folder, tokenizer, tiny, gpt, tmp_path
):
    inputs = [f"latents={run_folder / 'latents'}", tokenizer]
    words = ["stage=transformer", *tiny, *GPT, *inputs, f"out={tmp_path / 'out'}", "transformer.train.lr=1e-9"]
    line = one_line(clipgen("train", *words, f"transformer.ckpt={gpt}", "transformer.depth=2"))
    assert f"{gpt} has depth 1, but transformer.depth is 2; take transformer.depth=1" in line
    assert not (tmp_path / "out" / "transformer").exists()

    outcome = clipgen("train", *words, f"transformer.ckpt={gpt}")
    assert outcome.status == 0, outcome.error
    state = read_checkpoint(tmp_path / "out" / "transformer" / "last.ckpt", "transformer")["state_dict"]
    wanted = torch.load(gpt, weights_only=True)["model"]
    torch.testing.assert_close(state["transformer.head.weight"], wanted["head.weight"], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        state["transformer.blocks.0.attention.qkv.bias"], wanted["blocks.0.encoder.self_attn.in_proj_bias"],
        atol=1e-6, rtol=0,
    )  # fmt: skip


STILL = ["transformer.train.lr=1e-9", "transformer.train.muon_lr=1e-9", "transformer.cond_drop_prob=0.2"]


def test_one_of_ours_goes_on_from_its_weights(clipgen, one_line, run_folder, tokenizer, tiny, tmp_path):
    start = run_folder / "transformer" / "last.ckpt"
    inputs = [f"latents={run_folder / 'latents'}", tokenizer]
    words = ["stage=transformer", *tiny, *inputs, f"out={tmp_path}", f"transformer.ckpt={start}"]
    line = one_line(clipgen("train", *words, "transformer.width=128"))
    assert f"{start} has width 64, but transformer.width is 128; take transformer.width=64" in line
    outcome = clipgen("train", *words, *STILL)
    assert outcome.status == 0, outcome.error
    wanted, found = (read_checkpoint(path, "transformer") for path in (start, tmp_path / "transformer" / "last.ckpt"))
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], atol=1e-6, rtol=0)


def test_one_of_ours_goes_on_with_other_pictures_and_their_mean(run_folder, captioned, train_on, tmp_path):
    start = run_folder / "transformer" / "last.ckpt"
    outcome = train_on(captioned, tmp_path, "stage=transformer", f"transformer.ckpt={start}", *STILL)
    assert outcome.status == 0, outcome.error
    wanted, found = (read_checkpoint(path, "transformer") for path in (start, tmp_path / "transformer" / "last.ckpt"))
    torch.testing.assert_close(found["state_dict"], wanted["state_dict"], atol=1e-6, rtol=0)
    assert found["clipgen"]["batches"] == 6
    ours, theirs = (load_statistics(folder / "latents")["image_mean"] for folder in (captioned, run_folder))
    assert not torch.equal(ours, theirs), "of other pictures"
    inputs = [each["clipgen"]["inputs"]["image_mean"] for each in (wanted, found)]
    assert inputs[0] != inputs[1]


@pytest.mark.parametrize("kind", ["tokenizer", "CLIP", "image_mean"])
def test_one_of_ours_knows_what_it_was_trained_with(clipgen, one_line, run_folder, tokenizer, tiny, tmp_path, kind):
    own = read_checkpoint(run_folder / "transformer" / "last.ckpt", "transformer")
    own["clipgen"]["inputs"][kind] = "0123456789"
    torch.save(own, tmp_path / "other.ckpt")
    clip, start = [word for word in tiny if word.startswith("clip.")], f"transformer.ckpt={tmp_path / 'other.ckpt'}"
    line = one_line(clipgen("export", f"run={run_folder}", f"out={tmp_path / 'model'}", start, *clip))
    assert f"other.ckpt was trained with {kind} 01234567…, but that of " in line
    inputs = [f"latents={run_folder / 'latents'}", tokenizer]
    words = ["train", "stage=transformer", *tiny, *inputs, f"out={tmp_path / 'out'}", start]
    if kind != "image_mean":  # which is that of the pictures at hand
        assert f"was trained with {kind} 01234567" in one_line(clipgen(*words))
        assert not (tmp_path / "out" / "transformer").exists()


def test_the_published_transformer_is_exported_without_a_run(clipgen, one_line, tokenizer, tiny, gpt, tmp_path):
    clip = [word for word in tiny if word.startswith("clip.")]
    words = [f"transformer.ckpt={gpt}", tokenizer, *clip]
    outcome = clipgen("export", f"out={tmp_path}", "run=nowhere", *words)
    assert outcome.status == 0, outcome.error
    assert "sampling.guidance_scale=1" in outcome.said and "sampling.bridge=none" in outcome.said
    model = ClipGen.from_pretrained(tmp_path)
    assert len(model.generate(["a red circle"], n=2, seed=0)) == 2
    assert model.statistics == {} and model.sampling["bridge"] == "none"


def test_a_transformer_for_another_grid_or_with_a_pickled_object_is_one_line(
    clipgen, one_line, published_gpt, run_folder, tokenizer, tiny, tmp_path
):
    inputs = [f"latents={run_folder / 'latents'}", tokenizer]
    theirs = published_gpt(vocabulary=128, depth=1, width=64, length=16, embed_dim=16).state_dict()
    for content, says in (
        ({"model": theirs}, "has grid [4, 4], but the latents have [8, 8]"),
        ({"model": theirs, "path": Path("a")}, "is not loaded"),
        ({"model": {**theirs, "more": torch.zeros(1)}}, "has an unknown more"),
    ):
        torch.save(content, tmp_path / "gpt.pt")
        words = ["stage=transformer", *tiny, *GPT, *inputs, f"transformer.ckpt={tmp_path / 'gpt.pt'}"]
        assert says in one_line(clipgen("train", *words, f"out={tmp_path / 'out'}"))
        assert not (tmp_path / "out" / "transformer").exists()
