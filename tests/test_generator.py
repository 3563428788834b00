"""What a picture depends on, and the settings of sampling: which are used, and which cannot be."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipgen import ClipGen
from clipgen.errors import UserError
from clipgen.generator import image_seed
from clipgen.tokenizer.codes import clusters
from clipgen.transformer.model import Transformer
from clipgen.transformer.sampling import sample

PROMPTS = ["a red circle", "a blue ring on white", "größe, 赤い円 = 🎈"]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


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
    unset = dict.fromkeys(pipeline.sampling)  # None: the model's own
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[:1], n=4, **unset)), plain)
    greedy = pixels(pipeline.generate(PROMPTS[:1], n=4, top_p=0.0))
    assert len(np.unique(greedy, axis=0)) == 1


def test_progress_is_told(pipeline):
    told = []
    pipeline.generate(PROMPTS, n=3, on_batch=told.append)
    assert told == [4, 4, 1]


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


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda p: p.generate(PROMPTS, guidance_schedule="linear"), "guidance_schedule=linear is unknown; take"),
        (lambda p: p.generate(PROMPTS, precision="fp8"), "precision=fp8 is unknown; take fp32 or bf16"),
        (lambda p: p.generate(PROMPTS, min_p=1.5), "min_p=1.5 is out of range"),
        (lambda p: p.generate(PROMPTS, prefix_boost=-1), "prefix_boost=-1 is out of range; take a value from 0 to 100"),
        (lambda p: p.generate(PROMPTS, clusters=1000, top_k=2), "clusters=1000 is out of range"),
        (lambda p: p.generate(PROMPTS, clusters=4), "clusters=4 has no effect with top_k=0, which counts clusters"),
        (lambda p: p.generate(PROMPTS, clusters=4, top_k=4), "take top_k below 4 and above 0, or clusters=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_said_in_a_line(pipeline, call, wanted):
    with pytest.raises(UserError) as caught:
        call(pipeline)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_level_that_training_never_showed(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.transformer, "min_level", 0.8)
    with pytest.raises(UserError, match=r"fidelity=0\.7 is a level .* take 0\.8 to 1"):
        pipeline.generate(PROMPTS, fidelity=0.7)
    assert pipeline.generate(PROMPTS[:1], n=1, fidelity=0.8)
    untold = Transformer(**pipeline.settings["transformer"], min_level=0.8, level_token=False)
    assert untold.least_level == 0


def test_bf16_is_near(pipeline):
    """Of its pixels 43 to 68 % are the same, by the seed; of another image's 1 to 2 %."""
    exact, near = (pixels(pipeline.generate(PROMPTS, n=4, precision=kind)) for kind in ("fp32", "bf16"))
    assert (exact == near).mean() > 0.3
    assert (exact == pixels(pipeline.generate(PROMPTS, n=4, seed=1))).mean() < 0.05


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
    transformer = Transformer(**pipeline.settings["transformer"], gft=True)
    parts = (pipeline.vqgan, transformer, pipeline.clip, pipeline.statistics, pipeline.sampling, pipeline.settings)
    told = ClipGen(*parts)
    for wrong, says in (({"guidance_scale": 0.5}, "below what"), ({"guidance_schedule": "power_cosine"}, "two passes")):
        with pytest.raises(UserError, match=says):
            told.generate(PROMPTS[:1], **wrong)
        assert told.generate(PROMPTS[:1], n=1, negative="a ring", **wrong)  # which takes two passes
    assert len(told.generate_best(PROMPTS[:1], 3, 2, "self")) == 2


@pytest.mark.slow
def test_compiled_pictures_are_the_same(pipeline):
    asked = [{"seed": 1}, {"seed": 2, "guidance_scale": 1.0}, {"seed": 3, "batch_size": 5}]
    for how in asked:
        assert same(*(pixels(pipeline.generate(PROMPTS, n=3, compile=on, **how)) for on in (False, True)))
    assert len(pipeline._fixed) == 1, "what no whole batch is left for is drawn as one; other settings' are let go"


def test_compiling_without_a_compiler(pipeline, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"^compile=true: there is no C.. compiler no-such-compiler here; install g"):
        pipeline.generate(PROMPTS[:1], compile=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_changed_weight_is_sampled_with(pipeline, precision):
    transformer = Transformer(**pipeline.settings["transformer"])
    transformer.load_state_dict(pipeline.transformer.state_dict())
    parts = (pipeline.vqgan, transformer, pipeline.clip, pipeline.statistics, pipeline.sampling, pipeline.settings)
    own = ClipGen(*parts)
    before = pixels(own.generate(PROMPTS[:1], precision=precision))
    assert np.array_equal(pixels(own.generate(PROMPTS[:1], precision=precision)), before)
    with torch.no_grad():
        transformer.head.weight.neg_()
    assert not np.array_equal(pixels(own.generate(PROMPTS[:1], precision=precision)), before)


def test_a_model_of_before_gets_the_new_settings(pipeline):
    assert {"min_p", "guidance_schedule", "precision", "clusters", "prefix_boost", "compile"} <= set(pipeline.sampling)


def test_clusters_are_counted_by_top_k(pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr("clipgen.generator.sample", lambda *a, **o: asked.append(o["cluster_V"]) or sample(*a, **o))
    few, plain = ({"clusters": 3, "top_k": 2}, {"top_k": 2})
    made, other = (pixels(pipeline.generate(PROMPTS, n=2, **options)) for options in (few, plain))
    assert not np.array_equal(made, other) and asked[-1] is None
    assert torch.equal(asked[0], clusters(pipeline.vqgan.quantizer.codes_KD, 3))
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[1:], n=2, **few)), made[2:])  # whatever its batch mates


def test_a_boost_turns_to_the_prompt(pipeline):
    plain, boosted = (pixels(pipeline.generate(PROMPTS, n=2, prefix_boost=boost)) for boost in (0.0, 2.0))
    assert not np.array_equal(plain, boosted)
    assert np.array_equal(pixels(pipeline.generate(PROMPTS[1:], n=2, prefix_boost=2.0)), boosted[2:])
