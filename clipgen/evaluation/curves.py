"""Training curves: a stage's metrics.csv → small charts in SVG, one per unit, that follow the page's colours."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

LOSSES = frozenset({"l1", "perceptual", "discriminator", "commitment", "generator", "adversarial", "cross_entropy"})
SHARES = ("usage", "accuracy", "zero_shot", "retrieval", "recall")
TITLES = {
    "psnr": "PSNR, dB",
    "usage": "Codebook usage, % of the codes",
    "perplexity": "Codebook perplexity, codes",
    "lr": "Learning rate",
    "images_per_second": "Speed, images a second",
    "restarted_codes": "Codes drawn again, each time",
    "gan_weight": "Adaptive weight of the GAN loss",
    "logits": "Discriminator, mean logit",
}
TOGETHER = {"logits_real": "logits", "logits_made": "logits"}  # in one chart
FIRST = ("loss", "psnr", "usage", "accuracy", "zero_shot", "perplexity", "images_per_second", "lr")
SHOWN = 3  # charts, a row of the page; the others stand under "More curves"
AXES = frozenset({"step", "epoch", "batches", "iteration"})

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 10, 34
POINTS = 240  # of a curve; longer ones are averaged
COLOURS = 8  # --c0 … --c7 of the page
UNITS = ((1e15, 1e15, "P"), (1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from, of, letter
LOG_RATIO = 20.0  # positive losses further apart than this get a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """A metric over batches, in their order; finite values only."""

    name: str
    x: np.ndarray
    y: np.ndarray

    @property
    def quantity(self) -> str:
        """What is measured, without split and part: `val/psnr` → `psnr`, `val/zero_shot.shape` → `zero_shot`."""
        return self.name.rpartition("/")[2].partition(".")[0]

    @property
    def is_loss(self) -> bool:
        return self.quantity in LOSSES or "loss" in self.quantity

    @property
    def is_share(self) -> bool:
        return any(word in self.quantity for word in SHARES)


def read_curves(path: Path) -> list[Curve]:
    """The curves of a CSVLogger's file, whose rows are sparse; of rows with the same step the later counts.

    x is the column `batches` where there is one (interpolated over the steps), else `step` + 1: Lightning counts
    batches from 0 there, whatever the number of optimizers.
    """
    columns: dict[str, dict[float, float]] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            step = _number(row.get("step"))
            for name, text in row.items():
                value = _number(text) if name else None  # a row cut short or too long has None as text or as name
                if step is not None and value is not None:
                    columns.setdefault(name, {})[step] = value
    batches = sorted(columns.get("batches", {}).items())
    curves = []
    for name, values in columns.items():
        if name not in AXES:
            x, y = np.array(sorted(values.items())).T
            done = np.interp(x, *np.array(batches).T) if batches else x + 1
            curves.append(Curve(name, done, y))
    return curves


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def charts(curves: Sequence[Curve]) -> str:
    """All curves as HTML: losses in one chart, then one chart per quantity; after the first ones, folded."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault("loss" if curve.is_loss else TOGETHER.get(curve.quantity, curve.quantity), []).append(curve)
    order = [*(name for name in FIRST if name in panels), *(name for name in panels if name not in FIRST)]
    drawn = [_panel(name, panels[name]) for name in order]
    html = f'<div class="charts">{"".join(drawn[:SHOWN])}</div>'
    if more := drawn[SHOWN:]:
        html += f'<details><summary>More curves</summary><div class="charts">{"".join(more)}</div></details>'
    return html


def _panel(name: str, curves: list[Curve]) -> str:
    values = np.concatenate([curve.y for curve in curves])
    log = name == "loss" and values.min() > 0 and values.max() / values.min() > LOG_RATIO
    title = TITLES.get(name, name.replace("_", " ")) if name != "loss" else "Loss"
    return chart(title + (", logarithmic" if log else ""), curves, log=log, share=curves[0].is_share)


def chart(title: str, curves: Sequence[Curve], log: bool = False, share: bool = False, axis: str = "batches") -> str:
    """A <figure>: title, one polyline per curve over `axis`, axes, and a legend with the last values.

    `share` says that the values are fractions, shown as percentages.
    """
    xs, ys = np.concatenate([curve.x for curve in curves]), np.concatenate([curve.y for curve in curves])
    x_ticks = ticks(0.0, max(float(xs.max()), 1.0), 5)
    y_ticks = log_ticks(ys.min(), ys.max()) if log else ticks(*((0.0, 1.0) if share else (ys.min(), ys.max())), 5)
    x_range = 0.0, max(float(xs.max()), 1.0)
    y_range = min(y_ticks[0], ys.min()), max(y_ticks[-1], ys.max())

    def place(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
        low, high = np.log(y_range) if log else y_range
        right = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = ((np.log(y) if log else y) - low) / (high - low)
        x_px = LEFT + right * (WIDTH - LEFT - RIGHT)
        y_px = HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return list(zip(x_px.tolist(), y_px.tolist(), strict=True))

    parts = []
    for value in y_ticks:
        ((_, y),) = place(np.zeros(1), np.array([value]))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{compact(value, share)}</text>')
    for value in (value for value in x_ticks if value <= x_range[1]):
        ((x, _),) = place(np.array([value]), np.array([y_range[0]]))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{compact(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(axis)}</text>')
    legend = []
    for i, curve in enumerate(curves):
        colour, name = f"c{i % COLOURS}" + " again" * (i >= COLOURS), escape(curve.name)
        points = place(*thin(curve.x, curve.y))
        if len(points) == 1:
            parts.append(f'<circle class="{colour}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{colour}" points="{line}"><title>{name}</title></polyline>')
        last = compact(float(curve.y[-1]), share, digits=4)
        legend.append(f'<li><i class="{colour}"></i>{name} <b>{last}</b></li>')
    words, over = escape(title), escape(axis)
    return (
        f'<figure class="chart"><h4>{words}</h4>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words} over {over}">{"".join(parts)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def thin(x: np.ndarray, y: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: means over runs of neighbours."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def ticks(low: float, high: float, most: int) -> list[float]:
    """Up to `most` + 1 round numbers, evenly spaced, the first at or below `low`, the last at or above `high`."""
    if high <= low:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around [low, high]; the powers alone where they are more than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    values = [factor * 10.0**power for power in powers for factor in factors]
    below = [value for value in values if value <= low][-1:]
    above = [value for value in values if value >= high][:1]
    return below + [value for value in values if low < value < high] + above


def compact(value: float, share: bool = False, digits: int = 3) -> str:
    """A number for a narrow place: 0.025, 3e-4, 12k; as percentage when it is a share."""
    if share:
        return f"{100 * value:.{digits}g}%"
    for least, size, letter in UNITS:
        if abs(value) >= least:
            return f"{value / size:.{digits}g}{letter}"
    if value and abs(value) < 1e-3:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:.{max(digits, 4) if abs(value) >= 1000 else digits}g}"
