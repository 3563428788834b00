"""A trained model of a comparison, asked."""

import json
import time
from types import SimpleNamespace

import numpy as np
from PIL import Image

from clipgen.cli.asking import Asked
from clipgen.evaluation.worlds import World


def test_tokens_per_second_are_those_of_sampling_without_what_loading_takes(tmp_path):
    def generate(prompts, n, seed, on_batch, **settings):
        return [Image.new("RGB", (4, 4))] * (n * len(prompts))

    def load():
        time.sleep(0.5)
        return SimpleNamespace(generate=generate, transformer=SimpleNamespace(n_tokens=64))

    for name, fingerprint in (("transformer.previous", "0"), ("transformer", "1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(json.dumps({"fingerprint": fingerprint, "seconds": 1.0}))
    world = World("one", {"test": ["a dot"]}, lambda split, images: {"judge.all": np.ones(1)}, "judge.all", {})
    asked = Asked(tmp_path, "transformer", 0, world, {}, load)
    assert asked.weights == "1 1.0", "and not those set aside"
    found = asked.test({}, 2, None)
    assert found["seconds"] < 0.4 and found["tokens_per_s"] > 2 * 64 / 0.4


def test_another_judge_or_another_setting_is_asked_anew(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "stage.json").write_text(json.dumps({"fingerprint": "1", "seconds": 1.0}))
    made = []

    def generate(prompts, n, seed, on_batch, **settings):
        made.append(settings)
        return [Image.new("RGB", (4, 4))] * (n * len(prompts))

    def asked(mark: float, **sampling) -> float:
        by = {"implementation": f"the judge that gives {mark}"}
        world = World("one", {"development": ["a dot"]}, lambda *_: {"judge.all": np.full(1, mark)}, "judge.all", by)
        return Asked(tmp_path, "transformer", 0, world, sampling, lambda: SimpleNamespace(generate=generate)).trial(
            {"top_k": 4}, 2
        )

    assert asked(0.1, top_k=0, top_p=1.0) == asked(0.1, top_k=8, top_p=1.0) == 0.1
    assert len(made) == 1, "what is chosen does not depend on what it is chosen instead of"
    assert asked(0.7, top_k=0, top_p=1.0) == 0.7 and len(made) == 2
    assert asked(0.7, top_k=0, top_p=0.9) == 0.7 and len(made) == 3
