"""Published tokenizers as ours: what their weights say of the network, and our names for them.

taming's VQModel and GumbelVQ (arXiv 2012.09841; the VQ-f8 of latent diffusion is the former) have the same networks as
ours. The VQGAN of HFAiLab's clip-gen has them too, and is first given taming's names.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipgen.errors import UserError
from clipgen.tokenizer import hfai
from clipgen.tokenizer.vqgan import VQGAN

State = Mapping[str, Tensor]

MOST_CODES = 65_536  # tokens are stored as uint16
PARAMS = "model.params."  # where taming's YAML has what the constructor takes
OUR_NAMES = {
    "quant_conv": "quantizer.project_in",
    "post_quant_conv": "quantizer.project_out",
    "quantize.embedding.weight": "quantizer.codebook",
    "quantize.embed.weight": "quantizer.codebook",
    "quantize.proj": "quantizer.logits",
}


class Imported(NamedTuple):
    settings: dict[str, Any]  # of `VQGAN(**settings)`
    state: dict[str, Tensor]


def published_weights(checkpoint: Any) -> dict[str, Tensor] | None:
    """The weights of a published checkpoint, or None when it is none that is known here.

    taming's and latent diffusion's lie in `state_dict`, HFAiLab's in `model`; converters keep nothing but the weights.
    """
    if not isinstance(checkpoint, Mapping):
        return None
    for state in (checkpoint.get("state_dict"), checkpoint.get("model"), checkpoint):
        if isinstance(state, Mapping) and ("quant_conv.weight" in state or hfai.MARK in state):
            return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return None


def needs_yaml(weights: State) -> bool:
    """Whether the size of the images is in a YAML beside the checkpoint, as with all but HFAiLab's."""
    return hfai.MARK not in weights


def from_taming(weights: State, config: Any, file: str, yaml: str) -> Imported:
    """`weights` with the YAML of their training; UserError when the two do not match, or do not fit clipgen."""
    weights = {name: value for name, value in weights.items() if not name.startswith("loss.")}
    shape = _Shape(weights, file)
    size, least = _get(config, "ddconfig.resolution", yaml), 2 ** (len(shape.multipliers) - 1)
    if not isinstance(size, int) or size < least or size % least:
        raise UserError(f"{yaml} has {PARAMS}ddconfig.resolution={size}; it must be a multiple of {least}")
    sides = [size >> level for level in range(len(shape.multipliers))]
    for key, found in {
        "n_embed": shape.codebook_size,
        "embed_dim": shape.code_dim,
        "ddconfig.ch": shape.channels,
        "ddconfig.ch_mult": shape.multipliers,
        "ddconfig.num_res_blocks": shape.res_blocks,
        "ddconfig.attn_resolutions": [sides[level] for level in shape.attention],
        "ddconfig.z_channels": shape.z_channels,
        "ddconfig.double_z": False,
    }.items():
        said = _get(config, key, yaml)
        if key == "ddconfig.attn_resolutions":  # in any order, and some are never reached
            said = [side for side in sides if isinstance(said, list) and side in said]
        if said != found:
            raise UserError(
                f"{yaml} does not match {file}: {PARAMS}{key}={said}, but the checkpoint has {found}; give the YAML "
                "that it was trained with as tokenizer.ckpt_config=FILE.yaml"
            )
    if (remap := _get(config, "remap", yaml, None)) is not None:
        raise UserError(f"{yaml} has {PARAMS}remap={remap}, other tokens than the codebook's; take another tokenizer")
    kind = {"quantizer": "nearest", "commitment": 0.25, "unit_codes": False, "legacy": True}
    if shape.gumbel:
        kind = {"quantizer": "gumbel", "kl_weight": _get(config, "kl_weight", yaml, 1e-8)}
    dropout = _get(config, "ddconfig.dropout", yaml, 0.0)
    return _ours(weights, shape.settings(size) | {"dropout": dropout, "norm_eps": 1e-6} | kind, file)


