"""Prompts are typed as people type them; Hydra's grammar sees settings only."""

import pytest

from clipgen.cli.words import fixed_keys, for_hydra, named_folder, split_words
from clipgen.errors import UserError


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle on a blue background",
        "red, green, and blue",
        "a \"quoted\" 'word'",
        "time: noon; place: [Rome] {old} (town)",
        "E = mc²",
        "a=b",
        "size=4",
        "x.n=4",
        "N=4",
        " n=4",
        "n",
        "=4",
        "größer, 赤い円, 🎈",
        "${oops}",
        "$(rm -rf)",
        "\\n",
        "",
        "~seed",
        "+n",
        "-7 degrees",
        "--what",
        "50% off!",
        "a\nb",
    ],
)
def test_a_prompt_stays_as_it_is_typed(prompt):
    assert split_words(["model=m", prompt, "n=2"]) == (["model=m", "n=2"], [prompt])


@pytest.mark.parametrize(
    "word", ["n=4", "seed=0", "model=outputs/a b/model", "out=x=y", "prompts=file.txt", "top_p=", "hydra.verbose=true"]
)
def test_a_known_key_before_the_equals_sign_makes_a_setting(word):
    assert split_words(["a cat", word]) == ([word], ["a cat"])


def test_after_two_dashes_everything_is_a_prompt():
    words = ["n=2", "a cat", "--", "n=4", "--help", "--", "-m"]
    assert split_words(words) == (["n=2"], ["a cat", "n=4", "--help", "--", "-m"])


def test_prompts_keep_their_order_and_repeat():
    assert split_words(["b", "n=1", "a", "b"])[1] == ["b", "a", "b"]


@pytest.mark.parametrize(
    "flags", [["-m"], ["--multirun"], ["--help"], ["-h"], ["--cfg", "job"], ["-c", "job"], ["--config-dir", "my conf"]]
)
def test_flags_and_their_values_are_no_prompts(flags):
    assert split_words(["a cat", *flags, "a dog"]) == (flags, ["a cat", "a dog"])


def test_flags_stand_before_settings_wherever_they_were_typed():
    assert for_hydra(["a=1", "--cfg", "job", "b=2", "--resolve"]) == ["--cfg", "job", "--resolve", "a=1", "b=2"]
    assert for_hydra(["a=1", "--cfg=job", "b=2"]) == ["--cfg=job", "a=1", "b=2"]


def test_a_sweep_names_its_jobs_by_what_is_swept():
    words = for_hydra(["stage=clip", "-m", "lr=1,2", "clip.model='a,b'", "seed=range(3)"])
    excluded = "hydra.job.config.override_dirname.exclude_keys=['stage','clip.model']"
    assert words == ["-m", "stage=clip", "lr=1,2", "clip.model='a,b'", "seed=range(3)", excluded]
    assert fixed_keys(["a=1", "b=1,2", "c=[1,2]"]) == ["'a'", "'c'"]
    assert fixed_keys(["a=1", "b=1,2", "a=1,2", "b=1"]) == ["'b'"]


def test_a_saved_sweep_is_a_sweep_and_a_job_of_it_is_none():
    assert for_hydra(["sweep=lr", "a=1"])[0] == "-m"
    for words in (["sweep=null"], ["sweep=lr", "hydra.mode=RUN"], ["sweep=lr", "--cfg", "job"]):
        assert "-m" not in for_hydra(words)


def test_the_folder_of_a_report_is_named_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=0").mkdir()
    words = ["outputs/a", "run=outputs/a", "multirun/a/seed=0,lr=1", "seed=0", "--cfg", "folder=x"]
    jobs = ["run=outputs/a", "run=outputs/a", "run=multirun/a/seed=0,lr=1", "run=seed=0", "--cfg", "folder=x"]
    assert named_folder(words) == jobs


@pytest.mark.parametrize("word", ["--images=x", "--steps", "-n", "--"])
def test_an_unknown_option_is_explained(word):
    with pytest.raises(UserError, match=f"{word} is no option; a setting is typed as key=value"):
        for_hydra(["name=a", word])


@pytest.mark.parametrize(
    "path",
    [
        "Photos, 2024", "a=b/c", "x(1)[2]{3}", 'it\'s "q"', "üñí/ä b", "C:\\dir\\", "a\\'b", "#1!?*", "plain/dir", "1%",
        "/jürgen", "фото",
    ],
)  # fmt: skip
def test_a_path_works_as_it_is_typed(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    keys = ("images", "mask", "name", "clip.model", "clip.pretrained", "compare.judge_model")
    for word in for_hydra([f"{key}={path}" for key in keys]):
        assert OverridesParser.create().parse_override(word).value() == path


def test_in_a_sweep_too_but_for_what_parts_its_values():
    words = ["images=x (y)", "out=größe", "name=a,b", "shards=choice(a,b)", "latents=glob(*)", "mask='a,b'"]
    assert for_hydra(["-m", *words])[1:-1] == ["images='x (y)'", "out='größe'", *words[2:]]


def test_a_folder_may_stand_alone(tmp_path):
    assert named_folder(["outputs/a b"]) == ["run=outputs/a b"]
    assert named_folder(["--cfg", "job", "birds", "run=x"]) == ["--cfg", "job", "run=birds", "run=x"]
    (tmp_path / "lr=1").mkdir()
    assert named_folder([f"{tmp_path}/lr=1", "lr=1"]) == [f"run={tmp_path}/lr=1", "lr=1"]
