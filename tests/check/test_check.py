"""What is left beside the parts: the world and the CLIP; the defaults pass."""

import pytest

from clipgen.check import check


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("world=shapes tokenizer.image_size=[32,64]", "world=shapes tokenizer.image_size=[32, 64] take one number"),
        ("prompts=[a,'']", "prompts=['a', ''] leave it out"),
        ("clip.train.logit_scale=0", "clip.train.logit_scale=0 above 0"),
        ("clip.train.logit_scale=101", "clip.train.logit_scale=101 up to 100"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "clip.train.logit_scale=100 sampling.top_k=500",
    ],
)
def test_what_is_possible_passes(config, words):
    check(config(words))
