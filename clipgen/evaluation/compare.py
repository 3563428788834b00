"""A comparison of ways to train: what each may spend, how it is asked, and by how much they differ.

An arm is a way of training; a variant is an arm with a share of the captions. How a variant is asked is chosen on
development prompts, by as many trials for each; the figures are from test prompts, which are asked once.

S seeds, P prompts
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from clipgen.errors import UserError
from clipgen.evaluation.flops import Size

Values = Mapping[str, np.ndarray]  # metric → (P,), NaN where a prompt does not ask for it
REFERENCE = "clipgen"  # whose budget the others are given, and whom they are compared with
STRONG, SHARE = 0.95, 0.97  # the bars: of `paired`, and of `clipgen` as a share of it
BARRED = ("judge.foreground", "judge.background", "judge.shape")


@dataclass(frozen=True)
class Variant:
    name: str
    arm: str
    captions_share: float


@dataclass(frozen=True)
class Cost:
    """What training a variant costs: FLOPs and pictures of a batch, and the batches that it needs to warm up."""

    size: Size
    flops: float
    batch: int
    warmup: int


def variants_of(arms: Mapping[str, Sequence[float]]) -> list[Variant]:
    """Each arm with each of its shares of the captions: `paired`, `paired_10pct`, …; an arm of none has the share 0."""
    return [
        Variant(arm if share in (0, 1) else f"{arm}_{100 * share:g}pct", arm, share)
        for arm, shares in arms.items()
        for share in shares
    ]


def main_variants(variants: Sequence[Variant]) -> list[Variant]:
    """Of each arm the one with the most captions."""
    most = {each.arm: max(v.captions_share for v in variants if v.arm == each.arm) for each in variants}
    return [each for each in variants if each.captions_share == most[each.arm]]


def check_sizes(costs: Mapping[str, Cost], tolerance: float) -> dict[str, float]:
    """Each variant's blocks as a multiple of the reference's; UserError where one differs by more than `tolerance`."""
    reference = costs[REFERENCE].size.blocks
    shares = {name: cost.size.blocks / reference for name, cost in costs.items()}
    for name, share in shares.items():
        if abs(share - 1) > tolerance:
            raise UserError(
                f"arm {name} has {costs[name].size.blocks:,} parameters beside embeddings and head, {REFERENCE} "
                f"{reference:,}: {share - 1:+.1%}, more than compare.tolerance={tolerance:g} allows; give it another "
                "transformer.depth or transformer.width"
            )
    return shares


def steps_of(costs: Mapping[str, Cost], steps: int, tolerance: float) -> dict[str, dict[str, int]]:
    """Batches of each variant in two budgets: `flops`, as many as the reference's `steps` take, and `images`.

    Where the two differ by no more than `tolerance` one training serves for both. UserError where a budget ends before
    a variant has warmed up.
    """
    flops, images = steps * costs[REFERENCE].flops, steps * costs[REFERENCE].batch
    found = {}
    for name, cost in costs.items():
        by_flops, by_images = round(flops / cost.flops), round(images / cost.batch)
        if abs(by_flops - by_images) <= tolerance * by_images:
            by_images = by_flops
        if (least := min(by_flops, by_images)) <= cost.warmup:
            enough = int(steps * (cost.warmup + 1) / max(least, 1)) + 1
            raise UserError(
                f"compare.steps={steps} do not fit arm {name}: its {least} batches are no more than its "
                f"transformer.train.warmup={cost.warmup}; take compare.steps={enough}, or leave it out of compare.arms"
            )
        found[name] = {"flops": by_flops, "images": by_images}
    return found


def trials(arm: str, first: Mapping[str, Any], choices: Mapping[str, Sequence[Any]], n: int) -> list[dict[str, Any]]:
    """`n` different ways to ask: `first`, then some drawn from all combinations, always the same ones.

    UserError where there are fewer.
    """
    every = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    others = [each for each in every if {**first, **each} != {**first}]
    if len(others) + 1 < n:
        raise UserError(
            f"compare.trials={n}, but the compare.arm.choices of arm {arm} are {len(others) + 1} ways to ask; widen "
            f"them in its file, or take compare.trials={len(others) + 1}"
        )
    order = np.random.default_rng(0).permutation(len(others))[: n - 1]
    return [dict(first), *({**first, **others[i]} for i in order)]


def best(choices: Sequence[Any], mark: Callable[[Any], float]) -> Any:
    """The choice of the highest mark; of equal ones the first."""
    return max(choices, key=mark)


def stacked(of_seeds: Sequence[Values], metric: str) -> np.ndarray:
    """(S, P) of the prompts that ask for it."""
    values_SP = np.stack([values[metric] for values in of_seeds])
    return values_SP[:, ~np.isnan(values_SP).any(0)]


def bars(figures: Mapping[str, Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was set as the aim, and whether it is reached; None where an arm is not there."""

    def mean(arm: str, metric: str) -> float | None:
        return figures.get(arm, {}).get(metric, {}).get("mean")

    found = []
    for metric in BARRED:
        value = mean("paired", metric)
        found.append({"what": f"paired, {metric}", "limit": STRONG, "value": value})
    for metric in BARRED:
        ours, theirs = mean(REFERENCE, metric), mean("paired", metric)
        value = None if ours is None or not theirs else round(ours / theirs, 5)
        found.append({"what": f"{REFERENCE} as a share of paired, {metric}", "limit": SHARE, "value": value})
    for bar in found:
        bar["met"] = None if bar["value"] is None else bar["value"] >= bar["limit"]
    low = next(
        (d["low"] for d in differences if (d["a"], d["b"], d["metric"]) == (REFERENCE, "plain_swap", "judge.all")), None
    )
    what = f"{REFERENCE} - plain_swap, judge.all: the lower end of the 95 % interval is above"
    return [*found, {"what": what, "limit": 0.0, "value": low, "met": None if low is None else low > 0}]
