"""The tables of a comparison: arms by rows, metrics by columns, and under each table how its figures were measured."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from clipgen.evaluation.figures import duration, is_number, show
from clipgen.page import details, table

Arms = Mapping[str, Mapping[str, Any]]

GROUPS = {  # metrics that belong together, by how their names begin; in the order of the page
    "judge.": (
        "Does the picture show what the prompt asks for?",
        "Share of the pictures in which it is seen, over all prompts that ask for it.",
    ),
    "judge.held_out.": ("Combinations that no training picture shows", "The same, for these prompts alone."),
    "clip.": ("How near is the picture to its prompt?", "By a CLIP."),
    "cap": ("How likely is the prompt, given the picture?", "By a captioner."),
    "fid_k.": ("How far are the pictures from real ones, blurred by radius k?", "Fréchet distance; 0 is the least."),
    "": ("Quality, variety and copies", ""),
}


def group_of(metric: str) -> str:
    """Which of GROUPS; inception.fid_k.0 and dinov2.fid_k.0 are of fid_k., each with its own table."""
    if "fid_k." in metric:
        return "fid_k."
    return max((start for start in GROUPS if metric.startswith(start)), key=len)


def metric_tables(arms: Arms, metrics: Mapping[str, Mapping[str, Any]], explained: bool = True) -> str:
    """A table for each group of metrics; `explained` adds what stands under the figures."""
    found = dict.fromkeys([*metrics, *(name for arm in arms.values() for name in arm if name != "about")])
    tables: dict[tuple[int, str, str], list[str]] = {}
    for metric in found:
        if any(is_number(value_of(arm, metric)) for arm in arms.values()):
            group = group_of(metric)
            by = metric.partition("fid_k.")[0] if group == "fid_k." else ""
            tables.setdefault((list(GROUPS).index(group), by, group), []).append(metric)
    html = ""
    for (_, _, group), shown in sorted(tables.items()):
        title, meaning = GROUPS[group]
        html += f'<div class="block"><h3>{escape(title)}</h3>' + (f"<p>{escape(meaning)}</p>" if meaning else "")
        html += figures_table(arms, shown, metrics)
        html += (measured(shown, metrics) if explained else "") + "</div>"
    return f'<div class="blocks">{html}</div>' if html else ""


def value_of(arm: Mapping[str, Any], metric: str) -> Any:
    figure = arm.get(metric)
    return figure.get("mean") if isinstance(figure, Mapping) else None


def figures_table(arms: Arms, shown: Sequence[str], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(title_of(metric, metrics))}</th>" for metric in shown)
    best = {metric: best_arms(arms, metric, metrics.get(metric, {}).get("better")) for metric in shown}
    rows = ""
    for name, arm in arms.items():
        cells = "".join(cell(arm, metric, metrics.get(metric, {}), name in best[metric]) for metric in shown)
        rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    for name, ceiling in ceilings(arms).items():
        if any(metric in ceiling for metric in shown):
            cells = "".join(
                f"<td>{rounded(metric, ceiling[metric], 0) if metric in ceiling else '–'}</td>" for metric in shown
            )
            rows += f"<tr><th>{escape(name)}<small>the judge on reconstructions</small></th>{cells}</tr>"
    whole = f'<table class="arms"><thead><tr><th>Arm</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{whole}</div>'


def ceilings(arms: Arms) -> dict[str, Mapping[str, float]]:
    """What the tokenizers leave of fresh pictures, by metric; each is named by its arms where not all have the same."""
    found: list[tuple[Mapping[str, float], list[str]]] = []
    for name, arm in arms.items():
        ceiling = arm.get("about", {}).get("ceiling") or {}
        if same := [names for other, names in found if other == ceiling]:
            same[0].append(name)
        else:
            found.append((ceiling, [name]))
    whose = "" if len(found) == 1 else " of {}"
    return {f"the tokenizer{whose.format(', '.join(names))}": ceiling for ceiling, names in found if ceiling}


def title_of(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    about = metrics.get(metric, {})
    arrow = {"higher": "\N{NO-BREAK SPACE}↑", "lower": "\N{NO-BREAK SPACE}↓"}.get(about.get("better"), "")
    return str(about.get("title", metric)) + arrow


def best_arms(arms: Arms, metric: str, better: str | None) -> set[str]:
    """Of those that are no circular figure; none where there is no other to beat."""
    found = {name: value_of(arm, metric) for name, arm in arms.items() if not is_circular(arm, metric)}
    found = {name: value for name, value in found.items() if is_number(value)}
    if better not in ("higher", "lower") or len(set(found.values())) < 2:
        return set()
    best = max(found.values()) if better == "higher" else min(found.values())
    return {name for name, value in found.items() if value == best}


def is_circular(arm: Mapping[str, Any], metric: str) -> bool:
    return metric in (arm.get("about", {}).get("circular") or ())


def cell(arm: Mapping[str, Any], metric: str, about: Mapping[str, Any], best: bool) -> str:
    """Mean, its interval under it, and what is to be known beside it."""
    figure = arm.get(metric)
    if not isinstance(figure, Mapping) or not is_number(figure.get("mean")):
        return "<td>–</td>"
    ends = [figure.get("low"), figure.get("high")]
    known = all(map(is_number, ends))
    wide = (ends[1] - ends[0]) / 2 if known else 0.0
    value = rounded(metric, figure["mean"], wide)
    html = f"<b>{value}</b>" if best else value
    if known:
        low, high = (rounded(metric, end, wide) for end in ends)
        html += f"<small>{low.removesuffix(' %')} – {high}</small>"
    if is_circular(arm, metric):
        html += '<em title="its judge took part in training, conditioning or selecting samples">circular</em>'
    if warning := figure.get("warning"):
        html += f"<em>{escape(str(warning))}</em>"
    elif about.get("warning"):
        html += "<em>see below</em>"
    return f"<td>{html}</td>"


def rounded(metric: str, value: float, wide: float) -> str:
    """A figure to the second digit of half its interval's width; a share in per cent to one decimal."""
    if is_share(metric):
        return f"{100 * value:.1f} %"
    if not wide:
        return show(metric, value)
    return f"{value:,.{min(max(1 - math.floor(math.log10(wide)), 0), 6)}f}"


