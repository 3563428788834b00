"""Networks that cannot be built, and settings that another quantizer would need."""

import pytest

from clipgen.check import check


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tokenizer.image_size=36 tokenizer.downsample=8", "tokenizer.image_size=36 tokenizer.downsample=8 take 32"),
        ("tokenizer.image_size=9 tokenizer.downsample=16", "tokenizer.image_size=9 tokenizer.downsample=16 take 16"),
        (
            "tokenizer.downsample=4 tokenizer.channel_multipliers=[1,2]",
            "tokenizer.channel_multipliers=[1, 2] by 2 tokenizer.downsample=4 give 3 multipliers",
        ),
        (
            "tokenizer.downsample=16 tokenizer.channel_multipliers=[1,1,2]",
            "tokenizer.channel_multipliers=[1, 1, 2] by 4 tokenizer.downsample=16 give 5 multipliers",
        ),
        ("tokenizer.codebook_size=65537", "tokenizer.codebook_size=65537 uint16 65536"),
        ("tokenizer.channels=48", "tokenizer.channels=48 32"),
        ("tokenizer.image_size=0 tokenizer.downsample=4", "tokenizer.image_size=0"),
        ("tokenizer.image_size=large", "tokenizer.image_size=large [height,width]"),
        ("tokenizer.image_size=[32,32,3]", "tokenizer.image_size=[32, 32, 3] [height,width]"),
        ("tokenizer.image_size=[36,64] tokenizer.downsample=8", "tokenizer.image_size=[36, 64] take [32, 64]"),
        ("tokenizer.image_size=-32", "tokenizer.image_size=-32"),
        ("tokenizer.channels=32 tokenizer.norm_groups=5", "tokenizer.norm_groups=5"),
        ("tokenizer.quantizer=fsq", "tokenizer.levels=[] 3 or more"),
        ("tokenizer.quantizer=fsq tokenizer.levels=[8,2]", "tokenizer.levels=[8, 2] 3 or more"),
        ("tokenizer.quantizer=fsq tokenizer.levels=[8,5] tokenizer.codebook_size=64", "40 codes codebook_size=40"),
        (
            "tokenizer.quantizer=gumbel tokenizer.train.perturb_share=0.1",
            "tokenizer.train.perturb_share=0.1 quantizer=nearest",
        ),
        ("tokenizer.quantizer=simvq tokenizer.legacy=true", "tokenizer.legacy=True quantizer=simvq take legacy=False"),
        ("tokenizer.quantizer=moving_average tokenizer.legacy=true", "tokenizer.legacy=True quantizer=nearest"),
        ("tokenizer.decay=0.9", "tokenizer.decay=0.9 quantizer=nearest take decay=0.99 quantizer=moving_average"),
        ("tokenizer.kl_weight=1", "tokenizer.kl_weight=1 take kl_weight=0.0005 quantizer=gumbel"),
        ("tokenizer.levels=[8,5]", "tokenizer.levels=[8, 5] take levels=[] quantizer=fsq"),
        (
            "tokenizer.quantizer=gumbel tokenizer.train.continuous_steps=100",
            "tokenizer.train.continuous_steps=100 quantizer=gumbel take continuous_steps=0 quantizer=nearest",
        ),
        (
            "tokenizer.train.gumbel_temperature=[1,0.5]",
            "tokenizer.train.gumbel_temperature=[1.0, 0.5] no effect quantizer=gumbel",
        ),
        (
            "tokenizer.quantizer=gumbel tokenizer.train.gumbel_temperature=[1,0]",
            "tokenizer.train.gumbel_temperature=[1.0, 0.0] above 0",
        ),
        (
            "tokenizer.quantizer=gumbel tokenizer.train.gumbel_temperature=[1]",
            "tokenizer.train.gumbel_temperature=[1.0] first and last,",
        ),
        ("tokenizer.network=plain tokenizer.train.checkpointing=true", "checkpointing=true network=plain"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)


@pytest.mark.parametrize(
    "words",
    [
        "tokenizer.image_size=256 tokenizer.downsample=16 tokenizer.channel_multipliers=[1,1,2,2,4]",
        "tokenizer.image_size=48 tokenizer.downsample=8",
        "tokenizer.codebook_size=65536",
        "tokenizer.codebook_size=2",
        "tokenizer.quantizer=gumbel tokenizer.kl_weight=1 tokenizer.train.gumbel_temperature=[1,0.5]",
        "tokenizer.quantizer=moving_average tokenizer.decay=0.9",
        "tokenizer.quantizer=simvq tokenizer.unit_codes=false tokenizer.train.restart_dead=false",
        "tokenizer.quantizer=gumbel tokenizer.legacy=true tokenizer.ckpt=its_network_counts.ckpt",
    ],
)
def test_what_is_possible_passes(config, words):
    check(config(words))
