"""The published Transformer of HFAiLab's clip-gen as ours: what its weights say of the network, and our names.

Its blocks are torch's TransformerEncoderLayer with the norm first, its input the projected embedding and 255 tokens.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipgen.transformer.model import Transformer

MARK = "cond_proj.weight"
HEAD_SIZE = 64  # of both published sizes, 1024 / 16 and 1280 / 20; no weight tells it
NAMES = {
    r"tok_emb\.weight": "embed.weight",
    r"cond_proj\.(weight|bias)": r"conditioner.project.\1",
    r"(norm|head)\.(weight|bias)": r"\1.\2",
    r"blocks\.(\d+)\.encoder\.self_attn\.in_proj_(weight|bias)": r"blocks.\1.attention.qkv.\2",
    r"blocks\.(\d+)\.encoder\.self_attn\.out_proj\.(weight|bias)": r"blocks.\1.attention.out.\2",
    r"blocks\.(\d+)\.encoder\.linear1\.(weight|bias)": r"blocks.\1.mlp.up.\2",
    r"blocks\.(\d+)\.encoder\.linear2\.(weight|bias)": r"blocks.\1.mlp.down.\2",
    r"blocks\.(\d+)\.encoder\.norm1\.(weight|bias)": r"blocks.\1.attention_norm.\2",
    r"blocks\.(\d+)\.encoder\.norm2\.(weight|bias)": r"blocks.\1.mlp_norm.\2",
}


def published_weights(checkpoint: Any) -> dict[str, Tensor] | None:
    """The weights of a published checkpoint, which lie in `model` or are all there is, or None when it is none."""
    if isinstance(checkpoint, Mapping):
        for state in (checkpoint.get("model"), checkpoint):
            if isinstance(state, Mapping) and MARK in state:
                return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return None


def from_hfai(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(Settings of `Transformer(**settings)`, its state); ValueError when weights are missing, unknown or misshapen."""
    state = {}
    for name, value in weights.items():
        if re.fullmatch(r"blocks\.\d+\.mask", name):
            continue
        if name == "pos_emb":
            state["place_LD"] = value[0].float()
            continue
        pattern = next((pattern for pattern in NAMES if re.fullmatch(pattern, name)), None)
        if pattern is None:
            raise ValueError(f"has an unknown {name}")
        state[re.sub(pattern, NAMES[pattern], name)] = value.float()
    for needed in ("place_LD", "embed.weight", "conditioner.project.weight"):
        if needed not in state:
            raise ValueError(f"lacks {needed} under whatever name")
    length, width = state["place_LD"].shape
    embed_dim = state["conditioner.project.weight"].shape[1]
    if math.isqrt(length) ** 2 != length:
        raise ValueError(f"has {length} positions, which make no square of tokens")
    settings = {
        "grid": [math.isqrt(length)] * 2,
        "codebook_size": len(state["embed.weight"]),
        "embed_dim": embed_dim,
        "width": width,
        "depth": 1 + max((int(n) for name in state for n in re.findall(r"^blocks\.(\d+)\.", name)), default=-1),
        "heads": max(1, width // HEAD_SIZE),
        "n_prefix": 1,
        "cond_drop_prob": 0.0,
        "dropout": 0.1,
        "style": "gpt2",
        "centred": False,
    }
    state["conditioner.project.weight"] = state["conditioner.project.weight"] / math.sqrt(embed_dim)  # as it is scaled
    state["conditioner.null_PD"] = torch.zeros(1, width)  # it knows no null
    with torch.device("meta"):
        wanted = Transformer(**settings).state_dict()
    for name in wanted.keys() | state.keys():
        if name not in state or name not in wanted or wanted[name].shape != state[name].shape:
            found, fit = (tuple(each[name].shape) if name in each else "none" for each in (state, wanted))
            raise ValueError(f"has {found} where {name} of {fit} is needed")
    return settings, state
