"""What is left open is chosen from the images and the machine, and each choice says why."""

import itertools
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from clipgen.check import check
from clipgen.config import Config
from clipgen.defaults import Facts, choose, choose_image_size, heads_for
from clipgen.errors import UserError

MACHINES = [(False, 1), (False, 2), (False, 96), (True, 2), (True, 64)]
PRESETS = Path(__file__).resolve().parents[1] / "conf" / "tokenizer"
STAYS_OPEN = {  # or never chosen
    "images", "captions", "stage", "experiment", "world", "prep.caption", "prep.size", "prep.max_aspect",
    "prep.source_bytes_per_shard", "prep.near_duplicates", "encode.workers", "executor.tasks", "trainer.threads",
    "trainer.num_workers", "clip.made_by", "tokenizer.train.perceptual_weights", "tokenizer.train.perceptual_sha256",
    "clip.train.logit_scale", "direction",
}  # fmt: skip


def config(*words: str) -> Config:
    return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(["clip.model=m", *words]))


def flat(tree, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def values(cfg: Config) -> dict[str, object]:
    return flat(OmegaConf.to_container(cfg))


def open_keys(cfg: Config) -> set[str]:
    others = ".ckpt", ".ckpt_config", ".pretrained"
    return {
        key
        for key, value in values(cfg).items()
        if value is None and not key.endswith(others) and not key.startswith("compare.")
    }


@pytest.mark.parametrize("gpu, cores", MACHINES)
@pytest.mark.parametrize("n_images", [1, 60, 5_000, 60_000, 400_000, 2_000_000])
@pytest.mark.parametrize("side", [32, 64, 100, 128, 256, 4000])
def test_nothing_is_left_open_and_every_choice_is_possible(gpu, cores, n_images, side):
    cfg = config()
    choices = choose_image_size(cfg, side, gpu)
    before = open_keys(cfg)
    choices += choose(cfg, Facts(n_images, cfg.tokenizer.image_size, gpu, cores))
    assert open_keys(cfg) <= STAYS_OPEN | {"clip.captions"}
    check(cfg)
    assert cfg.tokenizer.image_size <= side
    grid = cfg.tokenizer.image_size // cfg.tokenizer.downsample
    assert grid * cfg.tokenizer.downsample == cfg.tokenizer.image_size and 4 <= grid <= 32
    assert cfg.tokenizer.channels % cfg.tokenizer.norm_groups == 0
    assert {choice.key for choice in choices} >= before - STAYS_OPEN - {"clip.captions"}


def test_each_choice_has_a_key_a_value_and_a_reason():
    cfg = config()
    choices = choose_image_size(cfg, 100, False) + choose(cfg, Facts(1234, 64, False, 2))
    chosen = values(cfg)
    for choice in choices:
        assert chosen[choice.key] == choice.value
        assert len(choice.reason) > 5 and "\n" not in choice.reason
    reasons = " ".join(choice.reason for choice in choices)
    assert "1,234 images" in reasons and "2 CPU cores" in reasons and "100 pixels" in reasons


OWN = {
    "tokenizer.image_size": 96, "tokenizer.downsample": 2, "tokenizer.codebook_size": 300, "tokenizer.channels": 96,
    "tokenizer.res_blocks": 3, "tokenizer.norm_groups": 6, "tokenizer.train.steps": 7, "tokenizer.train.batch_size": 3,
    "tokenizer.train.lr": 0.5, "transformer.width": 80, "transformer.depth": 3, "transformer.heads": 5,
    "transformer.dropout": 0.25, "transformer.train.batch_size": 9, "transformer.train.steps": 11,
    "trainer.val_every": 2, "trainer.grid_every": 5, "prep.workers": 13,
}  # fmt: skip


def test_a_clip_is_validated_by_its_own_steps():
    cfg = config("stage=clip", "clip.train.steps=80", "tokenizer.image_size=32")
    choices = choose(cfg, Facts(1000, 32, False, 2))
    assert cfg.trainer.val_every == cfg.trainer.grid_every == 10
    assert next(choice.reason for choice in choices if choice.key == "trainer.val_every") == "80 steps"


@pytest.mark.parametrize("gpu, cores", MACHINES)
def test_what_the_user_set_is_never_changed(gpu, cores):
    for count in (1, len(OWN)):
        for keys in itertools.islice(itertools.combinations(OWN, count), 40):
            cfg = config(*(f"{key}={OWN[key]}" for key in keys))
            choices = choose_image_size(cfg, 128, gpu) + choose(cfg, Facts(500, 128, gpu, cores))
            found = values(cfg)
            assert {key: found[key] for key in keys} == {key: OWN[key] for key in keys}
            assert not {choice.key for choice in choices} & set(keys)


def test_a_second_time_nothing_is_chosen():
    cfg = config()
    choose_image_size(cfg, 64, True)
    choose(cfg, Facts(500, 64, True, 4))
    assert choose_image_size(cfg, 64, True) == [] and choose(cfg, Facts(9_000_000, 64, False, 1)) == []


def test_multipliers_decide_the_downsampling():
    cfg = config("tokenizer.channel_multipliers=[1,2,2,2]", "tokenizer.image_size=64")
    choices = choose(cfg, Facts(500, 64, False, 2))
    assert cfg.tokenizer.downsample == 8
    assert next(c.reason for c in choices if c.key == "tokenizer.downsample") == "tokenizer.channel_multipliers"


@pytest.mark.parametrize(
    "side, gpu, size", [(32, True, 32), (63, True, 32), (130, True, 128), (5000, True, 256), (300, False, 64)]
)
def test_the_size_is_the_largest_that_images_and_machine_allow(side, gpu, size):
    cfg = config()
    choose_image_size(cfg, side, gpu)
    assert cfg.tokenizer.image_size == size


def test_the_size_that_was_packed_is_the_size_to_train_at():
    cfg = config("prep.size=48")
    (choice,) = choose_image_size(cfg, 5000, True)
    assert cfg.tokenizer.image_size == 48 and choice.reason == "prep.size"


def chosen_training(gpu: bool, preset: str = "auto") -> dict:
    own = OmegaConf.create({"tokenizer": OmegaConf.load(PRESETS / f"{preset}.yaml")})
    cfg = OmegaConf.merge(config(), own)
    choose_image_size(cfg, 500, gpu)
    choose(cfg, Facts(2_000_000, 256, gpu, 16))
    return OmegaConf.to_container(cfg.tokenizer.train)


def test_a_gpu_gets_the_adversary_and_the_average_of_the_modern_preset():
    modern = OmegaConf.load(PRESETS / "modern_f16_16384.yaml").train
    of_it = {key: value for key, value in modern.items() if key.startswith("gan_") or key in ("lecam", "ema")}
    assert len(of_it) == 8 and of_it.items() <= chosen_training(True).items()
    cfg = config("tokenizer.image_size=256")
    reasons = {choice.key: choice.reason for choice in choose(cfg, Facts(2_000_000, 256, True, 16))}
    assert all("tokenizer=modern_f16_16384" in reasons[f"tokenizer.train.{key}"] for key in of_it)
    assert chosen_training(False)["lecam"] == 0 and chosen_training(False)["gan_weight"] == 0.1


@pytest.mark.parametrize("preset", ["vqgan_f16_1024", "vqgan_f16_16384", "vqgan_f8_8192", "cogview_vqvae_f8_8192"])
def test_a_preset_after_a_paper_keeps_that_paper_s_adversary_on_a_gpu(preset):
    found = chosen_training(True, preset)
    assert found["gan_weight"] == 0 or found["lecam"] == found["gan_warmup"] == 0


def test_images_that_are_too_small_are_named():
    with pytest.raises(UserError, match=r"images=birds: the images are 20 pixels small, 32 is the least"):
        choose_image_size(config("images=birds"), 20, False)


def test_a_downsampling_without_multipliers_is_named():
    cfg = config("tokenizer.downsample=3", "tokenizer.image_size=33")
    with pytest.raises(UserError, match=r"tokenizer\.downsample=3 with tokenizer\.patch=1; take a downsample"):
        choose(cfg, Facts(500, 33, False, 2))


def test_more_images_and_a_gpu_mean_larger_networks():
    sizes = []
    for n_images, gpu in ((500, False), (500, True), (300_000, True), (3_000_000, True)):
        cfg = config("tokenizer.image_size=128")
        choose(cfg, Facts(n_images, 128, gpu, 8))
        sizes.append((cfg.transformer.width, cfg.transformer.depth))
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


@pytest.mark.parametrize(
    ("width", "heads"), [(64, 1), (96, 1), (148, 1), (192, 3), (200, 2), (240, 3), (66, 1), (1024, 16)]
)
def test_heads_are_of_64_where_they_can_be(width, heads):
    assert heads_for(width) == heads
