"""What is out of its range is refused by its key, with the range."""

import pytest


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tokenizer.codebook_size=1", "tokenizer.codebook_size=1 2"),
        ("tokenizer.codebook_size=0", "tokenizer.codebook_size=0 2"),
        ("tokenizer.codebook_size=-5", "tokenizer.codebook_size=-5 2"),
        ("transformer.cond_drop_prob=1.5", "transformer.cond_drop_prob=1.5 0 to 1"),
        ("transformer.train.min_level=-0.1", "transformer.train.min_level=-0.1 0 to 1"),
        ("tokenizer.train.steps=0", "tokenizer.train.steps=0 at least 1"),
        ("transformer.train.steps=-1", "transformer.train.steps=-1 at least 1"),
        ("tokenizer.train.batch_size=0", "tokenizer.train.batch_size=0 at least 1"),
        ("transformer.train.batch_size=0", "transformer.train.batch_size=0 at least 1"),
        ("encode.batch_size=0", "encode.batch_size=0 at least 1"),
        ("tokenizer.train.clip_norm=-1", "tokenizer.train.clip_norm=-1"),
        ("tokenizer.downsample=0", "tokenizer.downsample=0"),
        ("tokenizer.channels=0", "tokenizer.channels=0"),
        ("tokenizer.norm_groups=0", "tokenizer.norm_groups=0"),
        ("tokenizer.res_blocks=0", "tokenizer.res_blocks=0"),
        ("tokenizer.code_dim=0", "tokenizer.code_dim=0"),
        ("tokenizer.z_channels=0", "tokenizer.z_channels=0"),
        ("tokenizer.train.usage_window=0", "tokenizer.train.usage_window=0"),
        ("tokenizer.quantizer=newest", "tokenizer.quantizer=newest moving_average"),
        ("trainer.devices=0", "trainer.devices=0 at least 1"),
        ("transformer.width=0", "transformer.width=0"),
        ("transformer.depth=0", "transformer.depth=0"),
        ("transformer.heads=0 transformer.width=64", "transformer.heads=0"),
        ("transformer.n_prefix=0", "transformer.n_prefix=0"),
        ("transformer.dropout=1.5", "transformer.dropout=1.5"),
        ("transformer.style=gpt3", "transformer.style=gpt3 modern gpt2"),
        ("transformer.train.optimizer=sgd", "transformer.train.optimizer=sgd muon adamw"),
        ("transformer.train.schedule=step", "transformer.train.schedule=step linear cosine"),
        ("transformer.train.recon.estimator=soft", "transformer.train.recon.estimator=soft gumbel"),
        ("transformer.train.recon.every=0", "transformer.train.recon.every=0"),
        ("transformer.train.recon.share=2", "transformer.train.recon.share=2"),
        ("transformer.train.aux_weight=-1", "transformer.train.aux_weight=-1"),
        ("trainer.strategy=deepspeed", "trainer.strategy=deepspeed ddp fsdp"),
        ("trainer.val_every=0", "trainer.val_every=0"),
        ("trainer.grid_every=0", "trainer.grid_every=0"),
        ("trainer.num_workers=-1", "trainer.num_workers=-1"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)
