"""What no type can hold is refused in one line that names the key, the value and the mend."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipgen.check import check
from clipgen.check.sampling import check_sampling
from clipgen.config import Config, complete
from clipgen.errors import UserError

PAPER = (
    "transformer.style=gpt2 transformer.n_prefix=1 transformer.train.min_level=1 transformer.cond_drop_prob=0 "
    "sampling.guidance_scale=1"
)


def config(*words: str) -> Config:
    return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(list(words)))


@pytest.mark.parametrize(
    "words, says",
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
        ("tokenizer.codebook_size=1", "tokenizer.codebook_size=1 2"),
        ("tokenizer.codebook_size=0", "tokenizer.codebook_size=0 2"),
        ("tokenizer.codebook_size=-5", "tokenizer.codebook_size=-5 2"),
        ("tokenizer.channels=48", "tokenizer.channels=48 32"),
        ("transformer.width=100 transformer.heads=3", "transformer.width=100 transformer.heads=3 heads=1"),
        ("transformer.width=192 transformer.heads=32", "transformer.width=192 transformer.heads=32 heads=3"),
        ("transformer.cond_drop_prob=1.5", "transformer.cond_drop_prob=1.5 0 to 1"),
        ("transformer.train.min_level=-0.1", "transformer.train.min_level=-0.1 0 to 1"),
        ("sampling.fidelity=2", "sampling.fidelity=2 0 to 1"),
        ("sampling.top_p=-1", "sampling.top_p=-1 0 to 1"),
        ("tokenizer.train.steps=0", "tokenizer.train.steps=0 at least 1"),
        ("transformer.train.steps=-1", "transformer.train.steps=-1 at least 1"),
        ("tokenizer.train.batch_size=0", "tokenizer.train.batch_size=0 at least 1"),
        ("transformer.train.batch_size=0", "transformer.train.batch_size=0 at least 1"),
        ("encode.batch_size=0", "encode.batch_size=0 at least 1"),
        ("sampling.batch_size=0", "sampling.batch_size=0 at least 1"),
        ("tokenizer.image_size=0 tokenizer.downsample=4", "tokenizer.image_size=0"),
        ("world=shapes tokenizer.image_size=[32,64]", "world=shapes tokenizer.image_size=[32, 64] take one number"),
        ("tokenizer.train.clip_norm=-1", "tokenizer.train.clip_norm=-1"),
        ("tokenizer.image_size=large", "tokenizer.image_size=large [height,width]"),
        ("tokenizer.image_size=[32,32,3]", "tokenizer.image_size=[32, 32, 3] [height,width]"),
        ("tokenizer.image_size=[36,64] tokenizer.downsample=8", "tokenizer.image_size=[36, 64] take [32, 64]"),
        ("tokenizer.image_size=-32", "tokenizer.image_size=-32"),
        ("tokenizer.downsample=0", "tokenizer.downsample=0"),
        ("tokenizer.channels=0", "tokenizer.channels=0"),
        ("tokenizer.channels=32 tokenizer.norm_groups=5", "tokenizer.norm_groups=5"),
        ("tokenizer.norm_groups=0", "tokenizer.norm_groups=0"),
        ("tokenizer.res_blocks=0", "tokenizer.res_blocks=0"),
        ("tokenizer.code_dim=0", "tokenizer.code_dim=0"),
        ("tokenizer.z_channels=0", "tokenizer.z_channels=0"),
        ("tokenizer.train.usage_window=0", "tokenizer.train.usage_window=0"),
        ("tokenizer.quantizer=newest", "tokenizer.quantizer=newest moving_average"),
        ("tokenizer.quantizer=fsq", "tokenizer.levels=[] 3 or more"),
        ("tokenizer.quantizer=fsq tokenizer.levels=[8,2]", "tokenizer.levels=[8, 2] 3 or more"),
        ("tokenizer.quantizer=fsq tokenizer.levels=[8,5] tokenizer.codebook_size=64", "40 codes codebook_size=40"),
        (
            "tokenizer.quantizer=gumbel tokenizer.train.perturb_share=0.1",
            "tokenizer.train.perturb_share=0.1 quantizer=nearest",
        ),
        (
            "tokenizer.train.batch_size=8 tokenizer.train.accumulate=3",
            "tokenizer.train.batch_size=8 tokenizer.train.accumulate=3 multiple of 3",
        ),
        ("tokenizer.train.batch_size=1 tokenizer.train.gan_norm=batch", "tokenizer.train.gan_norm=batch gan_norm="),
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
        ("trainer.devices=0", "trainer.devices=0 at least 1"),
        ("transformer.width=0", "transformer.width=0"),
        ("transformer.depth=0", "transformer.depth=0"),
        ("transformer.heads=0 transformer.width=64", "transformer.heads=0"),
        ("transformer.n_prefix=0", "transformer.n_prefix=0"),
        ("transformer.dropout=1.5", "transformer.dropout=1.5"),
        (
            "transformer.cond_drop_prob=0",
            "sampling.guidance_scale=3 transformer.cond_drop_prob=0 sampling.guidance_scale=1",
        ),
        ("transformer.train.min_level=1", "sampling.fidelity=0.9 train.min_level=1 take sampling.fidelity=1"),
        ("transformer.style=gpt3", "transformer.style=gpt3 modern gpt2"),
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
        ("transformer.train.optimizer=sgd", "transformer.train.optimizer=sgd muon adamw"),
        ("transformer.train.schedule=step", "transformer.train.schedule=step linear cosine"),
        ("transformer.train.lr=0", "transformer.train.lr=0 more than 0"),
        (
            "transformer.train.batch_size=8 transformer.train.accumulate=3",
            "transformer.train.batch_size=8 transformer.train.accumulate=3 multiple of 3",
        ),
        ("transformer.train.recon.estimator=soft", "transformer.train.recon.estimator=soft gumbel"),
        ("transformer.train.recon.every=0", "transformer.train.recon.every=0"),
        ("transformer.train.recon.share=2", "transformer.train.recon.share=2"),
        ("transformer.train.aux_weight=-1", "transformer.train.aux_weight=-1"),
        ("trainer.strategy=deepspeed", "trainer.strategy=deepspeed ddp fsdp"),
        ("trainer.strategy=fsdp", "trainer.strategy=fsdp trainer.devices=2"),
        ("trainer.strategy=fsdp trainer.devices=2 trainer.compile=true", "trainer.compile=false"),
        ("trainer.strategy=fsdp trainer.devices=2 transformer.train.ema=0.9", "transformer.train.ema=0"),
        (
            "trainer.strategy=fsdp trainer.devices=2 trainer.precision=16-mixed",
            "trainer.strategy=fsdp trainer.precision=bf16-mixed",
        ),
        ("clip.train.logit_scale=0", "clip.train.logit_scale=0 above 0"),
        ("clip.train.logit_scale=101", "clip.train.logit_scale=101 up to 100"),
        ("sampling.temperature=-1", "sampling.temperature=-1 0 to 100"),
        ("sampling.guidance_scale=-2", "sampling.guidance_scale=-2 0 to 100"),
        ("sampling.top_k=-1", "sampling.top_k=-1 at least 0"),
        ("bank=-1", "bank=-1 at least 0"),
        ("sampling.bridge=knn bank=0", "sampling.bridge=knn bank=10000"),
        (
            "transformer.train.steps=40",
            "transformer.train.warmup=50 transformer.train.steps=40 take transformer.train.warmup=4",
        ),
        (
            "tokenizer.train.steps=50",
            "tokenizer.train.warmup=50 tokenizer.train.steps=50 take tokenizer.train.warmup=5",
        ),
        ("trainer.val_every=0", "trainer.val_every=0"),
        ("trainer.grid_every=0", "trainer.grid_every=0"),
        ("trainer.num_workers=-1", "trainer.num_workers=-1"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(words, says):
    with pytest.raises(UserError) as raised:
        check(config(*words.split()))
    line = str(raised.value)
    assert "\n" not in line
    for word in says.split():
        assert word in line, line


@pytest.mark.parametrize(
    "words",
    [
        "",
        PAPER,
        "transformer.train.min_level=1 transformer.level_token=false",
        "tokenizer.train.gan_norm=batch",
        "trainer.strategy=fsdp trainer.devices=2 transformer.train.ema=0",
        "tokenizer.image_size=256 tokenizer.downsample=16 tokenizer.channel_multipliers=[1,1,2,2,4]",
        "tokenizer.image_size=48 tokenizer.downsample=8",
        "tokenizer.codebook_size=65536",
        "tokenizer.codebook_size=2",
        "transformer.width=64 transformer.heads=16",
        "transformer.cond_drop_prob=0 sampling.guidance_scale=1 sampling.top_p=1 sampling.fidelity=0.9",
        "tokenizer.train.steps=1 tokenizer.train.warmup=1 trainer.num_workers=0",
        "clip.train.logit_scale=100 sampling.top_k=500",
        "tokenizer.quantizer=gumbel tokenizer.kl_weight=1 tokenizer.train.gumbel_temperature=[1,0.5]",
        "tokenizer.quantizer=moving_average tokenizer.decay=0.9",
        "tokenizer.quantizer=simvq tokenizer.unit_codes=false tokenizer.train.restart_dead=false",
        "tokenizer.quantizer=gumbel tokenizer.legacy=true tokenizer.ckpt=its_network_counts.ckpt",
    ],
)
def test_what_is_possible_passes(words):
    check(config(*words.split()))


def test_more_codes_to_draw_from_than_there_are():
    cfg = config("sampling.top_k=500")
    check_sampling(cfg.sampling, cfg.bank, 512)
    with pytest.raises(UserError, match=r"sampling\.top_k=500 is more than the 128 codes .* take sampling\.top_k=0"):
        check_sampling(cfg.sampling, cfg.bank, 128)


def test_an_unknown_key_and_a_wrong_type_are_errors():
    for words in ("tokenizer.sizes=3", "tokenizer.downsample=large", "seed=null", "trainer.loggers=csv"):
        with pytest.raises(OmegaConfBaseException):
            config(words)


def test_a_completed_config_is_resolved_and_still_open_to_choices():
    cfg = complete(config("name=birds", "clip.model=m", "tokenizer.image_size=32"))
    assert cfg.shards == "outputs/birds/shards" and cfg.tokenizer.downsample is None
    cfg.tokenizer.downsample = 4
    with pytest.raises(OmegaConfBaseException):
        cfg.tokenizer.down = 4


def test_a_broken_interpolation_is_one_line():
    with pytest.raises(UserError, match="nowhere") as raised:
        complete(config("out=${nowhere}"))
    assert "\n" not in str(raised.value)
