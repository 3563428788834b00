"""The object a user holds: what a prompt gives, what a model folder holds, and what bad input gets."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipgen import ClipGen
from clipgen.clip.frozen import load_clip
from clipgen.errors import UserError
from clipgen.pipeline import image_seed
from clipgen.tokenizer.codes import clusters
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import Transformer
from clipgen.transformer.sampling import sample

TOKENIZER = dict(
    image_size=16, codebook_size=32, code_dim=4, channels=32, channel_multipliers=[1, 1, 1], res_blocks=1,
    z_channels=8, norm_groups=8,
)  # fmt: skip
TRANSFORMER = dict(grid=[4, 4], codebook_size=32, embed_dim=16, width=32, depth=2, heads=2, n_prefix=3)
SAMPLING = dict(guidance_scale=2.0, temperature=1.0, top_k=0, top_p=1.0, fidelity=0.9, batch_size=4)
PROMPTS = ["a red circle", "a blue ring on white", "größe, 赤い円 = 🎈"]


@pytest.fixture(scope="module")
def pipeline(tiny_clip_folder) -> ClipGen:
    """An untrained generator whose weights are large enough for prompt and seed to make a difference."""
    torch.manual_seed(0)
    vqgan, transformer = VQGAN(**TOKENIZER), Transformer(**TRANSFORMER)
    torch.nn.init.normal_(transformer.head.weight, std=0.5)
    for block in transformer.blocks:
        for matrix in (block.attention.qkv.weight, block.attention.out.weight):
            torch.nn.init.normal_(matrix, std=0.2)
    clip = load_clip(f"local-dir:{tiny_clip_folder}")
    statistics = {
        "image_mean": clip.encode_image(torch.rand(20, 3, 32, 32)).mean(0),
        "text_mean": clip.encode_text(["a", "b", "red", "two blue squares"]).mean(0),
    }
    settings = {"tokenizer": TOKENIZER, "transformer": TRANSFORMER}
    return ClipGen(vqgan, transformer, clip, statistics, dict(SAMPLING), settings)


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    """The pipeline's model folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bridged(pipeline) -> ClipGen:
    """The same generator, stored with covariances and a bank."""
    image_NE = pipeline.clip.encode_image(torch.rand(20, 3, 32, 32))
    text_NE = pipeline.clip.encode_text([f"{n} birds" for n in range(20)])
    covariances = {"image_covariance": image_NE.T.cov(), "text_covariance": text_NE.T.cov()}
    parts = (pipeline.vqgan, pipeline.transformer, pipeline.clip, pipeline.statistics | covariances)
    return ClipGen(*parts, SAMPLING | {"bridge": "whiten"}, pipeline.settings, bank_NE=image_NE.half())


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        ClipGen.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_prompts_give_images(pipeline):
    images = pipeline.generate(PROMPTS, n=2, seed=3)
    assert len(images) == 6
    assert {(image.mode, image.size) for image in images} == {("RGB", (16, 16))}
    assert len(np.unique(pixels(images), axis=0)) == 6
    assert pipeline.generate([], n=2) == []


def test_saving_and_loading_gives_the_same_pixels(pipeline, saved):
    loaded = ClipGen.from_pretrained(saved)
    assert loaded.sampling == pipeline.sampling
    assert np.array_equal(pixels(loaded.generate(PROMPTS, n=2)), pixels(pipeline.generate(PROMPTS, n=2)))


def test_a_saved_folder_can_be_saved_again(saved, tmp_path):
    again = tmp_path / "again"
    ClipGen.from_pretrained(saved).save_pretrained(again)
    for path in saved.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(saved)).read_bytes() == path.read_bytes(), path
    ClipGen.from_pretrained(again).save_pretrained(again)  # in place
    assert ClipGen.from_pretrained(again).generate(["x"], n=1)


def test_the_folder_works_wherever_it_lies(pipeline, saved, tmp_path):
    moved = shutil.copytree(saved, tmp_path / "elsewhere")
    hidden = saved.rename(saved.with_name("hidden"))
    try:
        made = ClipGen.from_pretrained(moved).generate(PROMPTS, n=1)
    finally:
        hidden.rename(saved)
    assert np.array_equal(pixels(made), pixels(pipeline.generate(PROMPTS, n=1)))


