"""Sampling of image tokens: free functions that know nothing of a model but its prefix, its step and its cache.

B images, R rows of a pass (B, 2·B or 3·B), P prefix tokens, D width, V codebook size, C codes to draw from,
L image tokens
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clipgen.errors import UserError
from clipgen.transformer.model import CausalTransformer

if TYPE_CHECKING:
    from clipgen.transformer.fixed import FixedStep

GUIDANCE_POWER = 2.75  # RAR's, of its largest models
SCHEDULES = ("constant", "power_cosine")
RANGES = {
    "fidelity": (0, 1), "top_p": (0, 1), "min_p": (0, 1), "temperature": (0, 100), "guidance_scale": (0, 100),
    "prefix_boost": (0, 100),
}  # fmt: skip
CHOICES = {"guidance_schedule": SCHEDULES, "precision": ("fp32", "bf16")}


class Given(NamedTuple):
    """Tokens that a batch keeps: `token_L`, of all its images or a row each (B, L), counts where `known_L`."""

    token_L: Tensor
    known_L: Tensor


class Sampled(NamedTuple):
    """`preference_B` is log p(tokens | condition) - log p(tokens | null) in nats, None where nothing asked for it.

    Tokens given before the first drawn one are left out of it: they are the same in every image.
    """

    token_Bhw: Tensor
    preference_B: Tensor | None


def guide(conditional_BV: Tensor, null_BV: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits (arXiv 2207.12598; 1 is none)."""
    return null_BV + scale * (conditional_BV - null_BV)


def scale_at(step: int, steps: int, scale: float, schedule: str) -> float:
    """The guidance scale of a token: `power_cosine` grows from 1 to `scale` (MDT, arXiv 2303.14389; RAR's power)."""
    if schedule == "constant":
        return scale
    return 1 + (scale - 1) * (1 - math.cos(math.pi * (step / steps) ** GUIDANCE_POWER)) / 2


