"""The settings of sampling that a model is stored with."""

from clipgen.config import Sampling
from clipgen.errors import UserError

LEAST = {"top_k": 0, "clusters": 0, "batch_size": 1}


def check_sampling(sampling: Sampling, bank: int, codebook_size: int | None = None) -> None:
    """The defaults that a model is stored with; a UserError names the key and the mend.

    `codebook_size` is that of the tokens, where it is known already.
    """
    from clipgen.transformer.bridges import parse  # torch is loaded with it
    from clipgen.transformer.sampling import CHOICES, RANGES, check_clusters

    for name, (least, most) in RANGES.items():
        if not least <= (value := getattr(sampling, name)) <= most:
            raise UserError(f"sampling.{name}={value:g} is out of range; take a value from {least} to {most}")
    for name, choices in CHOICES.items():
        if (value := getattr(sampling, name)) not in choices:
            raise UserError(f"sampling.{name}={value} is unknown; take {' or '.join(choices)}")
    for name, least in LEAST.items():
        if (value := getattr(sampling, name)) < least:
            raise UserError(f"sampling.{name}={value}; take at least {least}")
    if codebook_size is not None and sampling.top_k > codebook_size:
        raise UserError(
            f"sampling.top_k={sampling.top_k} is more than the {codebook_size} codes of the tokenizer; take "
            f"sampling.top_k=0, which is all of them, or {codebook_size} at most"
        )
    check_clusters(sampling.clusters, sampling.top_k, codebook_size, "sampling.")
    check_bank(bank)
    if parse(sampling.bridge)[1] and not bank:
        raise UserError(f"sampling.bridge={sampling.bridge} needs a bank of image embeddings; take bank=10000")


def check_bank(bank: int) -> None:
    """UserError for a negative number of embeddings."""
    if bank < 0:
        raise UserError(f"bank={bank}; take at least 0")
