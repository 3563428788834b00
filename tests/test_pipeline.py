"""The object a user holds: what it makes of prompts, pictures and masks, and what bad input gets."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen import ClipGen
from clipgen.errors import UserError
from clipgen.generator import image_seed
from clipgen.transformer.sampling import sample

PROMPTS = ["a red circle", "a blue ring on white", "größe, 赤い円 = 🎈"]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_prompts_give_images(pipeline):
    images = pipeline.generate(PROMPTS, n=2, seed=3)
    assert len(images) == 6
    assert {(image.mode, image.size) for image in images} == {("RGB", (16, 16))}
    assert len(np.unique(pixels(images), axis=0)) == 6
    assert pipeline.generate([], n=2) == []


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


def test_a_bridge_is_chosen_at_sampling_time(bridged):
    made = {name: pixels(bridged.generate(PROMPTS[:1], n=4, bridge=name)) for name in ("none", "mean", "whiten", "knn")}
    assert len({images.tobytes() for images in made.values()}) == 4
    assert np.array_equal(pixels(bridged.generate(PROMPTS[:1], n=4)), made["whiten"])


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
    with pytest.raises(UserError, match="cancel each other"):
        pipeline.mix([("a red circle", 0.0)])


@pytest.mark.parametrize(
    "prompt", ["(red:1.5) circle", '{"text": "red", "weight": 2}', "[red|blue] ring AND a {cross}"]
)
def test_a_plain_prompt_reaches_clip_as_it_is(pipeline, monkeypatch, prompt):
    seen, encode_text = [], pipeline.clip.encode_text
    monkeypatch.setattr(pipeline.clip, "encode_text", lambda texts: seen.extend(texts) or encode_text(texts))
    pipeline.generate([prompt])
    assert seen == [prompt]


def test_a_negative_prompt_takes_the_place_of_the_null(pipeline):
    plain = pixels(pipeline.generate(PROMPTS[:1], n=4))
    assert not np.array_equal(pixels(pipeline.generate(PROMPTS[:1], n=4, negative="a blue ring")), plain)
    unguided = pixels(pipeline.generate(PROMPTS[:1], n=4, guidance_scale=1.0))
    assert np.array_equal(
        pixels(pipeline.generate(PROMPTS[:1], n=4, negative=PROMPTS[0], guidance_scale=3.0)), unguided
    )
    with pytest.raises(UserError, match=r"negative=.* has no effect at guidance_scale=1"):
        pipeline.generate(PROMPTS[:1], negative="a blue ring", guidance_scale=1)


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


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("side", [16, 64, 1024])
def test_one_white_pixel_makes_its_cell_anew(pipeline, monkeypatch, side, mode):
    """Painted on black, or on a layer that is transparent."""
    given = []
    monkeypatch.setattr("clipgen.generator.sample", lambda *a, **o: given.append(o["given"]) or sample(*a, **o))
    mask = Image.new(mode, (side, side), 0 if mode == "L" else (255, 0))
    mask.putpixel((5 * side // 16, 11 * side // 16), 255 if mode == "L" else (255, 255))
    pipeline.complete(Image.new("RGB", (side, side)), mask, n=1)
    assert given[0].known_L.logical_not().nonzero().flatten().tolist() == [2 * 4 + 1]


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda p: p.generate_best(PROMPTS, 2, 3), "keep=3 of candidates=2; keep at least 1 and at most all of them"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, "beauty"), "rerank=beauty is unknown; take clip or self or caption"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, "caption"), "rerank=caption needs a captioner"),
        (lambda p: p.generate_best(PROMPTS, 2, 1, captioner=Brightest()), "rerank=clip asks no captioner"),
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


def test_the_card_names_the_bridges_that_work(pipeline, bridged):
    assert "Bridges from text to images: none, mean (bank of `knn`: none)." in pipeline.card()
    assert "whiten, none+knn, mean+knn, mean_scale+knn, whiten+knn (bank of `knn`: 20 images)." in bridged.card()
