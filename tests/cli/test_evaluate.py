"""`clipgen evaluate`: any tokenizer on any shards, by the average of its weights if there is one, and a generator."""

import io
import json

import pytest
import torch
from PIL import Image

from clipgen.checkpoint import read_checkpoint, submodule
from clipgen.cli.build import load_tokenizer
from clipgen.cli.extractors import dinov2, inception
from clipgen.data.manifest import Manifest
from clipgen.data.sample import image_sample, sample_key
from clipgen.data.shards import shard_name, write_shard


@pytest.fixture(scope="module")
def averaged(clipgen, tiny, run_folder, tmp_path_factory):
    """A tokenizer trained with an EMA of its weights, far behind them. Not to be changed."""
    folder = tmp_path_factory.mktemp("averaged")
    outcome = clipgen(
        "train", "stage=vqgan", f"out={folder}", f"shards={run_folder / 'shards'}", *tiny, "tokenizer.train.ema=0.999"
    )
    assert outcome.status == 0, outcome.error
    return folder


def test_a_tokenizer_on_the_pictures_of_its_run(clipgen, averaged, run_folder, tiny_clip_folder):
    outcome = clipgen(
        "evaluate", "stage=vqgan", f"run={averaged}", f"shards={run_folder / 'shards'}",
        f"clip.model=local-dir:{tiny_clip_folder}",
    )  # fmt: skip
    assert outcome.status == 0, outcome.error
    found = json.loads((averaged / "evaluation" / "vqgan.json").read_text())
    figures = found["figures"]
    assert set(figures) == {"psnr", "psnr_perturbed_p0.1_k100", "ssim", "usage", "perplexity", "fd_clip"}
    assert set(found["left_out"]) == {"rfid", "fd_dinov2", "lpips"}
    assert all("N=" in each["how"] and isinstance(each["value"], float) for each in figures.values())
    assert "32" in figures["fd_clip"]["how"] and "torchmetrics" in figures["ssim"]["how"]
    for name in [*figures, "left out", "rfid"]:
        assert name in outcome.said
    for name in ("vqgan.png", "codes.png"):
        with Image.open(averaged / "evaluation" / name) as picture:
            assert picture.width > 100


def test_the_average_is_what_is_used_and_started_from(clipgen, tiny, averaged, run_folder, tmp_path):
    path = averaged / "vqgan" / "last.ckpt"
    checkpoint = read_checkpoint(path, "vqgan")
    name = "decoder.conv_out.weight"
    average, live = checkpoint["ema"][f"vqgan.{name}"], checkpoint["state_dict"][f"vqgan.{name}"]
    assert not torch.allclose(average, live)
    assert torch.equal(load_tokenizer(path)[0].state_dict()[name], average)
    outcome = clipgen(
        "train", "stage=vqgan", f"out={tmp_path}", f"shards={run_folder / 'shards'}", *tiny, f"tokenizer.ckpt={path}",
        "tokenizer.train.steps=1", "tokenizer.train.lr=1e-12", "tokenizer.train.continuous_steps=0",
        "trainer.val_every=1",
    )  # fmt: skip
    assert outcome.status == 0, outcome.error
    begun = submodule(read_checkpoint(tmp_path / "vqgan" / "last.ckpt", "vqgan"), "vqgan")
    torch.testing.assert_close(begun[name], average, rtol=0, atol=1e-6)


def test_a_training_that_breaks_is_one_line_and_keeps_its_last_good_checkpoint(
    clipgen, one_line, tiny, run_folder, tmp_path
):
    outcome = clipgen(
        "train", "stage=vqgan", f"out={tmp_path}", f"shards={run_folder / 'shards'}", *tiny, "tokenizer.train.lr=1e30"
    )
    line = one_line(outcome)
    assert "NaN or infinite" in line and "tokenizer.train.lr" in line
    assert not list((tmp_path / "vqgan").glob("*.ckpt"))


