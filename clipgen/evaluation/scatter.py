"""A metric against a setting that was swept: a dot a job, in SVG that follows the page's colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from clipgen.evaluation.curves import BOTTOM, HEIGHT, LEFT, LOG_RATIO, RIGHT, TOP, WIDTH, compact, log_ticks, ticks

MARGIN = 0.04  # of the width, so that no dot sits on an axis
LABEL = 13  # letters of a value's name
ROOM = 6.4  # pixels of a letter


@dataclass(frozen=True)
class Dot:
    """A job: the setting's value, its metric, what it is called, and whether it is the best."""

    value: str
    score: float
    name: str
    best: bool


def scatter(setting: str, metric: str, dots: Sequence[Dot]) -> str:
    """A <figure> of the dots: numbers to scale (logarithmic where they span far), other values side by side."""
    numbers = _numbers(dots)
    log = numbers is not None and min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_RATIO / 4
    if numbers is None:
        names = list(dict.fromkeys(dot.value for dot in dots))
        places = [names.index(dot.value) for dot in dots]
        marks = [(i, _short(name, len(names))) for i, name in enumerate(names)]
        low, high = -0.5, len(names) - 0.5
    elif log:
        places = np.log(numbers).tolist()
        at = sorted(set(numbers)) if len(set(numbers)) <= 5 else log_ticks(min(numbers), max(numbers))
        marks = [(float(np.log(value)), compact(value)) for value in at]
        low, high = min(places + [m for m, _ in marks]), max(places + [m for m, _ in marks])
    else:
        places = numbers
        at = sorted(set(numbers)) if len(set(numbers)) <= 5 else ticks(min(numbers), max(numbers), 5)
        marks = [(value, compact(value)) for value in at]
        low, high = min(*places, at[0]), max(*places, at[-1])
    if high <= low:
        low, high = low - 1, high + 1
    scores = [dot.score for dot in dots]
    y_ticks = ticks(min(scores), max(scores), 5)

    def across(place: float) -> float:
        share = MARGIN + (place - low) / (high - low) * (1 - 2 * MARGIN)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(score: float) -> float:
        return HEIGHT - BOTTOM - (score - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{compact(value)}</text>')
    free = 0.0
    for place, word in marks:
        half = len(word) * ROOM / 2
        if across(place) - half >= free:  # a mark that would run into the one before it is left out
            free = across(place) + half + ROOM
            x = min(across(place), WIDTH - half)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(word)}</text>')
    scale = ", logarithmic" if log else ""
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(setting + scale)}</text>')
    for dot, place in sorted(zip(dots, places, strict=True), key=lambda pair: pair[0].best):
        colour, radius = ("c1", 5) if dot.best else ("c0", 4)
        title = f"<title>{escape(dot.name)}: {compact(dot.score, digits=4)}</title>"
        at = f'cx="{across(place):.1f}" cy="{up(dot.score):.1f}"'
        parts.append(f'<circle class="{colour}" {at} r="{radius}">{title}</circle>')
    label = escape(f"{metric} against {setting}")
    return (
        f'<figure class="chart"><h4>{label.replace(".", ".<wbr>")}</h4>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


def _numbers(dots: Sequence[Dot]) -> list[float] | None:
    try:
        return [float(dot.value) for dot in dots]
    except ValueError:
        return None


def _short(name: str, count: int) -> str:
    room = max(3, int((WIDTH - LEFT - RIGHT) / count / ROOM) - 1)
    return name if len(name) <= min(room, 2 * LABEL) else f"{name[: min(room, 2 * LABEL) - 1]}…"