def choices(
    logits_BV: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, cluster_V: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(probabilities, codes), (B, C) each: a probability is 0 where a filter left the code out.

    The `top_k` likeliest (0: all), or with `cluster_V` those of the `top_k` likeliest clusters; of them the fewest
    whose probabilities sum to `top_p`; of them those of at least `min_p` times the best's probability. Of what `top_k`
    leaves the best always stays.
    """
    V = logits_BV.shape[-1]
    if cluster_V is not None and top_k:
        logits_BV, top_k = of_likeliest_clusters(logits_BV, cluster_V, temperature, top_k), 0
    if sifted := 0 < top_k < V or top_p < 1:  # sorted, and softmax is over what is left
        logits_BV, code_BC = logits_BV.topk(min(top_k or V, V), -1)
    else:
        code_BC = torch.arange(V, device=logits_BV.device).expand_as(logits_BV)
    p_BC = (logits_BV / max(temperature, 1e-6)).softmax(-1)
    if sifted and top_p < 1:
        beyond_BC = p_BC.cumsum(-1) - p_BC >= top_p
        beyond_BC[:, 0] = False  # top_p = 0 is greedy
        p_BC = p_BC.masked_fill(beyond_BC, 0)
    if min_p > 0:
        p_BC = p_BC.masked_fill(p_BC < min_p * p_BC.amax(-1, keepdim=True), 0)
    return p_BC, code_BC


def check_clusters(clusters: int, top_k: int, codes: int | None = None, key: str = "") -> None:
    """UserError, naming settings behind `key`, where there are more clusters than codes, or `top_k` leaves out none."""
    if codes is not None and clusters > codes:
        raise UserError(f"{key}clusters={clusters} of {codes} codes; take fewer clusters than codes, or 0 for none")
    if clusters and not 0 < top_k < clusters:
        raise UserError(
            f"{key}clusters={clusters} has no effect with {key}top_k={top_k}, which counts clusters then; take "
            f"{key}top_k below {clusters} and above 0, or {key}clusters=0"
        )


def of_likeliest_clusters(logits_BV: Tensor, cluster_V: Tensor, temperature: float, top_k: int) -> Tensor:
    """Logits, -inf where a code's cluster is not among the `top_k` of the largest summed probability.

    To draw a code of these is to draw one of the clusters by its sum, then a code of it (CogView2, arXiv 2204.14217).
    """
    p_BV = (logits_BV / max(temperature, 1e-6)).softmax(-1)
    sum_BN = torch.zeros_like(p_BV).index_add_(1, cluster_V, p_BV)  # as many columns as codes: ids are below
    best_Bk = sum_BN.topk(top_k, -1).indices
    kept_BN = torch.zeros_like(sum_BN, dtype=torch.bool).scatter_(1, best_Bk, True)
    return logits_BV.masked_fill(~kept_BN[:, cluster_V], float("-inf"))


def draw(p_BC: Tensor, uniform_B: Tensor) -> Tensor:
    """One index per row where the cumulative distribution passes `uniform_B`, so that a row has a seed of its own."""
    cumulative_BC = p_BC.cumsum(-1, dtype=torch.float64)
    total_B1 = cumulative_BC[:, -1:]
    at_B1 = torch.minimum(uniform_B[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BC, at_B1, right=True)[:, 0]


class Filters(NamedTuple):
    """What `choices` is told."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    cluster_V: Tensor | None = None


def pick(logits_RV: Tensor, uniform_B: Tensor, scale: float | Tensor | None, filters: Filters) -> Tensor:
    """The token (B, 1) that each image draws; with a guidance `scale` rows B … 2·B - 1 are the null's."""
    B = len(uniform_B)
    logits_BV = logits_RV[:B] if scale is None else guide(logits_RV[:B], logits_RV[B : 2 * B], scale)
    p_BC, code_BC = choices(logits_BV, *filters)
    return code_BC.gather(1, draw(p_BC, uniform_B)[:, None])


def generate(model: CausalTransformer, *arguments, **options) -> Tensor:
    """Tokens (B, h, w); `sample`'s arguments."""
    return sample(model, *arguments, **options).token_Bhw


@torch.inference_mode()
def sample(
    model: CausalTransformer,
    condition_BE: Tensor,
    level_B: Tensor,
    seeds: Sequence[int],
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    guidance_schedule: str = "constant",
    prefix_boost: float = 0.0,
    cluster_V: Tensor | None = None,
    negative_BE: Tensor | None = None,
    given: Given | None = None,
    prefer: bool = False,
    fixed: "Callable[[int, int, bool, Filters], FixedStep] | None" = None,
    on_token: Callable[[], None] | None = None,
) -> Sampled:
    """B images' tokens; image i depends on `seeds[i]` and on no other image of the batch.

    A condition is what the model's `prefix` takes: of a `Transformer` an embedding (B, E) with its level, of a
    `PairedTransformer` token ids (B, P), to which the level means nothing.
    `prefix_boost` is added to the scores of attention to the prefix (CogView2's on the text). With `cluster_V`, the
    cluster of each code, `top_k` counts clusters.
    `negative_BE` takes the null's place in guidance. A model trained for guidance in one pass (`gft`) is told the scale
    instead, at least 1. Tokens of `given` are kept; a model trained in any order is shown all of them first, any other
    draws each token knowing those before it in raster order. With `prefer` the null is asked whatever the guidance, and
    the condition without guidance. `fixed(R, B, guided, filters)` gives what draws all tokens but the first
    (clipgen/transformer/fixed.py).
    """
    B, L = len(condition_BE), model.n_tokens
    device = condition_BE.device
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    uniform_BL = torch.stack([torch.rand(L, generator=generator) for generator in generators])
    uniform_LB = uniform_BL.double().t().contiguous().to(device, non_blocking=True)
    told = guidance_scale if model.gft and negative_BE is None else 1.0
    assert told >= 1.0
    prefixes = [model.prefix(condition_BE, level_B, 1 / told)]  # arXiv 2501.15420's beta
    guidance_scale = guidance_scale if told == 1.0 else 1.0
    contrasted = guidance_scale != 1.0 or prefer
    if contrasted:  # one batched pass: the conditioned rows, then the others
        prefixes.append(model.null_prefix(B) if negative_BE is None else model.prefix(negative_BE, level_B))
    if prefer and told != 1.0:
        prefixes.append(model.prefix(condition_BE, level_B))
    unguided = slice(2 * B, None) if len(prefixes) == 3 else slice(B)
    prefix_RPD = torch.cat([x_BPD.to(model.embed.weight.dtype) for x_BPD, _ in prefixes])
    R = len(prefix_RPD)
    filters = Filters(temperature, top_k, top_p, min_p, cluster_V)
    steps = None if fixed is None else fixed(R, B, contrasted, filters)
    cache = model.new_cache(R, compute_dtype(model), device) if steps is None else steps.emptied()
    hidden_RP = None if prefixes[0][1] is None else torch.cat([hidden_BP for _, hidden_BP in prefixes])
    pivot_RYQ = model.draw_pivots(generators).repeat(R // B, 1, 1) if model.window else None
    cache.sight = model.sight(R, hidden_RP, pivot_RYQ, prefix_boost)
    token_BL = torch.empty(B, L, dtype=torch.long, device=device)
    preference_B = torch.zeros(B, device=device) if prefer else None
    known_L = torch.zeros(L, dtype=torch.bool) if given is None else given.known_L.cpu()
    order_L, step = torch.arange(L), model.step
    if given is not None and model.any_order:
        order_L = (~known_L).long().argsort(stable=True)
        step = partial(model.step, order_BL=order_L.to(device, non_blocking=True).expand(R, -1))
    order, known = order_L.tolist(), known_L[order_L].tolist()
    lead = known.index(False) if False in known else L  # tokens that nothing is drawn before
    x_RSD = prefix_RPD
    given_BL = None if given is None else given.token_L.expand(B, L)
    if lead:
        shown_S = order_L[:lead].to(device, non_blocking=True)
        token_BL[:, shown_S] = shown_BS = given_BL[:, shown_S]
        x_RSD = torch.cat([prefix_RPD, model.embed(shown_BS).repeat(R // B, 1, 1)], 1)
    scales = [scale_at(i, L, guidance_scale, guidance_schedule) if contrasted else None for i in range(L)]
    if steps is not None:
        steps.follow(order, scales, cache.sight)
    for i, place in enumerate(order[lead:], lead):
        if steps is None or i == lead:
            logits_RV = step(x_RSD, cache).float()
            token_B1 = pick(logits_RV, uniform_LB[place], scales[i], filters)
        else:
            token_B1, logits_RV = steps(i, token_B1, uniform_LB[place])
        if known[i]:
            token_B1 = given_BL[:, place, None]
        token_BL[:, place] = token_B1[:, 0]
        if prefer:
            log_p_RV = logits_RV.log_softmax(-1)
            preference_B += (log_p_RV[unguided] - log_p_RV[B : 2 * B]).gather(1, token_B1)[:, 0]
        if steps is None:
            x_RSD = model.embed(token_B1.repeat(R // B, 1))
        if on_token:
            on_token()
    return Sampled(token_BL.view(B, *model.grid), preference_B)


def compute_dtype(model: CausalTransformer) -> torch.dtype:
    """That of its activations."""
    device = model.place_LD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.place_LD.dtype