def is_share(metric: str) -> bool:
    return show(metric, 0.5).endswith("%")


def measured(shown: Sequence[str], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """How each figure was measured; metrics that were measured alike share a line."""
    lines: dict[str, list[str]] = {}
    for metric in shown:
        about = metrics.get(metric, {})
        words = [str(about["implementation"])] if about.get("implementation") else []
        words += [f"N = {about['n']:,}" if is_number(about["n"]) else f"N = {about['n']}"] if about.get("n") else []
        words += [f"{key}: {about[key]}" for key in ("resize", "reference") if about.get(key)]
        words += [str(about["note"])] if about.get("note") else []
        text = escape("; ".join(words) or "how it was measured is not recorded")
        if about.get("warning"):
            text += f" <em>{escape(str(about['warning']))}</em>"
        lines.setdefault(text, []).append(str(about.get("title", metric)))
    items = "".join(f"<dt>{escape(' · '.join(titles))}</dt><dd>{text}</dd>" for text, titles in lines.items())
    return f"<dl>{items}</dl>"


def arms_table(arms: Arms) -> str:
    """What each arm was trained on and is asked with, and how its settings were chosen."""
    rows = []
    for name, arm in arms.items():
        about = arm.get("about", {})
        chosen = about.get("chosen") or {}
        kept = f"keeps {about['kept']}" if about.get("kept") else None
        known = {key.replace("_", " "): value for key, value in chosen.items() if value is not None}
        settings = ", ".join([*(f"{key} {plain(value)}" for key, value in known.items()), *filter(None, [kept])])
        rows.append(
            [
                name, about.get("conditioned_on", "–"), about.get("asked_with", "–"), captions_used(about),
                about.get("tokenizer", "–"), rates(about), settings or "–", plain(about.get("trials")),
                plain(len(about["seeds"]) if about.get("seeds") else None),
            ]
        )  # fmt: skip
    head = ["Arm", "Trained on", "Asked with", "Captions used", "Tokenizer", "Learning rate",
            "Chosen on development prompts", "Trials", "Seeds"]  # fmt: skip
    return f'<div class="roomy">{table(rows, head)}</div>'


def captions_used(about: Mapping[str, Any]) -> str:
    """The share of the captions, and how many images have such a one."""
    share, images = about.get("captions_share"), about.get("captioned_images")
    if not is_number(share):
        return "–"
    return f"{100 * share:g} %" + (f", {images:,} images" if images else "")


def rates(about: Mapping[str, Any]) -> str:
    """The learning rate; where Muon has the matrices, theirs too; and where among those that were tried it lies.

    One at an end may not be the best: rates beyond it were not tried.
    """
    lr, tried = about.get("lr"), about.get("lr_tried") or ()
    words = plain(lr) + (f", Muon {plain(about['muon_lr'])}" if is_number(about.get("muon_lr")) else "")
    if lr not in tried or len(tried) == 1:
        return words
    end = {min(tried): "the least of ", max(tried): "the largest of "}.get(lr, "of ")
    return f"{words} ({end}{len(tried)} tried)"


def power(value: float) -> str:
    """2.41 × 10¹⁴."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa} × 10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def plain(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if is_number(value) else str(value)


COST = {  # of `about`: heading and how it is shown
    "training_flops": ("Training FLOPs", power),
    "images_seen": ("Images seen", lambda value: f"{value:,.0f}"),
    "steps": ("Batches", lambda value: f"{value:,.0f}"),
    "parameters": ("Parameters", lambda value: f"{value:,.0f}"),
    "embedding_parameters": ("… of embeddings", lambda value: f"{value:,.0f}"),
    "seconds": ("Training time", duration),
    "peak_memory_mb": ("Peak memory", lambda value: f"{value:,.0f} MB"),
    "tokens_per_s": ("Tokens/s, sampling", lambda value: f"{value:,.0f}"),
}


def cost_table(arms: Arms, clip: Mapping[str, Any], at_once: int = 1) -> str:
    """What each arm cost, and the CLIP that the arms without captions take their words from."""
    keys = [key for key in COST if any(is_number(arm.get("about", {}).get(key)) for arm in arms.values())]
    rows = []
    for name, arm in arms.items():
        values = [arm.get("about", {}).get(key) for key in keys]
        shown = (COST[key][1](value) if is_number(value) else "–" for key, value in zip(keys, values, strict=True))
        rows.append([name, *shown])
    html = f'<div class="nowrap">{table(rows, ["Arm", *(COST[key][0] for key in keys)])}</div>' if rows else ""
    if rows:
        stage_2 = "Of stage 2 alone: what a tokenizer of an arm's own cost is not counted."
        beside = f" Times are of {at_once} trainings at once, each with its share of the cores." if at_once > 1 else ""
        html += f'<p class="prose">{stage_2}{beside}</p>'
    if clip:
        said = [["The CLIP", clip.get("model", "–")]]
        counts = [key for key in ("pictures", "captions") if is_number(clip.get(key))]
        said += [[f"… {key} it was trained on", f"{clip[key]:,}"] for key in counts]
        said += [["… FLOPs of its training", power(clip["flops"])]] if is_number(clip.get("flops")) else []
        said += [["", clip["note"]]] if clip.get("note") else []
        html += '<h3>Where the words come from</h3><p class="prose">What uses no captions knows words by its CLIP.</p>'
        html += table(said)
    return html


def family(name: str) -> str:
    """The arm of a variant: `paired_10pct` is `paired` with a tenth of the captions."""
    return re.sub(r"_[\d.]+pct$", "", name)


def versions_table(about: Mapping[str, Any]) -> str:
    """Where and by what it was made."""
    plain_keys = ("command", "date", "hardware", "threads", "python", "commit", "seeds")
    rows = [[key, ", ".join(map(str, value)) if isinstance(value, list) else value]
            for key in plain_keys if (value := about.get(key)) is not None]  # fmt: skip
    rows += [[name, version] for name, version in (about.get("versions") or {}).items()]
    return table(rows)


def commands(lines: Sequence[str]) -> str:
    text = "\n".join(map(str, lines))
    return details("All commands", f"<pre>{escape(text)}</pre>") if lines else ""
