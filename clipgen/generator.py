"""Condition → picture: what generators of all kinds do once they know what they are asked for.

B images, E embedding size, h w token grid
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipgen.data.transforms import to_uint8
from clipgen.errors import UserError
from clipgen.tokenizer.codes import clusters
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer import bridges
from clipgen.transformer.compiler import check_compiler
from clipgen.transformer.fixed import FixedStep
from clipgen.transformer.model import CausalTransformer
from clipgen.transformer.packed import prepared
from clipgen.transformer.sampling import CHOICES, RANGES, Filters, Given, check_clusters, compute_dtype, sample

LATER = {  # settings that older models lack
    "min_p": 0.0, "guidance_schedule": "constant", "precision": "fp32", "clusters": 0, "prefix_boost": 0.0,
    "compile": False,
}  # fmt: skip
TOKENS = "tokens"  # in a picture's info: rows of codes, which it was decoded from
RERANK = "clip", "self", "caption"


class Generator:
    """A Transformer that writes the tokens of a picture for a condition, and the VQGAN that decodes them."""

    def __init__(
        self,
        vqgan: VQGAN,
        transformer: CausalTransformer,
        sampling: dict[str, Any],
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.vqgan = vqgan.eval().to(self.device, memory_format=torch.channels_last)
        self.transformer = transformer.eval().to(self.device)
        self.sampling = {"bridge": bridges.DEFAULT, **LATER, **sampling}  # what a model of before had no choice in
        self._clusters: dict[int, Tensor] = {}  # of the codes, by how many there are
        self._copies: dict[str, tuple[list, CausalTransformer]] = {}  # by precision; which weights they were made of
        self._fixed: dict[Hashable, FixedStep] = {}  # the compiled steps of the last call

    def from_conditions(
        self,
        condition_BE: Tensor,
        seeds: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
        negative_BE: Tensor | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """One image for each centred unit condition; `on_batch(k)` is told when k more are done.

        An image has its tokens with it, in `image.info`. `negative_BE` (one row, or one for each image) is what
        guidance leads away from, instead of the null.
        """
        return self._sampled(condition_BE, seeds, on_batch, negative_BE, **sampling)[0]

    @torch.no_grad()
    def _sampled(
        self,
        condition_BE: Tensor,
        seeds: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
        negative_BE: Tensor | None = None,
        given: Given | None = None,
        prefer: bool = False,
        **sampling: float | int | str | None,
    ) -> tuple[list[Image.Image], list[float]]:
        """Images, and with `prefer` how much more likely the condition makes each than the null does, in nats."""
        options = self._options(sampling)
        if self.transformer.gft and negative_BE is None:
            self._check_one_pass(options)
        untrained_null = not self.transformer.knows_null and negative_BE is None
        contrasted = options["guidance_scale"] != 1 and not self.transformer.gft
        if untrained_null and (prefer or contrasted):
            asked = "rerank=self" if prefer else f"guidance_scale={options['guidance_scale']}"
            raise UserError(
                f"{asked} needs a model trained with transformer.cond_drop_prob above 0; take guidance_scale=1"
            )
        size, precision = options.pop("batch_size"), options.pop("precision")
        fidelity, _ = options.pop("fidelity", 1.0), options.pop("bridge", None)
        compiled, model = options.pop("compile"), self._prepared(precision)
        options["cluster_V"] = self._clustered(options.pop("clusters"))
        options["fixed"] = partial(self._fixed_step, model) if compiled else None
        images: list[Image.Image] = []
        preferences: list[float] = []
        for start in range(0, len(seeds), size):
            part = list(range(start, min(start + size, len(seeds))))
            n = len(part)
            if compiled and start:  # the graph of whole batches serves what is left too
                part += part[-1:] * (size - n)
            part_BE = condition_BE[part].to(self.device)
            level_B = torch.full((len(part),), fidelity, device=self.device)
            away_BE = None if negative_BE is None else negative_BE.to(self.device).expand(len(condition_BE), -1)[part]
            own = [seeds[i] for i in part]
            made = sample(model, part_BE, level_B, own, negative_BE=away_BE, given=given, prefer=prefer, **options)
            pixels_BHWC = to_uint8(self.vqgan.decode(made.token_Bhw[:n])).cpu().numpy()
            images += map(_with_tokens, pixels_BHWC, made.token_Bhw.cpu().numpy())
            preferences += made.preference_B[:n].tolist() if prefer else []
            if on_batch:
                on_batch(n)
        return images, preferences

    def _clustered(self, n: int) -> Tensor | None:
        """The cluster of each code, near-duplicates of each other being in one."""
        if n and n not in self._clusters:
            self._clusters[n] = clusters(self.vqgan.quantizer.codes_KD, n)
        return self._clusters.get(n)

    def _check_one_pass(self, options: dict[str, Any]) -> None:
        scale, schedule = options["guidance_scale"], options["guidance_schedule"]
        if scale < 1:
            raise UserError(f"guidance_scale={scale} is below what a model trained with gft was told; take 1 or more")
        if schedule != "constant":
            raise UserError(
                f"guidance_schedule={schedule} needs two passes, but a model trained with gft is told one scale for "
                "all tokens; take guidance_schedule=constant"
            )

    def _prepared(self, precision: str) -> CausalTransformer:
        """The copy for sampling, made anew when a weight was changed or replaced."""
        weights = [(tensor.data_ptr(), tensor._version) for tensor in self.transformer.parameters()]
        if precision not in self._copies or self._copies[precision][0] != weights:
            self._copies[precision] = weights, prepared(self.transformer, precision)
        return self._copies[precision][1]

    def _fixed_step(self, model: CausalTransformer, R: int, B: int, guided: bool, filters: Filters) -> FixedStep:
        """The compiled step of these shapes and settings; those of another model or of other settings are let go."""
        clusters = None if filters.cluster_V is None else id(filters.cluster_V)
        how = id(model), compute_dtype(model), guided, filters._replace(cluster_V=clusters)
        check_compiler(self.device, "compile")
        self._fixed = {key: step for key, step in self._fixed.items() if key[:-1] == how}
        if (*how, (R, B)) not in self._fixed:
            self._fixed[*how, (R, B)] = FixedStep(model, R, B, guided, filters)
        return self._fixed[*how, (R, B)]

    def _options(self, overrides: dict[str, Any]) -> dict[str, Any]:
        options = settings_in_range(self.sampling, overrides, self.transformer.codebook_size)
        if "bridge" in options:
            bridges.parse(options["bridge"])
        if options.get("fidelity", 1.0) < (least := self.transformer.least_level):
            raise UserError(
                f"fidelity={options['fidelity']} is a level that this model has not seen in training; take {least} to 1"
            )
        return options


def _with_tokens(pixels_HWC: np.ndarray, token_hw: np.ndarray) -> Image.Image:
    """What enlarges a picture (clipgen/upscaler.py) knows more by its tokens than by its pixels."""
    image = Image.fromarray(pixels_HWC)
    image.info[TOKENS] = token_hw.tolist()  # which can be compared, as pictures are
    return image


def settings_in_range(own: dict[str, Any], overrides: dict[str, Any], codebook_size: int) -> dict[str, Any]:
    """A model's `own` settings of sampling, overridden by what is not None; UserError for what cannot be."""
    if unknown := set(overrides) - set(own):
        raise UserError(f"unknown setting {sorted(unknown)[0]}; choose from {', '.join(sorted(own))}")
    options = {**own, **{key: value for key, value in overrides.items() if value is not None}}
    of_codes = {"clusters": (0, codebook_size), "top_k": (0, codebook_size), "batch_size": (1, 1 << 20)}
    for key, (low, high) in (RANGES | of_codes).items():
        if key in options and not low <= options[key] <= high:
            raise UserError(f"{key}={options[key]} is out of range; take a value from {low} to {high}")
    check_clusters(options.get("clusters", 0), options.get("top_k", 0))
    for key, choices in CHOICES.items():
        if key in options:
            choose(key, options[key], choices)
    return options


def choose(key: str, value: Any, choices: Sequence[str]) -> None:
    """UserError for a value that is none of the key's."""
    if value not in choices:
        raise UserError(f"{key}={value} is unknown; take {' or '.join(choices)}")


def image_seed(prompt: str, seed: int, number: int) -> int:
    """A seed for one image, so that the same prompt, seed and number give it alone or among others."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {prompt}".encode()).digest()[:7], "big")