def test_a_codebook_that_collapses_is_said_and_stands_in_the_report(clipgen, tiny, run_folder, tmp_path):
    outcome = clipgen(
        "train", "stage=vqgan", f"out={tmp_path}", f"shards={run_folder / 'shards'}", *tiny,
        "tokenizer.unit_codes=false", "tokenizer.code_dim=64", "tokenizer.codebook_size=4096",
        "tokenizer.train.restart_dead=false", "tokenizer.train.continuous_steps=0", "tokenizer.train.steps=20",
        "tokenizer.train.usage_window=10", "tokenizer.train.lr=3e-3",
    )  # fmt: skip
    assert outcome.status == 0, outcome.error
    assert "vqgan: warning: batch" in outcome.said and "of the codes are in use" in outcome.said
    assert clipgen("report", f"run={tmp_path}").status == 0
    assert "the codebook collapses" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def bad(run_folder, make_images, tmp_path_factory):
    """Words that are wrong in one place, each with what the line must say."""
    folder = tmp_path_factory.mktemp("bad")
    make_images(folder / "none", n_val=0, width=32, height=32)
    make_images(folder / "small", width=16, height=16)
    torch.save({"a": torch.zeros(1)}, folder / "other.pth")
    return {
        "no checkpoint": ([f"tokenizer.ckpt={folder / 'x.ckpt'}"], "x.ckpt does not exist"),
        "no run": ([f"run={folder / 'nothing'}"], "nothing/vqgan/last.ckpt does not exist"),
        "no pictures": ([f"shards={folder / 'none'}"], "no validation pictures"),
        "small pictures": ([f"shards={folder / 'small'}"], "16×16 pixels, smaller than image_size 32"),
        "no weights": (["fid_weights=nowhere.pth"], "fid_weights=nowhere.pth does not exist"),
        "other weights": ([f"fid_weights={folder / 'other.pth'}"], "is not torch-fidelity's InceptionV3"),
        "no network": (["perceptual_weights=nowhere.pth"], "perceptual_weights=nowhere.pth does not exist"),
        "another network": (["perceptual=resnet", "perceptual_weights=x"], "perceptual=resnet is unknown"),
        "another stage": (["stage=transformer"], "stage=transformer cannot be evaluated alone"),
        "no probability": (["perturb_prob=2"], "perturb_prob=2"),
        "no samples": (["val_samples=0"], "val_samples=0 leaves no picture to evaluate on; take at least 1"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "no checkpoint", "no run", "no pictures", "small pictures", "no weights", "other weights", "another stage",
        "no network", "another network", "no probability", "no samples",
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(clipgen, one_line, bad, run_folder, tmp_path, what):
    words, wanted = bad[what]
    given = {word.partition("=")[0] for word in words}
    usual = {"stage": "vqgan", "run": run_folder, "shards": run_folder / "shards", "out": tmp_path}
    usual = [f"{key}={value}" for key, value in usual.items() if key not in given]
    assert wanted in one_line(clipgen("evaluate", *usual, *words))
    assert not list(tmp_path.iterdir())


def test_the_distance_of_a_network_by_its_file(clipgen, run_folder, shared_data, tmp_path):
    weights = shared_data / "weights" / "squeezenet1_1_features_torch.npz"
    words = [f"run={run_folder}", "perceptual=squeezenet", f"perceptual_weights={weights}", f"out={tmp_path}"]
    outcome = clipgen("evaluate", "stage=vqgan", *words)
    assert outcome.status == 0, outcome.error
    figure = json.loads((tmp_path / "vqgan.json").read_text())["figures"]["squeezenet"]
    assert 0.01 < figure["value"] < 10 and "SqueezeNet 1.1" in figure["how"]


def test_pictures_too_small_for_a_network_are_named(clipgen, one_line, tiny, make_images, tmp_path):
    make_images(tmp_path / "shards", width=8, height=8)
    words = [f"shards={tmp_path / 'shards'}", "tokenizer.image_size=8", "tokenizer.train.gan_weight=0"]
    made = clipgen("train", "stage=vqgan", f"out={tmp_path}", *tiny, *words, "tokenizer.train.steps=3")
    assert made.status == 0, made.error
    torch.save({f"features.{name}": tensor for name, tensor in vgg16_of_zeros()}, tmp_path / "vgg16.pth")
    words = ["stage=vqgan", f"run={tmp_path}", f"perceptual_weights={tmp_path / 'vgg16.pth'}"]
    line = one_line(clipgen("evaluate", *words))
    assert "image_size=8, too small for perceptual=lpips, which takes 16 pixels or more; leave out" in line


def vgg16_of_zeros():
    """The convolutions of torchvision's VGG16."""
    layers, wide = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512], 3
    at = 0
    for width in layers:
        if width:
            yield f"{at}.weight", torch.zeros(width, wide, 3, 3)
            yield f"{at}.bias", torch.zeros(width)
            wide = width
        at += 2 if width else 1


@pytest.mark.parametrize("stage", ["vqgan", "transformer"])
def test_nothing_to_validate_on_is_said(clipgen, tiny, run_folder, tokenizer, tmp_path, stage):
    inputs = [f"shards={run_folder / 'shards'}", f"latents={run_folder / 'latents'}", f"out={tmp_path}"]
    if stage == "transformer":
        inputs.append(tokenizer)
    outcome = clipgen("train", f"stage={stage}", *tiny, *inputs, "trainer.val_samples=0")
    assert outcome.status == 0, outcome.error
    assert f"{stage}: nothing is validated, as trainer.val_samples=0" in outcome.said
    assert "val/loss" not in outcome.said
    assert {path.name for path in (tmp_path / stage).glob("*.ckpt")} == {"last.ckpt"}


def test_a_generator_without_pictures_to_evaluate_on(clipgen, one_line, run_folder):
    words = [f"model={run_folder / 'model'}", f"shards={run_folder / 'shards'}", "val_samples=0", "device=cpu"]
    assert "val_samples=0 leaves no picture" in one_line(clipgen("evaluate", *words))


@pytest.mark.slow
def test_rfid_by_a_local_file(clipgen, run_folder, tmp_path, monkeypatch):
    """The weights are random ones in the published layout: the file is read, and nothing else is."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({}, tmp_path / "empty.pth")
    network = module.FeatureExtractorInceptionV3("inception", ["2048"], str(tmp_path / "empty.pth"))
    monkeypatch.undo()
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    out = tmp_path / "out"
    outcome = clipgen(
        "evaluate", "stage=vqgan", f"run={run_folder}", f"fid_weights={tmp_path / 'inception.pth'}", f"out={out}"
    )
    assert outcome.status == 0, outcome.error
    figure = json.loads((out / "vqgan.json").read_text())["figures"]["rfid"]
    assert figure["value"] > 0 and "299" in figure["how"] and "inception.pth" in figure["how"]
    (tmp_path / "prompts.txt").write_text("a red circle\na blue ring\na cross\n", encoding="utf-8")
    words = f"model={run_folder / 'model'}", f"shards={run_folder / 'shards'}", f"prompts={tmp_path / 'prompts.txt'}"
    outcome = clipgen("evaluate", *words, f"fid_weights={tmp_path / 'inception.pth'}", f"out={out / 'generator.json'}")
    assert outcome.status == 0, outcome.error
    found = json.loads((out / "generator.json").read_text())
    assert found["inception.is"] >= 1 and "1008 classes" in found["how"]["inception.is"]["warning"]
    assert found["inception.fid_k.8"] > 0 and "is" not in found["left_out"] and "cmmd" in found["left_out"]
    extractor = inception(tmp_path / "inception.pth")
    both = module.FeatureExtractorInceptionV3("i", ["2048", "logits_unbiased"], str(tmp_path / "inception.pth"))
    image_BCHW = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    wanted = both(image_BCHW)[1]
    torch.testing.assert_close(extractor.embed(image_BCHW.permute(0, 2, 3, 1)) @ extractor.class_weights_CF.T, wanted)


SETS = {f"fid_k.{k}" for k in (0, 1, 2, 4, 8)} | {"cmmd", "precision", "recall", "density", "coverage", "diversity"}


@pytest.fixture(scope="module")
def other_clip(tiny_clip_architecture, tmp_path_factory):
    """A CLIP of other weights than the one that conditions."""
    from clipgen.clip.module import ClipModule, save_open_clip

    folder = tmp_path_factory.mktemp("other_clip")
    torch.manual_seed(1)
    save_open_clip(ClipModule(tiny_clip_architecture, steps=1), folder, ["a red circle"])
    return folder


def test_a_generator_against_pictures_in_one_command(clipgen, run_folder, other_clip, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue ring\na cross\n", encoding="utf-8")
    model, shards, out = run_folder / "model", run_folder / "shards", tmp_path / "figures.json"
    words = "evaluate", f"model={model}", f"shards={shards}", f"prompts={prompts}", "n=4", "nearest=5", f"out={out}"
    outcome = clipgen(*words, f"clip.model=local-dir:{other_clip}")
    assert outcome.status == 0, outcome.error
    found = json.loads(out.read_text())
    told, n_val = found["how"], json.loads((run_folder / "metrics.json").read_text())["images.val"]
    copies = {"nearest.mean", "nearest.least", "nearest.held_out.mean", "nearest.held_out.least"}
    kept = SETS if n_val > 5 else SETS - {"precision", "recall", "density", "coverage"}
    assert set(told) == {f"clip.{name}" for name in kept} | copies
    assert "circular" not in outcome.said.lower()
    assert {"vqgan.psnr", "clip.score", *told} <= set(found)
    for name, figure in told.items():
        assert found[name] == figure["value"] and figure["implementation"] and figure["resize"], name
        wanted = 12 if name.startswith("clip") else min(5, n_val) if "held_out" in name else 5
        assert figure["n"] == wanted and name in outcome.said
    figure = told["clip.fid_k.2"]
    assert "GaussianBlur(2)" in figure["resize"] and "16 features" in figure["warning"]
    assert f"{n_val} validation pictures of {shards}" in figure["reference"]
    assert "biased upwards" in outcome.said  # beside the number
    assert {"inception", "dinov2", "caploss"} <= set(found["left_out"])
    assert "fid_weights=FILE" in outcome.said and "dinov2_weights=FILE" in outcome.said
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 100
    circular = clipgen(*words[:-1], "nearest=0", f"clip.model=local-dir:{model / 'clip'}")
    assert circular.status == 0, circular.error
    assert "clip.circular.fid_k.0" in circular.said and "clip.fid_k.0" not in circular.said
    assert "nearest=0" in circular.said and "clip.circular.score" in circular.said


def test_captions_of_the_pictures_are_the_prompts_where_none_are_given(clipgen, run_folder, captioned, tmp_path):
    model, out = run_folder / "model", tmp_path / "figures.json"
    words = "evaluate", f"model={model}", f"out={out}", "n=1", "nearest=0"
    outcome = clipgen(*words, f"shards={captioned}")
    assert outcome.status == 0, outcome.error
    found = json.loads(out.read_text())
    assert "samples" not in found["left_out"] and "needs clip.model=NAME" in found["left_out"]["clip"]
    outcome = clipgen(*words, f"shards={run_folder / 'shards'}")
    assert outcome.status == 0, outcome.error
    found = json.loads(out.read_text())
    assert (
        "has no captions to sample from; give prompts=FILE" in found["left_out"]["samples"] and found["vqgan.psnr"] > 0
    )


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Shards of 32-pixel pictures, of which half of the validation ones have a caption."""
    folder = tmp_path_factory.mktemp("captioned")
    shards = []
    for split, n in (("train", 4), ("val", 6)):
        pictures = [image_sample(sample_key(i), png(i), "png", {"source": f"{i}.png"}) for i in range(n)]
        for sample in pictures[::2]:
            sample["txt"] = b"a red circle\na circle"
        shards.append(write_shard(folder / shard_name(split, 0), pictures))
    facts = {"pixels": {"train": 4 * 32 * 32, "val": 6 * 32 * 32}}
    Manifest("images", shards, {"fingerprint": "test"}, facts).save(folder)
    return folder


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["dinov2_weights=nowhere.pth"], "dinov2_weights=nowhere.pth does not exist; give dinov2_vits14_pretrain.pth"),
        (["fid_weights=nowhere.pth"], "fid_weights=nowhere.pth does not exist"),
        (["n=0"], "n=0 nearest=64; take 1 sample"),
        (["nearest=-1"], "nearest=-1"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_comparison_with_pictures(clipgen, one_line, run_folder, words, wanted):
    usual = f"model={run_folder / 'model'}", f"shards={run_folder / 'shards'}"
    assert wanted in one_line(clipgen("evaluate", *usual, *words))


def test_a_file_that_is_no_dinov2(clipgen, one_line, run_folder, tmp_path):
    usual = f"model={run_folder / 'model'}", f"shards={run_folder / 'shards'}"
    for name, tensors in (("a.pth", {"a": torch.zeros(1)}), ("b.pth", {"cls_token": torch.zeros(1, 1, 384)})):
        torch.save(tensors, tmp_path / name)
        line = one_line(clipgen("evaluate", *usual, f"dinov2_weights={tmp_path / name}"))
        assert f"{name} is not DINOv2 without registers" in line


@pytest.mark.slow
def test_dinov2_by_a_file_in_its_authors_layout(tmp_path):
    """Random weights: the names of the published file are read, and the class token after the last norm comes out."""
    import timm

    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518).eval()
    state = dict(network.state_dict()) | {"mask_token": torch.zeros(1, 384)}
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    extractor = dinov2(tmp_path / "dinov2_vits14_pretrain.pth")
    image_BHWC = torch.randint(256, (2, 518, 518, 3), dtype=torch.uint8)
    assert extractor.size == 384 and "224" in extractor.resize and "ViT-S/14" in extractor.how
    assert extractor.embed(image_BHWC).shape == (2, 384)
    same = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224).eval()
    same.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, same))
    small_BHWC = image_BHWC[:, :224, :224]
    colours = (small_BHWC / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = same.forward_features(colours.permute(0, 3, 1, 2))[:, 0]
    torch.testing.assert_close(extractor.embed(small_BHWC), wanted, rtol=1e-3, atol=1e-3)


def test_samples_of_a_file_of_prompts_are_scored_by_another_clip(clipgen, run_folder, tiny_clip_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a red circle\n{'blue ' * 500}\n", encoding="utf-8")
    words = "evaluate", f"model={run_folder / 'model'}", f"prompts={prompts}", "n=2"
    outcome = clipgen(*words)
    assert outcome.status == 2 and "clip.model" in outcome.error
    out = tmp_path / "at_0.9_of_mean"
    outcome = clipgen(*words, f"clip.model=local-dir:{tiny_clip_folder}", f"out={out}")
    assert outcome.status == 0, outcome.error
    figures = json.loads(out.read_text())
    assert '…" is longer than the context of this CLIP' in outcome.error
    assert f"longer than the context of clip.model=local-dir:{tiny_clip_folder}; what goes" in outcome.error
    own = "circular" in outcome.said  # the tiny run is conditioned by this very CLIP
    name = "clip.circular" if own else "clip"
    assert own and -1 <= figures[f"{name}.score"] <= 1 and figures[f"{name}.top_1.chance"] == 0.5
    with Image.open(f"{out}.png") as picture:
        assert picture.width > 60