def from_hfai(weights: State, file: str) -> Imported:
    """`weights` of HFAiLab's VQGAN, whose commitment is as `legacy` as taming's; UserError when some are missing."""
    weights = hfai.names_of_taming(weights)
    kind = {"quantizer": "nearest", "commitment": 0.2, "unit_codes": False, "legacy": True}
    settings = _Shape(weights, file).settings(hfai.IMAGE_SIZE) | {"dropout": 0.0, "norm_eps": 1e-5} | kind
    return _ours(weights, settings, file)


class _Shape:
    """What the weights alone, under taming's names, say of the network."""

    def __init__(self, weights: State, file: str):
        def size(name: str, axis: int) -> int:
            if name not in weights:
                raise UserError(f"{file} lacks {name}; give the checkpoint as it was published")
            return weights[name].shape[axis]

        self.gumbel = "quantize.embed.weight" in weights
        codebook = "quantize.embed.weight" if self.gumbel else "quantize.embedding.weight"
        self.codebook_size, self.code_dim = size(codebook, 0), size(codebook, 1)
        if self.codebook_size > MOST_CODES:
            raise UserError(
                f"{file} has {self.codebook_size} codes (n_embed), but tokens are stored as uint16; take a tokenizer "
                f"of at most {MOST_CODES}"
            )
        self.channels, colours = size("encoder.conv_in.weight", 0), size("encoder.conv_in.weight", 1)
        if colours != 3:
            raise UserError(f"{file} is for images of {colours} channels; take a tokenizer of RGB images")
        if self.channels % 32:
            raise UserError(f"{file} has {self.channels} channels (ddconfig.ch); its 32 norm groups do not divide them")
        self.z_channels = size("encoder.conv_out.weight", 0)
        found = {
            (kind, int(level), int(number))
            for name in weights
            for level, kind, number in re.findall(r"^encoder\.down\.(\d+)\.(block|attn)\.(\d+)\.", name)
        }
        levels = 1 + max((level for _, level, _ in found), default=0)
        last = [size(f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(levels)]
        self.multipliers = [channels // self.channels for channels in last]
        self.res_blocks = 1 + max(number for kind, level, number in found if (kind, level) == ("block", 0))
        self.attention = sorted({level for kind, level, _ in found if kind == "attn"})

    def settings(self, size: int) -> dict[str, Any]:
        return {
            "image_size": size,
            "codebook_size": self.codebook_size,
            "code_dim": self.code_dim,
            "channels": self.channels,
            "channel_multipliers": self.multipliers,
            "res_blocks": self.res_blocks,
            "attention_resolutions": [size >> level for level in self.attention],
            "z_channels": self.z_channels,
            "norm_groups": 32,
            "patch": 1,
        }


def _get(config: Any, key: str, yaml: str, *default: Any) -> Any:
    """model.params.KEY of a YAML; UserError where it is absent and there is no `default`."""
    for name in (PARAMS + key).split("."):
        if not isinstance(config, Mapping) or name not in config:
            if default:
                return default[0]
            raise UserError(f"{yaml} has no {PARAMS}{key}; give the YAML that was published with the checkpoint")
        config = config[name]
    return config


def _ours(weights: State, settings: dict[str, Any], file: str) -> Imported:
    """Our names, and every key held against the network that `settings` make."""
    state, theirs = {}, {}
    for name, value in weights.items():
        stem = next((stem for stem in OUR_NAMES if name == stem or name.startswith(stem + ".")), None)
        ours = name if stem is None else OUR_NAMES[stem] + name.removeprefix(stem)
        flat = ours == "quantizer.logits.weight"  # a 1×1 convolution there
        state[ours], theirs[ours] = (value.flatten(1) if flat else value).float(), name
    state["quantizer.used_K"] = torch.zeros(settings["codebook_size"])
    with torch.device("meta"):
        wanted = VQGAN(**settings).state_dict()
    both = wanted.keys() & state.keys()
    for problem, found in (
        ("lacks", wanted.keys() - both),
        ("has an unknown", state.keys() - both),
        ("has another shape of", {name for name in both if wanted[name].shape != state[name].shape}),
    ):
        if found:
            first = min(found)
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise UserError(
                f"{file} {problem} {theirs.get(first, first)}{more}; give the checkpoint as it was published"
            )
    return Imported(settings, state)
