"""Mixes, negative prompts and what is too long, as a person asks for them."""

import json

import pytest

from clipgen.cli.mix import read_mix
from clipgen.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "[1]", '[{"weight": 1}]', '[{"text": "a", "image": "b"}]', '[{"text": "a", "wieght": 1}]',
        '[{"text": " "}]', '[{"text": "a", "weight": 0}]', '[{"text": "a", "weight": "1"}]',
        '[{"text": "a", "weight": NaN}]',
    ],
)  # fmt: skip
def test_a_mix_that_cannot_be_read(tmp_path, text):
    (tmp_path / "mix.json").write_text(text)
    with pytest.raises(UserError, match=r"^mix=.*mix\.json") as refused:
        read_mix(str(tmp_path / "mix.json"))
    assert "\n" not in str(refused.value)


def test_images_of_a_mix_are_found_beside_it(tmp_path):
    (tmp_path / "mix.json").write_text('[{"text": "a:1.5 (b)", "weight": -0.5}, {"image": "sky.png"}]')
    text, image = read_mix(str(tmp_path / "mix.json"))
    assert text == ("a:1.5 (b)", "text", -0.5) and image == (str(tmp_path / "sky.png"), "image", 1.0)


def test_sampling_a_mix_with_a_negative_prompt(clipgen, one_line, run_folder, tmp_path):
    (tmp_path / "mix.json").write_text('[{"text": "a red circle"}, {"image": "photo.png", "weight": 0.5}]')
    words = ["sample", f"model={run_folder / 'model'}", f"mix={tmp_path / 'mix.json'}", f"out={tmp_path}", "n=1"]
    assert "photo.png cannot be read as an image" in one_line(clipgen(*words))
    (tmp_path / "photo.png").write_bytes(next(run_folder.glob("samples.png")).read_bytes())
    outcome = clipgen(*words, "negative=blue, with (brackets)", "bridge=whiten")
    assert outcome.status == 0, outcome.error
    line = json.loads((tmp_path / "samples.jsonl").read_text())
    assert line["negative"] == "blue, with (brackets)" and len(line["mix"]) == 2
    assert line["settings"]["bridge"] == "whiten"


def test_a_prompt_that_is_cut_is_said_to_be(clipgen, run_folder, tmp_path):
    words = ["sample", f"model={run_folder / 'model'}", f"out={tmp_path}", "n=1"]
    outcome = clipgen(*words, "a red circle " * 100)
    assert outcome.status == 0 and "what goes beyond is cut" in outcome.error
    assert "is cut" not in clipgen(*words, "a circle").error
