"""What the types of a config refuse, and a config that is complete."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipgen.config import Config, complete
from clipgen.errors import UserError


def config(*words: str) -> Config:
    return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(list(words)))


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
