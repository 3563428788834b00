"""The VQGAN of HFAiLab's clip-gen under the names of taming-transformers, whose networks it has.

Its blocks are numbered through, the 1×1 convolutions around the codes are inside, and its attention is torch's.

C channels
"""

import re
from collections.abc import Mapping

from torch import Tensor

MARK = "encoder.final.3.weight"  # a name that no checkpoint of taming has
IMAGE_SIZE = 256  # pixels, fixed in its code
IN_A_BLOCK = {
    "block.0": "norm1", "block.2": "conv1", "block.3": "norm2", "block.6": "conv2", "shortcut": "nin_shortcut",
}  # fmt: skip
AT_THE_ENDS = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.final.0": "encoder.norm_out",
    "encoder.final.2": "encoder.conv_out",
    "encoder.final.3": "quant_conv",
    "decoder.quant_conv_in": "post_quant_conv",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.final.0": "decoder.norm_out",
    "decoder.final.2": "decoder.conv_out",
    "quantizer.embedding": "quantize.embedding",
}


def names_of_taming(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the discriminator's, in taming's names; what is unknown keeps its own."""
    names = dict(AT_THE_ENDS)
    for half in ("encoder", "decoder"):
        names |= {
            f"{half}.mid.{number}": f"{half}.mid.{name}" for number, name in enumerate(("block_1", "attn_1", "block_2"))
        }
    names |= _levels(weights, "encoder.down", "downsample") | _levels(weights, "decoder.up", "upsample")
    renamed = {}
    for name, value in weights.items():
        if name.startswith("discriminator."):
            continue
        stem = next((stem for stem in names if name.startswith(stem + ".")), None)
        inner = name.removeprefix(f"{stem}.")
        if stem is None:
            renamed[name] = value
        elif inner.startswith("attn.in_proj_"):  # (3C, C) or (3C)
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{names[stem]}.{letter}.{inner.removeprefix('attn.in_proj_')}"] = _as_convolution(part)
        elif inner.startswith("attn.out_proj."):
            renamed[f"{names[stem]}.proj_out.{inner.removeprefix('attn.out_proj.')}"] = _as_convolution(value)
        else:
            layer, _, parameter = inner.rpartition(".")
            renamed[".".join(filter(None, (names[stem], IN_A_BLOCK.get(layer, layer), parameter)))] = value
    return renamed


def _as_convolution(value: Tensor) -> Tensor:
    return value[:, :, None, None] if value.ndim == 2 else value


def _levels(weights: Mapping[str, Tensor], where: str, resample: str) -> dict[str, str]:
    """`where.5` → taming's `where.LEVEL.block.NUMBER`: a level ends where the maps change their size."""
    numbers = sorted({int(name.split(".")[2]) for name in weights if re.match(rf"{where}\.\d+\.", name)})
    steps = {number for number in numbers if f"{where}.{number}.conv.weight" in weights}
    upwards = where == "decoder.up"  # there level 0 comes last
    level, block, names = len(steps) if upwards else 0, -1, {}
    for number in numbers:
        if number in steps:
            names[f"{where}.{number}"] = f"{where}.{level}.{resample}"
            level, block = level + (-1 if upwards else 1), -1
        elif f"{where}.{number}.norm.weight" in weights:
            names[f"{where}.{number}"] = f"{where}.{level}.attn.{block}"
        else:
            block += 1
            names[f"{where}.{number}"] = f"{where}.{level}.block.{block}"
    return names
