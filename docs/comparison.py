"""A finished comparison → docs/results/NAME.json, docs/NAME.png and the tables of docs/results.md.

python docs/comparison.py outputs/compare_demo
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from clipgen.picture import image_grid

DOCS = Path(__file__).parent
JUDGED = ("foreground", "background", "shape", "size", "all", "held_out.all")
OF_SETS = ("clip.score", "fid_k.0", "fid_k.4", "cmmd", "precision", "recall", "diversity", "nearest.mean")
ROWS = 5  # prompts in the picture


def table(arms: Mapping[str, Mapping]) -> str:
    """Of each arm what it was given, and what the judge says of it; without a judge, 100 times the CLIP score."""
    judged = [f"judge.{each}" for each in JUDGED] if is_judged(arms) else ["clip.score"]
    names = (name.removeprefix("judge.").replace("_", " ") for name in judged)
    lines = ["| | batches | " + " | ".join(names) + " |", "|---" * (2 + len(judged)) + "|"]
    for name, figures in arms.items():
        cells = [percent(figures[key]) if key in figures else "—" for key in judged]
        lines.append(f"| `{name}` | {figures['about']['steps']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of_sets(arms: Mapping[str, Mapping]) -> str:
    lines = ["| | " + " | ".join(OF_SETS) + " | s | tokens/s |", "|---" * (3 + len(OF_SETS)) + "|"]
    for name, figures in arms.items():
        about = figures["about"]
        cells = [f"{figures[each]['mean']:.3g}" if each in figures else "—" for each in OF_SETS]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {about['seconds']:.0f} | {about['tokens_per_s']:,.0f} |")
    return "\n".join(lines)


def is_judged(arms: Mapping[str, Mapping]) -> bool:
    return any("judge.all" in figures for figures in arms.values())


def percent(figure: Mapping[str, float]) -> str:
    """A mean and its 95 % interval."""
    return f"{100 * figure['mean']:.1f} ({100 * figure['low']:.0f}–{100 * figure['high']:.0f})"


def side_by_side(folder: Path, grids: Mapping) -> Image.Image:
    """The same prompts, one picture of each arm, in their order; few arms leave no room for their names."""
    arms = grids["arms"]
    images = [Image.open(folder / paths[row][0]) for row in range(ROWS) for paths in arms.values()]
    return image_grid(images, len(arms), grids["prompts"][:ROWS], cell=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    content = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    grids = content.pop("grids")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (DOCS / "results" / f"{folder.name}.json").write_text(text, encoding="utf-8")
    side_by_side(folder, grids).save(DOCS / f"{folder.name}.png", optimize=True)
    print(f"from the left: {', '.join(grids['arms'])}")
    print(table(content["arms"]), table_of_sets(content["arms"]), table(content["equal_images"]["arms"]), sep="\n\n")
    metric = "judge.all" if is_judged(content["arms"]) else "clip.score"
    for each in content["differences"]:
        if each["metric"] == metric:
            print(f"{each['a']} - {each['b']}: {percent(each)} points")
    for bar in content["bars"]:
        print(bar)


if __name__ == "__main__":
    main()
