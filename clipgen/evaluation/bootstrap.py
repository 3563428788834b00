"""Means over prompts and seeds, and how far they can be trusted: both were drawn, so both are drawn again.

S seeds (trainings, or draws of samples), P prompts, D draws of the bootstrap
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
DRAWS = 4000


class Estimate(NamedTuple):
    """`low` and `high` are None where there is one value only."""

    mean: float
    sem: float | None
    low: float | None
    high: float | None
    n: int  # values: seeds × prompts
    seeds: int
    prompts: int


def bootstrap(values_SP: np.ndarray, level: float = LEVEL, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean and its interval where seeds and prompts are drawn again, each on its own (Owen 2007, "pigeonhole").

    Left as it is, the percentile interval is too narrow for few seeds and too wide where neither matters much: its two
    arms are stretched to the variance of a two-way layout and to Student's t (degrees of freedom by Satterthwaite), so
    that of few values it may reach beyond what a share can be. One row, or one column (a figure of a whole set), is
    allowed; the interval then speaks of the other alone. ValueError for what is no matrix of finite numbers.
    """
    values_SP = np.asarray(values_SP, dtype=np.float64)
    if values_SP.ndim != 2 or not values_SP.size or not np.isfinite(values_SP).all():
        raise ValueError(f"values of shape {values_SP.shape}; they must be finite numbers by seed and prompt")
    (seeds, prompts), mean = values_SP.shape, float(values_SP.mean())
    about = {"n": values_SP.size, "seeds": seeds, "prompts": prompts}
    if values_SP.size == 1:
        return Estimate(mean, None, None, None, **about)
    if not np.ptp(values_SP):
        return Estimate(mean, 0.0, mean, mean, **about)
    variance, freedom = _of_the_mean(values_SP)
    rng = np.random.default_rng(seed)
    drawn_DS, drawn_DP = (rng.multinomial(n, np.full(n, 1 / n), draws) / n for n in (seeds, prompts))
    means_D = ((drawn_DS @ values_SP) * drawn_DP).sum(1)
    tail = (1 - level) / 2
    stretch = (variance / means_D.var()) ** 0.5 * _student(1 - tail, freedom) / NormalDist().inv_cdf(1 - tail)
    low, high = mean + stretch * (np.quantile(means_D, [tail, 1 - tail]) - mean)
    return Estimate(mean, float(variance**0.5), float(low), float(high), **about)


def paired_difference(a_SP: np.ndarray, b_SP: np.ndarray, **settings) -> Estimate:
    """Of a - b, where a row is the same seed and a column the same prompt in both."""
    a_SP, b_SP = np.asarray(a_SP), np.asarray(b_SP)
    if a_SP.shape != b_SP.shape:
        raise ValueError(f"values of shapes {a_SP.shape} and {b_SP.shape} are not paired by seed and prompt")
    return bootstrap(a_SP - b_SP, **settings)


def _of_the_mean(values_SP: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of all where rows and columns are random (and cross), and its degrees of freedom."""
    rows_S1, columns_1P = values_SP.mean(1, keepdims=True), values_SP.mean(0, keepdims=True)
    parts = [(means.var(ddof=1) / means.size, means.size - 1) for means in (rows_S1, columns_1P) if means.size > 1]
    if len(parts) == 1:
        return parts[0]
    total = sum(part for part, _ in parts)
    rest_SP = values_SP - rows_S1 - columns_1P + values_SP.mean()  # counted in the rows and in the columns
    crossed = parts[0][1] * parts[1][1]
    twice = (rest_SP**2).sum() / crossed / values_SP.size
    freedom = total**2 / sum(part**2 / degrees for part, degrees in parts) if total else crossed
    return max(total - twice, twice, *(part for part, _ in parts)), freedom


def _student(level: float, freedom: float) -> float:
    """Student's quantile by four terms around the normal one (Abramowitz and Stegun 26.7.5); 11 % short at 1 degree."""
    x = NormalDist().inv_cdf(level)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom**power for power, term in enumerate(terms, 1))
