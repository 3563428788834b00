"""A config from words as on the command line, and what is said of one that cannot be."""

from collections.abc import Callable

import pytest
from omegaconf import OmegaConf

from clipgen.check import check
from clipgen.config import Config
from clipgen.errors import UserError


@pytest.fixture(scope="session")
def config() -> Callable[[str], Config]:
    def config(words: str) -> Config:
        return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(words.split()))

    return config


@pytest.fixture(scope="session")
def refuses(config) -> Callable[[str, str], None]:
    """That a config of such words is refused in one line which has all words of `says`."""

    def refuses(words: str, says: str) -> None:
        with pytest.raises(UserError) as raised:
            check(config(words))
        line = str(raised.value)
        assert "\n" not in line
        for word in says.split():
            assert word in line, line

    return refuses
