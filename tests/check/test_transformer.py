"""Settings of stage 2 that do not go together, and sampling that it is not trained for."""

import pytest

from clipgen.check import check

PAPER = (
    "transformer.style=gpt2 transformer.n_prefix=1 transformer.train.min_level=1 transformer.cond_drop_prob=0 "
    "sampling.guidance_scale=1"
)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("transformer.width=100 transformer.heads=3", "transformer.width=100 transformer.heads=3 heads=1"),
        ("transformer.width=200 transformer.heads=3", "transformer.width=200 transformer.heads=3 heads=2"),
        ("transformer.width=66 transformer.heads=3", "transformer.width=66 transformer.heads=3 a width that is a"),
        ("transformer.width=192 transformer.heads=32", "transformer.width=192 transformer.heads=32 heads=3"),
        (
            "transformer.cond_drop_prob=0",
            "sampling.guidance_scale=2 transformer.cond_drop_prob=0 sampling.guidance_scale=1",
        ),
        ("transformer.train.min_level=1", "sampling.fidelity=0.9 train.min_level=1 take sampling.fidelity=1"),
        ("transformer.style=gpt2", "transformer.n_prefix style=gpt2 take 1"),
        ("transformer.style=gpt2 transformer.n_prefix=1", "transformer.train.min_level style=gpt2"),
        (f"{PAPER} transformer.train.rar=true", "transformer.train.rar style=gpt2 false"),
        (f"{PAPER} transformer.gft=true", "transformer.gft style=gpt2 false"),
        (
            "transformer.gft=true sampling.guidance_schedule=power_cosine",
            "transformer.gft=true one scale sampling.guidance_schedule=power_cosine take constant",
        ),
        (
            "transformer.gft=true transformer.cond_drop_prob=0 sampling.guidance_scale=1",
            "transformer.gft=true transformer.cond_drop_prob=0.1",
        ),
        ("transformer.train.keep_random=true", "transformer.train.keep_random=true transformer.train.rar=true"),
        ("transformer.train.rar_anneal=[0.9,0.5]", "transformer.train.rar_anneal=[0.9, 0.5] [0.5,0.75]"),
        ("transformer.train.lr=0", "transformer.train.lr=0 more than 0"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)


@pytest.mark.parametrize(
    "words",
    [
        PAPER,
        "transformer.train.min_level=1 transformer.level_token=false",
        "transformer.width=64 transformer.heads=16",
        "transformer.cond_drop_prob=0 sampling.guidance_scale=1 sampling.top_p=1 sampling.fidelity=0.9",
    ],
)
def test_what_is_possible_passes(config, words):
    check(config(words))