def test_what_the_folder_holds(saved):
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {"config.json", "README.md", "clip/open_clip_config.json"} < names
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".md", ".txt"}
    for name in names:
        content = (saved / name).read_bytes()
        assert not content.startswith((b"\x80", b"PK\x03\x04")), f"{name} is a pickle"
    assert (saved / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: clipgen")


def test_a_clip_from_a_pickle_is_saved_as_safetensors(pipeline, tiny_clip_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"
    torch.save(load_file(weights), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    clip = load_clip(f"local-dir:{folder}")
    settings = {"tokenizer": TOKENIZER, "transformer": TRANSFORMER}
    parts = (pipeline.vqgan, pipeline.transformer, clip, pipeline.statistics, dict(SAMPLING), settings)
    ClipGen(*parts).save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").rglob("*.bin"))
    made = ClipGen.from_pretrained(tmp_path / "model").generate(PROMPTS, n=1)
    assert np.array_equal(pixels(made), pixels(pipeline.generate(PROMPTS, n=1)))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Within 1/255, as the decoder rounds by the size of its batch; another token is much further off."""
    return int(np.abs(one.astype(int) - other).max()) <= 1


def test_an_image_depends_on_its_prompt_number_and_seed_only(pipeline):
    wanted = pixels(pipeline.generate(PROMPTS, n=3, seed=5))
    for size in (1, 2, 5, 100):
        assert same(pixels(pipeline.generate(PROMPTS, n=3, seed=5, batch_size=size)), wanted)
    alone = pipeline.generate(PROMPTS[1:2], n=3, seed=5)
    assert same(pixels(alone), wanted[3:6])
    fewer = pipeline.generate(PROMPTS[1:2], n=2, seed=5)
    assert same(pixels(fewer), wanted[3:5])
    turned = pipeline.generate(PROMPTS[::-1], n=3, seed=5)
    assert same(pixels(turned), wanted.reshape(3, 3, 16, 16, 3)[::-1].reshape(wanted.shape))
    other = pixels(pipeline.generate(PROMPTS, n=3, seed=6))
    assert not any(np.array_equal(a, b) for a, b in zip(wanted, other, strict=True))


def test_image_seeds_do_not_meet():
    seeds = {image_seed(prompt, seed, i) for prompt in ("", "a", "1 a") for seed in (0, 1, 11) for i in (0, 1, 11)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_settings_are_used(pipeline):
    plain = pixels(pipeline.generate(PROMPTS[:1], n=4))
    for change in ({"guidance_scale": 9.0}, {"temperature": 5.0}, {"fidelity": 0.0}, {"top_k": 2}, {"top_p": 0.2}):
        assert not np.array_equal(pixels(pipeline.generate(PROMPTS[:1], n=4, **change)), plain), change
    unset = dict.fromkeys(SAMPLING)  # None: the model's own
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[:1], n=4, **unset)), plain)
    greedy = pixels(pipeline.generate(PROMPTS[:1], n=4, top_p=0.0))
    assert len(np.unique(greedy, axis=0)) == 1


def test_progress_is_told(pipeline):
    told = []
    pipeline.generate(PROMPTS, n=3, on_batch=told.append)
    assert told == [4, 4, 1]


def test_variations_of_an_image(pipeline):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    made = pixels(pipeline.vary(image, n=3, seed=1))
    assert made.shape == (3, 16, 16, 3)
    assert np.array_equal(pixels(pipeline.vary(image.convert("RGBA"), n=3, seed=1)), made)
    assert np.array_equal(pixels(pipeline.vary(image, n=3, seed=1, fidelity=1.0)), made)
    assert not np.array_equal(pixels(pipeline.vary(image, n=3, seed=2)), made)
    assert not np.array_equal(pixels(pipeline.vary(image, n=3, seed=1, fidelity=0.0)), made)


def test_scores_are_the_clips_cosines(pipeline):
    images = pipeline.generate(PROMPTS, n=1)
    scores = pipeline.scores(images, PROMPTS)
    turned = pipeline.scores(images[::-1], PROMPTS[::-1])
    assert scores == pytest.approx(turned[::-1], abs=1e-5)
    image_BE = pipeline.clip.encode_image(pipeline._tensor(images))
    assert scores == pytest.approx((image_BE * pipeline.clip.encode_text(PROMPTS)).sum(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize("empty", ["", "  ", "\n\t"])
def test_an_empty_prompt(pipeline, empty):
    with pytest.raises(UserError, match="prompt 2 is empty"):
        pipeline.generate(["a red circle", empty])


def test_a_prompt_that_is_no_list(pipeline):
    with pytest.raises(UserError, match="give a list"):
        pipeline.generate("a red circle")


def test_an_unknown_setting(pipeline):
    with pytest.raises(UserError, match=r"unknown setting guidance; choose from .*guidance_scale"):
        pipeline.generate(PROMPTS, guidance=3.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top_p", 1.1), ("top_p", -0.1), ("fidelity", 2), ("temperature", -1), ("guidance_scale", float("nan")),
        ("top_k", -1), ("top_k", 33), ("batch_size", 0),
    ],
)  # fmt: skip
def test_a_value_out_of_range(pipeline, key, value):
    with pytest.raises(UserError, match=f"{key}={value} is out of range; take a value from"):
        pipeline.generate(PROMPTS, **{key: value})


def test_a_level_that_training_never_showed(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.transformer, "min_level", 0.8)
    with pytest.raises(UserError, match=r"fidelity=0\.7 is a level .* take 0\.8 to 1"):
        pipeline.generate(PROMPTS, fidelity=0.7)
    assert pipeline.generate(PROMPTS[:1], n=1, fidelity=0.8)
    assert Transformer(**TRANSFORMER, min_level=0.8, level_token=False).least_level == 0  # it is told none


def test_a_bridge_is_chosen_at_sampling_time(bridged):
    made = {name: pixels(bridged.generate(PROMPTS[:1], n=4, bridge=name)) for name in ("none", "mean", "whiten", "knn")}
    assert len({images.tobytes() for images in made.values()}) == 4
    assert np.array_equal(pixels(bridged.generate(PROMPTS[:1], n=4)), made["whiten"])


def test_what_bridges_need_is_stored_with_the_model(bridged, pipeline, tmp_path):
    bridged.save_pretrained(tmp_path)
    loaded = ClipGen.from_pretrained(tmp_path)
    for name in ("whiten", "whiten+knn"):
        wanted = bridged.generate(PROMPTS, n=2, bridge=name)
        assert np.array_equal(pixels(loaded.generate(PROMPTS, n=2, bridge=name)), pixels(wanted))
    assert load_file(tmp_path / "bank.safetensors")["image"].dtype == torch.float16
    pipeline.save_pretrained(tmp_path)
    assert ClipGen.from_pretrained(tmp_path).bank_NE is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("whiten", "needs image_covariance, .*bridge=mean$"), ("knn", "needs a bank .*bridge=mean$"), ("x", "is unknown")],
)
def test_an_older_model_names_the_bridge_that_works(saved, name, message):
    older = ClipGen.from_pretrained(saved)
    with pytest.raises(UserError, match=f"^bridge={name} {message}"):
        older.generate(PROMPTS, bridge=name)
    assert np.array_equal(pixels(older.generate(PROMPTS, bridge="mean")), pixels(older.generate(PROMPTS)))


def test_a_folder_that_is_missing_or_no_model(tmp_path):
    assert "has no config.json" in refused(tmp_path / "absent")
    assert "has no config.json" in refused(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer", "transformer", "statistics"])
def test_weights_that_are_missing_or_broken(copied, name):
    path = copied / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "is not a readable safetensors file" in refused(copied)
    path.write_bytes(b"")
    assert "is not a readable safetensors file" in refused(copied)
    path.unlink()
    assert "does not exist" in refused(copied)


def test_weights_of_another_size(copied):
    path = copied / "transformer.safetensors"
    state = load_file(path)
    save_file({**state, "head.weight": state["head.weight"][:7].clone()}, path)
    assert "does not fit" in refused(copied)


def test_statistics_without_a_mean(copied):
    path = copied / "statistics.safetensors"
    save_file({"image_mean": load_file(path)["image_mean"]}, path)
    assert "has no text_mean" in refused(copied)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"settings": {}}', '{"settings": {}, "clip": {}}'])
def test_a_broken_config(copied, text):
    (copied / "config.json").write_text(text)
    assert "config.json is not readable" in refused(copied)


def test_a_config_with_a_part_missing_or_unknown(copied):
    config = json.loads((copied / "config.json").read_text())
    for change in (
        {"settings": {"tokenizer": TOKENIZER}},
        {"settings": {"tokenizer": TOKENIZER | {"colour": 1}, "transformer": TRANSFORMER}},
    ):
        (copied / "config.json").write_text(json.dumps(config | change))
        assert "config.json is not readable" in refused(copied)
    del config["sampling"]
    (copied / "config.json").write_text(json.dumps(config))
    assert "config.json is not readable" in refused(copied)


def test_a_folder_of_a_later_version(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"format": 2}))
    assert "format 2" in refused(copied)


def test_another_clip_than_it_was_trained_with(copied):
    path = copied / "clip" / "open_clip_model.safetensors"
    state = load_file(path)
    save_file({**state, "text_projection": state["text_projection"] + 1}, path)
    assert "was trained with CLIP" in refused(copied)


def test_a_folder_without_its_clip(copied):
    shutil.rmtree(copied / "clip")
    assert "open_clip_config.json" in refused(copied)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, clipgen; heavy = {'torch', 'open_clip', 'numpy', 'PIL', 'hydra'} & set(sys.modules); "
        "assert not heavy, heavy; from clipgen import ClipGen; assert 'torch' in sys.modules; print(ClipGen.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("ClipGen\n", 0), done.stderr


def test_what_the_package_does_not_have():
    import clipgen

    assert clipgen.ClipGen is ClipGen
    with pytest.raises(AttributeError, match="nothing"):
        _ = clipgen.nothing


def test_a_mix_of_one_text_is_that_text_and_weights_count(pipeline):
    plain = pixels(pipeline.mix([("a red circle", 1.0)], n=4))
    assert np.array_equal(pixels(pipeline.mix([("a red circle", 3.0)], n=4)), plain)
    photo = Image.new("RGB", (20, 20), "red")
    for parts in ([("a red circle", 1.0), (photo, 1.0)], [("a red circle", 1.0), ("a blue ring", -0.5)]):
        assert not np.array_equal(pixels(pipeline.mix(parts, n=4)), plain)
    with pytest.raises(UserError, match="cancel each other"):
        pipeline.mix([("a red circle", 1.0), ("a red circle", -1.0)])


def test_a_negative_prompt_takes_the_place_of_the_null(pipeline):
    plain = pixels(pipeline.generate(PROMPTS[:1], n=4))
    assert not np.array_equal(pixels(pipeline.generate(PROMPTS[:1], n=4, negative="a blue ring")), plain)
    unguided = pixels(pipeline.generate(PROMPTS[:1], n=4, guidance_scale=1.0))
    assert np.array_equal(
        pixels(pipeline.generate(PROMPTS[:1], n=4, negative=PROMPTS[0], guidance_scale=3.0)), unguided
    )
    with pytest.raises(UserError, match=r"negative=.* has no effect at guidance_scale=1"):
        pipeline.generate(PROMPTS[:1], negative="a blue ring", guidance_scale=1)


# candidates, given tokens


class Brightest:
    """In a captioner's place: the brighter an image, the less its loss, whatever the text."""

    def caption_loss(self, images, texts) -> list[float]:
        assert texts == [PROMPTS[i // 6] for i in range(12)]
        return [-float(np.asarray(image).mean()) for image in images]


@pytest.mark.parametrize("rerank", ["clip", "self", "caption"])
def test_the_best_of_the_candidates_come_back_the_best_first(pipeline, rerank):
    every = pipeline.generate(PROMPTS[:2], n=6, seed=1)
    captioner = Brightest() if rerank == "caption" else None
    best = pixels(pipeline.generate_best(PROMPTS[:2], 6, 2, rerank, seed=1, captioner=captioner))
    if rerank == "caption":
        scores = [np.asarray(image).mean() for image in every]
    elif rerank == "clip":
        scores = pipeline.scores(every, [PROMPTS[i // 6] for i in range(12)])
    else:
        condition_BE = pipeline._text_conditions(PROMPTS[:2]).repeat_interleave(6, 0)
        seeds = [image_seed(prompt, 1, i) for prompt in PROMPTS[:2] for i in range(6)]
        scores = pipeline._sampled(condition_BE, seeds, prefer=True)[1]
    order = [sorted(range(6 * p, 6 * p + 6), key=lambda i: -scores[i])[:2] for p in range(2)]
    assert np.array_equal(best, pixels([every[i] for part in order for i in part]))


def halves() -> tuple[Image.Image, Image.Image]:
    """Noise, and a mask whose lower half is white."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[10:] = 255
    return Image.fromarray(noise), Image.fromarray(mask)


@pytest.mark.parametrize("prompt", [None, PROMPTS[0]])
def test_what_the_mask_leaves_is_kept(pipeline, monkeypatch, prompt):
    decoded = []
    decode = pipeline.vqgan.decode
    monkeypatch.setattr(pipeline.vqgan, "decode", lambda tokens: (decoded.append(tokens), decode(tokens))[1])
    image, mask = halves()
    free = {"guidance_scale": 1.0, "temperature": 4.0}
    made = pipeline.complete(image, mask, prompt, n=5, seed=2, **free)
    assert len(made) == 5
    tokens = torch.cat(decoded)
    shown = torch.from_numpy(np.array(image.resize((16, 16), Image.Resampling.LANCZOS))).permute(2, 0, 1)[None]
    with torch.no_grad():
        own = pipeline.vqgan.encode(shown / 127.5 - 1)
    assert torch.equal(tokens[:, :2], own[:, :2].expand(5, -1, -1))
    assert len(tokens[:, 2:].flatten(1).unique(dim=0)) == 5
    again = pipeline.complete(image, mask, prompt, n=5, seed=2, batch_size=1, **free)
    assert np.abs(pixels(again).astype(int) - pixels(made)).max() <= 1


@pytest.mark.parametrize("side", [16, 64, 1024])
def test_one_white_pixel_makes_its_cell_anew(pipeline, monkeypatch, side):
    given = []
    monkeypatch.setattr("clipgen.pipeline.sample", lambda *a, **o: given.append(o["given"]) or sample(*a, **o))
    mask = Image.new("L", (side, side))
    mask.putpixel((5 * side // 16, 11 * side // 16), 255)
    pipeline.complete(Image.new("RGB", (side, side)), mask, n=1)
    assert given[0].known_L.logical_not().nonzero().flatten().tolist() == [2 * 4 + 1]


def test_bf16_is_near(pipeline):
    """Of its pixels 43 to 68 % are the same, by the seed; of another image's 1 to 2 %."""
    exact, near = (pixels(pipeline.generate(PROMPTS, n=4, precision=kind)) for kind in ("fp32", "bf16"))
    assert (exact == near).mean() > 0.3
    assert (exact == pixels(pipeline.generate(PROMPTS, n=4, seed=1))).mean() < 0.05


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda p: p.generate_best(PROMPTS, 2, 3), "keep=3 of candidates=2; keep at least 1 and at most all of them"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, "beauty"), "rerank=beauty is unknown; take clip or self or caption"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, "caption"), "rerank=caption needs a captioner"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, captioner=Brightest()), "rerank=clip asks no captioner"),
        (lambda p: p.generate(PROMPTS, guidance_schedule="linear"), "guidance_schedule=linear is unknown; take"),
        (lambda p: p.generate(PROMPTS, precision="fp8"), "precision=fp8 is unknown; take fp32 or bf16"),
        (lambda p: p.generate(PROMPTS, min_p=1.5), "min_p=1.5 is out of range"),
        (lambda p: p.generate(PROMPTS, prefix_boost=-1), "prefix_boost=-1 is out of range; take a value from 0 to 100"),
        (lambda p: p.generate(PROMPTS, clusters=1000, top_k=2), "clusters=1000 is out of range"),
        (lambda p: p.generate(PROMPTS, clusters=4), "clusters=4 has no effect with top_k=0, which counts clusters"),
        (lambda p: p.generate(PROMPTS, clusters=4, top_k=4), "take top_k below 4 and above 0, or clusters=0"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, "self", negative="a ring"), 'not with negative="a ring"'),
        (lambda p: p.vary(halves()[0], bridge="foo"), "bridge=foo is unknown"),
        (lambda p: p.complete(halves()[0], Image.new("L", (9, 9))), "the mask has 9×9 pixels and the image 20×20"),
        (lambda p: p.complete(halves()[0], Image.new("L", (20, 20))), "the mask has no white"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_said_in_a_line(pipeline, call, wanted):
    with pytest.raises(UserError) as caught:
        call(pipeline)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_guidance_needs_a_null_that_was_trained(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.transformer.conditioner, "drop_prob", 0.0)
    with pytest.raises(UserError, match=r"guidance_scale=2\.0 needs a model trained with transformer.cond_drop_prob"):
        pipeline.generate(PROMPTS)
    with pytest.raises(UserError, match=r"rerank=self needs a model trained with"):
        pipeline.generate_best(PROMPTS, 2, 1, "self", guidance_scale=1.0)
    pipeline.generate(PROMPTS[:1], n=1, guidance_scale=1.0)
    row_1E = pipeline._text_conditions(PROMPTS[:1])
    assert pipeline.from_conditions(row_1E, [1], negative_BE=-row_1E)


def test_a_model_told_its_guidance_refuses_what_it_cannot_be_told(pipeline):
    transformer = Transformer(**TRANSFORMER, gft=True)
    parts = (pipeline.vqgan, transformer, pipeline.clip, pipeline.statistics, SAMPLING, pipeline.settings)
    told = ClipGen(*parts)
    for wrong, says in (({"guidance_scale": 0.5}, "below what"), ({"guidance_schedule": "power_cosine"}, "two passes")):
        with pytest.raises(UserError, match=says):
            told.generate(PROMPTS[:1], **wrong)
        assert told.generate(PROMPTS[:1], n=1, negative="a ring", **wrong)  # which takes two passes
    assert len(told.generate_best(PROMPTS[:1], 3, 2, "self")) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_changed_weight_is_sampled_with(pipeline, precision):
    transformer = Transformer(**TRANSFORMER)
    transformer.load_state_dict(pipeline.transformer.state_dict())
    parts = (pipeline.vqgan, transformer, pipeline.clip, pipeline.statistics, SAMPLING, pipeline.settings)
    own = ClipGen(*parts)
    before = pixels(own.generate(PROMPTS[:1], precision=precision))
    assert np.array_equal(pixels(own.generate(PROMPTS[:1], precision=precision)), before)
    with torch.no_grad():
        transformer.head.weight.neg_()
    assert not np.array_equal(pixels(own.generate(PROMPTS[:1], precision=precision)), before)


def test_the_card_names_the_bridges_that_work(pipeline, bridged):
    assert "Bridges from text to images: none, mean (bank of `knn`: none)." in pipeline.card()
    assert "whiten, none+knn, mean+knn, mean_scale+knn, whiten+knn (bank of `knn`: 20 images)." in bridged.card()


def test_a_model_of_before_gets_the_new_settings(pipeline):
    assert {"min_p", "guidance_schedule", "precision", "clusters", "prefix_boost"} <= set(pipeline.sampling)


def test_clusters_are_counted_by_top_k(pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr("clipgen.pipeline.sample", lambda *a, **o: asked.append(o["cluster_V"]) or sample(*a, **o))
    few, plain = ({"clusters": 3, "top_k": 2}, {"top_k": 2})
    made, other = (pixels(pipeline.generate(PROMPTS, n=2, **options)) for options in (few, plain))
    assert not np.array_equal(made, other) and asked[-1] is None
    assert torch.equal(asked[0], clusters(pipeline.vqgan.quantizer.codes_KD, 3))
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[1:], n=2, **few)), made[2:])  # whatever its batch mates


def test_a_boost_turns_to_the_prompt(pipeline):
    plain, boosted = (pixels(pipeline.generate(PROMPTS, n=2, prefix_boost=boost)) for boost in (0.0, 2.0))
    assert not np.array_equal(plain, boosted)
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[1:], n=2, prefix_boost=2.0)), boosted[2:])
