"""Trainings that devices cannot share, or that only warm up."""

import pytest

from clipgen.check import check


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "tokenizer.train.batch_size=8 tokenizer.train.accumulate=3",
            "tokenizer.train.batch_size=8 tokenizer.train.accumulate=3 multiple of 3",
        ),
        ("tokenizer.train.batch_size=1 tokenizer.train.gan_norm=batch", "tokenizer.train.gan_norm=batch gan_norm="),
        (
            "transformer.train.batch_size=8 transformer.train.accumulate=3",
            "transformer.train.batch_size=8 transformer.train.accumulate=3 multiple of 3",
        ),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp trainer.devices=2"),
        ("trainer.strategy=fsdp trainer.devices=2 trainer.compile=true", "trainer.compile=false"),
        ("trainer.strategy=fsdp trainer.devices=2 transformer.train.ema=0.9", "transformer.train.ema=0"),
        (
            "trainer.strategy=fsdp trainer.devices=2 trainer.precision=16-mixed",
            "trainer.strategy=fsdp trainer.precision=bf16-mixed",
        ),
        ("stage=paired trainer.precision=16-mixed", "trainer.precision=16-mixed optimizer=adamw"),
        ("trainer.threads=-1", "trainer.threads=-1 at least 1"),
        ("transformer.train.weight_decay=-1", "transformer.train.weight_decay=-1 at least 0"),
        (
            "transformer.train.steps=40",
            "transformer.train.warmup=50 transformer.train.steps=40 take transformer.train.warmup=4",
        ),
        (
            "tokenizer.train.steps=50",
            "tokenizer.train.warmup=50 tokenizer.train.steps=50 take tokenizer.train.warmup=5",
        ),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)


@pytest.mark.parametrize(
    "words",
    [
        "tokenizer.train.gan_norm=batch",
        "trainer.strategy=fsdp trainer.devices=2 transformer.train.ema=0",
        "tokenizer.train.steps=1 tokenizer.train.warmup=1 trainer.num_workers=0",
    ],
)
def test_what_is_possible_passes(config, words):
    check(config(words))
