"""Figures with their intervals as small drawings in SVG: differences around zero, and accuracy over captions used."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from clipgen.evaluation.curves import COLOURS, ticks
from clipgen.evaluation.figures import is_number, show

Figure = Mapping[str, Any]  # mean, and the ends of its interval where they are known

WIDTH, LEFT, RIGHT = 360, 8, 8
ROW = 38  # of a forest plot: the names above their interval
AXIS = 30
HEIGHT, TOP, MARGIN = 220, 12, 46  # of the curve over captions


def forest(title: str, name: str, higher: bool, rows: Sequence[Figure]) -> str:
    """A <figure> of differences a - b of the figure `name`, each a dot in its 95 % interval, around a line at 0.

    Full colour where the interval is clear of 0 and the figure not circular. `higher` says which side is the better one
    for a.
    """
    ends = [row[key] for row in rows for key in ("low", "mean", "high") if is_number(row.get(key))]
    if not ends:
        return ""
    marks = ticks(min(0.0, *ends), max(0.0, *ends), 4)
    low, high = marks[0], marks[-1]
    height = ROW * len(rows) + AXIS

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for mark in marks:
        style = "zero" if abs(mark) < 1e-12 else "grid"
        anchor = "start" if mark == low else "end" if mark == high else "middle"
        parts.append(f'<line class="{style}" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="0" y2="{height - AXIS + 4}"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{height - 12}" text-anchor="{anchor}">{signed(name, mark)}</text>')
    for i, row in enumerate(rows):
        if not is_number(row.get("mean")):
            continue
        y, ends = ROW * i + 27, (row.get("low"), row.get("high"))
        known = all(map(is_number, ends))
        clear = known and (ends[0] > 0 or ends[1] < 0) and not row.get("circular")
        words = f"{row['a']} − {row['b']}" + (", circular" if row.get("circular") else "")
        value = signed(name, row["mean"]) + (f" [{signed(name, ends[0])}, {signed(name, ends[1])}]" if known else "")
        parts.append(f'<text class="ink over" x="{LEFT}" y="{y - 13}">{escape(words)}</text>')
        parts.append(f'<text class="over" x="{WIDTH - RIGHT}" y="{y - 13}" text-anchor="end">{value}</text>')
        kind = "c0" if clear else "unclear"
        if known:
            span = f'x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{y}" y2="{y}"'
            parts.append(f'<line class="interval {kind}" {span}/>')
        parts.append(f'<circle class="{kind}" cx="{x(row["mean"]):.1f}" cy="{y}" r="4"/>')
    better = "right of 0: the first is better" if higher else "left of 0: the first is better"
    return drawing(title, height, "".join(parts)) + f"<figcaption>{better}</figcaption></figure>"


def drawing(title: str, height: int, parts: str) -> str:
    """The beginning of a <figure>: title and SVG."""
    words = escape(title)
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}">{parts}</svg>'
    return f'<figure class="chart"><h4>{words}</h4>{svg}'


def signed(name: str, value: float) -> str:
    """A difference of the figure `name`; of shares in percentage points."""
    text = f"{100 * value:.1f}".removesuffix(".0") if show(name, 0.5).endswith("%") else f"{value:.3g}"
    return "0" if float(text) == 0 else text.replace("-", "−") if value < 0 else f"+{text}"


def over_captions(
    title: str, name: str, lines: Mapping[str, Mapping[float, Figure]], marks: Mapping[str, Figure]
) -> str:
    """A <figure>: the figure `name` over the share of captions used, from {arm: {share: figure}}, shares logarithmic.

    `marks` are arms without captions: a dashed line each, with its interval as a band.
    """
    shares = sorted({share for points in lines.values() for share in points})
    every = [*(f for points in lines.values() for f in points.values()), *marks.values()]
    values = [figure[key] for figure in every for key in ("low", "mean", "high") if is_number(figure.get(key))]
    if len(shares) < 2 or not values:
        return ""
    y_marks = ticks(min(values), min(max(values), 1.0) if show(name, 0.5).endswith("%") else max(values), 5)
    low, high = y_marks[0], y_marks[-1]
    first, last = math.log(shares[0]), math.log(shares[-1])

    def x(share: float) -> float:
        return MARGIN + 14 + (math.log(share) - first) / (last - first) * (WIDTH - MARGIN - 2 * 14 - RIGHT)

    def y(value: float) -> float:
        inside = min(max(value, low), high)  # an interval may reach beyond 100 %
        return HEIGHT - AXIS - 8 - (inside - low) / (high - low) * (HEIGHT - TOP - AXIS - 8)

    left, right, parts, legend = MARGIN, WIDTH - RIGHT, [], []
    for mark in y_marks:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{show(name, mark)}</text>')
    for share in shares:
        parts.append(f'<text x="{x(share):.1f}" y="{HEIGHT - AXIS + 10}" text-anchor="middle">{100 * share:g} %</text>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 5}" text-anchor="end">of the captions, logarithmic</text>')
    for i, (arm, figure) in enumerate(marks.items()):
        colour = f"c{i % COLOURS}"
        if is_number(figure.get("low")) and is_number(figure.get("high")):
            top, tall = y(figure["high"]), y(figure["low"]) - y(figure["high"])
            box = f'x="{left}" y="{top:.1f}" width="{right - left}" height="{tall:.1f}"'
            parts.append(f'<rect class="{colour}" {box}/>')
        at = f'y1="{y(figure["mean"]):.1f}" y2="{y(figure["mean"]):.1f}"'
        parts.append(f'<line class="level {colour}" x1="{left}" x2="{right}" {at}/>')
        words = f"{escape(arm)}, no captions <b>{show(name, figure['mean'])}</b>"
        legend.append(f'<li><i class="{colour}"></i>{words}</li>')
    for i, (arm, points) in enumerate(lines.items(), start=len(marks)):
        colour = f"c{i % COLOURS}"
        ordered = sorted(points.items())
        for share, figure in ordered:
            if is_number(figure.get("low")) and is_number(figure.get("high")):
                ends = f'y1="{y(figure["low"]):.1f}" y2="{y(figure["high"]):.1f}"'
                parts.append(f'<line class="interval {colour}" x1="{x(share):.1f}" x2="{x(share):.1f}" {ends}/>')
            parts.append(f'<circle class="{colour}" cx="{x(share):.1f}" cy="{y(figure["mean"]):.1f}" r="3.5"/>')
        line = " ".join(f"{x(share):.1f},{y(figure['mean']):.1f}" for share, figure in ordered)
        parts.append(f'<polyline class="{colour}" points="{line}"/>')
        legend.append(f'<li><i class="{colour}"></i>{escape(arm)}</li>')
    return drawing(title, HEIGHT, "".join(parts)) + f'<ul class="legend">{"".join(legend)}</ul></figure>'
