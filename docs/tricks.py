"""Whether CogView2's sampling tricks beat their trivial baselines, by the pixel judge of the demo world.

python docs/tricks.py outputs/paired_model

For clusters of codes that is top-k over single codes at the same temperature, of as many choices; for the boost of the
prompt, none. What is best on development prompts is asked of the test prompts, once; a difference is paired by prompt.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from clipgen.cli.machine import made_with, pick_device
from clipgen.data.atomic import write_json
from clipgen.evaluation.bootstrap import paired_difference
from clipgen.evaluation.worlds import shapes_world
from clipgen.pipeline import ClipGen

CHOICES = {
    "top_k": [{"top_k": k} for k in (4, 8, 16, 32)],
    "clusters": [{"clusters": n, "top_k": k} for n, k in ((16, 4), (16, 8), (32, 8), (32, 16))],
    "plain": [{}],
    "boost": [{"prefix_boost": boost} for boost in (0.25, 0.5, 1.0, 1.4)],
}
AGAINST = {"clusters": "top_k", "boost": "plain"}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--development", type=int, default=2, help="pictures of a prompt")
    parser.add_argument("--test", type=int, default=4)
    given = parser.parse_args()
    pipeline, world = ClipGen.from_pretrained(given.model), shapes_world()

    def judged(split: str, n: int, settings: dict[str, Any]) -> dict[str, np.ndarray]:
        return world.judge(split, pipeline.generate(world.prompts[split], n, 0, **settings))

    arms, values = {}, {}
    for arm, choices in CHOICES.items():
        tried = [judged("development", given.development, settings)["judge.all"].mean() for settings in choices]
        chosen = choices[int(np.argmax(tried))]
        values[arm] = judged("test", given.test, chosen)
        tried = {json.dumps(settings): round(float(value), 4) for settings, value in zip(choices, tried, strict=True)}
        arms[arm] = {"chosen": chosen, "development": tried}
        for name, value_P in values[arm].items():
            known_P = value_P[~np.isnan(value_P)]
            sem = float(known_P.std(ddof=1) / len(known_P) ** 0.5)
            arms[arm][name] = {"mean": round(float(known_P.mean()), 4), "sem": round(sem, 4), "n": len(known_P)}
        print(arm, arms[arm], flush=True)
    differences = {}
    for arm, other in AGAINST.items():
        found = paired_difference(values[arm]["judge.all"][None], values[other]["judge.all"][None])
        differences[f"{arm} - {other}"] = {key: round(getattr(found, key), 4) for key in ("mean", "low", "high")}
    print(differences)
    kept = made_with(pick_device("cpu")) | {"seeds": [0], "sampling": pipeline.sampling}
    write_json(RESULTS / "tricks.json", kept | {"arms": arms, "differences": differences})


if __name__ == "__main__":
    main()
