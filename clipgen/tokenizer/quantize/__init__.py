"""Quantizers behind one interface, each by its name in `tokenizer.quantizer`."""

from collections.abc import Sequence

from clipgen.tokenizer.quantize.base import Quantized, Quantizer
from clipgen.tokenizer.quantize.finite_scalar import FiniteScalar
from clipgen.tokenizer.quantize.gumbel import Gumbel
from clipgen.tokenizer.quantize.moving_average import MovingAverage
from clipgen.tokenizer.quantize.nearest import NearestCode
from clipgen.tokenizer.quantize.sim import SimVQ

__all__ = ["FiniteScalar", "Gumbel", "MovingAverage", "NearestCode", "Quantized", "Quantizer", "SimVQ", "quantizer"]


def quantizer(
    name: str,
    channels: int,
    codebook_size: int,
    code_dim: int,
    commitment: float = 0.25,
    unit_codes: bool = True,
    legacy: bool = False,
    decay: float = 0.99,
    kl_weight: float = 5e-4,
    levels: Sequence[int] = (),
) -> Quantizer:
    """`nearest`, `moving_average`, `simvq`, `gumbel` or `fsq`; each takes of the rest what it has."""
    match name:
        case "nearest":
            return NearestCode(channels, codebook_size, code_dim, commitment, unit_codes, legacy)
        case "moving_average":
            return MovingAverage(channels, codebook_size, code_dim, commitment, unit_codes, decay)
        case "simvq":
            return SimVQ(channels, codebook_size, code_dim, commitment)
        case "gumbel":
            return Gumbel(channels, codebook_size, code_dim, kl_weight)
        case "fsq":
            return FiniteScalar(channels, levels)
    raise ValueError(f"quantizer {name!r} is none of nearest, moving_average, simvq, gumbel, fsq")
