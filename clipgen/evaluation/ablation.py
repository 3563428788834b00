"""One factor at a time: how a model is asked is chosen on development prompts, the figures are from test prompts.

A variant is a way of training, with a model for each seed. Text asks through a bridge. Image is the upper mark: the
same model, asked by the embedding of a held-out picture of what the prompt says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

ATTRIBUTES = ("foreground", "background", "shape", "size")
FIGURES = tuple(f"judge.{kind}{name}" for kind in ("", "held_out.") for name in (*ATTRIBUTES, "all"))
AIM = "judge.all"  # what settings are chosen by


@dataclass(frozen=True)
class Asked:
    """By text or by image; `bridge` has no part in the latter."""

    by: str
    bridge: str
    fidelity: float
    guidance_scale: float


Judge = Callable[[str, int, Asked, str], dict[str, float]]  # variant, seed, how, split → metrics of the judge


@dataclass(frozen=True)
class Row:
    variant: str
    asked: Asked
    figures: dict[str, dict[str, float]]  # mean, sem, n over seeds; of_image.… is the share of the row `image`


class Ablation:
    """`rows()` asks `judge` for what it needs, so that a judge which remembers makes it resumable."""

    def __init__(
        self,
        judge: Judge,
        seeds: Mapping[str, Sequence[int]],
        bridges: Sequence[str],
        fidelities: Sequence[float],
        guidance_scales: Sequence[float],
        least: Mapping[str, float],
    ):
        """`seeds` of each variant, the default first; at the first guidance scale bridges and fidelities are chosen.

        `least` is the lowest level that a variant was trained at: it is asked at none below.
        """
        self.least = least
        self.judge, self.variants, self.seeds = judge, list(seeds), seeds
        self.bridges, self.fidelities, self.guidance_scales = bridges, fidelities, guidance_scales

    def rows(self) -> dict[str, Row]:
        default = self.variants[0]
        begun = Asked("text", self.bridges[0], self.fidelities[0], self.guidance_scales[0])
        bridged = {}
        for each in self.bridges:
            bridged[each] = self.best(default, self.over_fidelity(default, replace(begun, bridge=each)))
        best = self.best(default, list(bridged.values()))
        text = self.best(default, self.over_guidance(best))
        image = self.best(default, self.over_fidelity(default, replace(begun, by="image")))
        image = self.best(default, self.over_guidance(image))
        asked = {"default": (default, text), "image": (default, image)}
        for each, found in bridged.items():
            asked[f"bridge={each}"] = default, replace(found, guidance_scale=text.guidance_scale)
        for scale in sorted(self.guidance_scales):
            asked[f"guidance={scale:g}"] = default, replace(text, guidance_scale=scale)
        for variant in self.variants[1:]:
            asked[variant] = variant, self.best(variant, self.over_fidelity(variant, text))
            if self.least[variant] == 1:  # without noise it is the bridge alone that closes the gap
                clean = replace(text, fidelity=1.0)
                asked |= {f"{variant}, bridge={each}": (variant, replace(clean, bridge=each)) for each in self.bridges}
        marks = {seed: self.judge(default, seed, image, "test") for seed in self.seeds[default]}
        return {name: Row(variant, how, self.figures(variant, how, marks)) for name, (variant, how) in asked.items()}

    def over_fidelity(self, variant: str, asked: Asked) -> list[Asked]:
        return [replace(asked, fidelity=each) for each in self.fidelities if each >= self.least[variant]]

    def over_guidance(self, asked: Asked) -> list[Asked]:
        return [replace(asked, guidance_scale=each) for each in self.guidance_scales]

    def best(self, variant: str, choices: Sequence[Asked]) -> Asked:
        """By the mean over seeds on development prompts; of equal ones the first."""
        seeds = self.seeds[variant]
        return max(choices, key=lambda c: np.mean([self.judge(variant, s, c, "development")[AIM] for s in seeds]))

    def figures(self, variant: str, asked: Asked, marks: Mapping[int, dict[str, float]]) -> dict[str, dict[str, float]]:
        found = {seed: self.judge(variant, seed, asked, "test") for seed in self.seeds[variant]}
        table = {name: spread([each[name] for each in found.values()]) for name in FIGURES}
        chosen_by = [self.judge(variant, seed, asked, "development")[AIM] for seed in self.seeds[variant]]
        table["development.all"] = spread(chosen_by)
        for name in FIGURES:
            shares = [each[name] / marks[seed][name] for seed, each in found.items() if marks.get(seed, {}).get(name)]
            if shares:
                table[f"of_image.{name.removeprefix('judge.')}"] = spread(shares)
        return table


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and its standard error (None of one value)."""
    n = len(values)
    sem = round(float(np.std(values, ddof=1) / n**0.5), 5) if n > 1 else None
    return {"mean": round(float(np.mean(values)), 5), "sem": sem, "n": n}


def table(rows: dict[str, Row]) -> str:
    """A Markdown table: per cent ± standard error on the test prompts, and how each row was asked."""
    names = (*ATTRIBUTES, "all", "held_out.all")
    titles = [name.replace("_", " ").replace(".", ", ") for name in names]
    heads = ["row", "asked with", "seeds", *titles, "all, of image"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        how = row.asked
        bridge = how.bridge if how.by == "text" else "a picture"
        cells = [name, f"{bridge}, {how.fidelity:g}, {how.guidance_scale:g}", str(row.figures[AIM]["n"])]
        cells += [_percent(row.figures[f"judge.{each}"]) for each in names]
        lines.append("| " + " | ".join([*cells, _percent(row.figures.get("of_image.all"))]) + " |")
    return "\n".join(lines)


def _percent(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['mean']:.1%}" + (f" ± {100 * figure['sem']:.1f}" if figure["sem"] is not None else "")


def as_json(rows: dict[str, Row]) -> dict:
    return {name: {"variant": row.variant, "asked": asdict(row.asked), **row.figures} for name, row in rows.items()}
