"""Whether bf16 gives the latents that float32 gives: near-ties between codes are what it may decide otherwise."""

from pathlib import Path

import torch

from clipgen.data.manifest import Manifest
from clipgen.data.transforms import to_model_range
from data_prep.crops import read_crops
from data_prep.encode import Encoders

TOKENS_AGREE = 0.995  # share of tokens that must stay the same
EMBEDDINGS_AGREE = 0.999  # least cosine between embeddings of the same picture


def agreement(shards: str | Path, exact: Encoders, fast: Encoders, pictures: int = 256) -> tuple[float, float]:
    """(share of equal tokens, least cosine of embeddings) of two ways to encode, over the first pictures."""
    images = Manifest.load(shards, "images")
    batch = next(read_crops(Path(shards), images.shards[:1], exact.image_size, 1, pictures, 1))
    image_BCHW = to_model_range(torch.from_numpy(batch.crops_NCHW3[:, 0]).to(exact.device))
    with torch.no_grad():
        same = (exact.tokens(image_BCHW) == fast.tokens(image_BCHW)).float().mean()
        cosine = (exact.image(image_BCHW) * fast.image(image_BCHW)).sum(-1).min()
    return float(same), float(cosine)


def holds(tokens: float, cosine: float) -> bool:
    """Whether these agreements are as good as this project asks for."""
    return tokens >= TOKENS_AGREE and cosine >= EMBEDDINGS_AGREE
