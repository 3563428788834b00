"""Settings of sampling, and those that need something else."""

import pytest

from clipgen.check.sampling import check_sampling
from clipgen.errors import UserError


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sampling.fidelity=2", "sampling.fidelity=2 0 to 1"),
        ("sampling.top_p=-1", "sampling.top_p=-1 0 to 1"),
        ("sampling.batch_size=0", "sampling.batch_size=0 at least 1"),
        ("sampling.temperature=-1", "sampling.temperature=-1 0 to 100"),
        ("sampling.guidance_scale=-2", "sampling.guidance_scale=-2 0 to 100"),
        ("sampling.top_k=-1", "sampling.top_k=-1 at least 0"),
        ("bank=-1", "bank=-1 at least 0"),
        ("sampling.bridge=knn bank=0", "sampling.bridge=knn bank=10000"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(refuses, words, says):
    refuses(words, says)


def test_more_codes_to_draw_from_than_there_are(config):
    cfg = config("sampling.top_k=500")
    check_sampling(cfg.sampling, cfg.bank, 512)
    with pytest.raises(UserError, match=r"sampling\.top_k=500 is more than the 128 codes .* take sampling\.top_k=0"):
        check_sampling(cfg.sampling, cfg.bank, 128)
