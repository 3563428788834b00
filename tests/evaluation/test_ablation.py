"""Settings are chosen on development prompts alone, the figures are from test prompts, one factor at a time."""

from dataclasses import replace

import pytest

from clipgen.evaluation.ablation import ATTRIBUTES, FIGURES, Ablation, Asked, as_json, spread, table

DEVELOPMENT_LIKES = {"bridge": "whiten", "fidelity": 0.8, "guidance_scale": 2.0}
TEST_LIKES = {"bridge": "none", "fidelity": 1.0, "guidance_scale": 1.0}


class Judge:
    """Marks by rule; it keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, variant: str, seed: int, asked: Asked, split: str) -> dict[str, float]:
        self.asked.append((variant, seed, asked, split))
        liked = DEVELOPMENT_LIKES if split == "development" else TEST_LIKES
        right = sum(getattr(asked, key) == value for key, value in liked.items()) / 10
        mark = 0.5 + right + seed / 100 - 0.1 * (variant == "no_noise") + 0.1 * (asked.by == "image")
        return {name: mark for name in FIGURES}


@pytest.fixture
def made():
    judge = Judge()
    ablation = Ablation(
        judge, {"default": [0, 1, 2], "no_noise": [0, 2, 5]},
        ["mean", "none", "whiten"], [0.9, 0.8, 1.0], [1.5, 1.0, 2.0],
        {"default": 0.6, "no_noise": 1.0},
    )  # fmt: skip
    return judge, ablation.rows()


def test_what_wins_on_development_prompts_is_the_default_whatever_test_prompts_like(made):
    _, rows = made
    chosen = rows["default"].asked
    assert {key: getattr(chosen, key) for key in DEVELOPMENT_LIKES} == DEVELOPMENT_LIKES


def test_test_prompts_are_asked_for_the_rows_alone(made):
    judge, rows = made
    tested = {(variant, asked) for variant, _, asked, split in judge.asked if split == "test"}
    assert tested == {(row.variant, row.asked) for row in rows.values()}


def test_a_row_differs_from_the_default_in_its_factor_and_in_a_fidelity_of_its_own(made):
    _, rows = made
    default = rows["default"].asked
    assert {name for name in rows if name.startswith("bridge=")} == {"bridge=mean", "bridge=none", "bridge=whiten"}
    for name, row in rows.items():
        if name.startswith("bridge="):
            assert replace(row.asked, bridge=default.bridge, fidelity=default.fidelity) == default
        if name.startswith("guidance="):
            assert replace(row.asked, guidance_scale=default.guidance_scale) == default
    assert rows["no_noise"].asked == replace(default, fidelity=1.0) and rows["no_noise"].variant == "no_noise"
    for bridge in ("mean", "none", "whiten"):  # without noise every bridge is asked
        clean = rows[f"no_noise, bridge={bridge}"]
        assert (clean.variant, clean.asked) == ("no_noise", replace(default, bridge=bridge, fidelity=1.0))


def test_figures_are_over_seeds_and_shares_of_image_are_by_seed(made):
    _, rows = made
    assert rows["default"].figures["development.all"] == {"mean": pytest.approx(0.81), "sem": 0.00577, "n": 3}
    figure = rows["default"].figures["judge.all"]
    assert figure["n"] == 3 and figure["mean"] == pytest.approx(0.51)
    assert figure["sem"] == pytest.approx(0.00577, abs=1e-5)
    shares = [(0.5 + seed / 100) / (0.6 + seed / 100) for seed in (0, 1, 2)]
    assert rows["default"].figures["of_image.all"]["mean"] == pytest.approx(sum(shares) / 3, abs=1e-5)
    assert rows["image"].figures["of_image.all"]["mean"] == 1
    text = table(rows)
    assert len(text.splitlines()) == len(rows) + 2 and "51.0% ± 0.6" in text
    assert set(as_json(rows)) == set(rows) and all(name in text for name in (*rows, *ATTRIBUTES))


def test_a_variant_has_seeds_of_its_own_and_shares_of_those_that_the_default_has_too(made):
    _, rows = made
    figures = rows["no_noise"].figures
    assert figures["judge.all"]["n"] == 3 and figures["judge.all"]["mean"] == pytest.approx(0.5 + 0.07 / 3, abs=1e-5)
    assert figures["of_image.all"]["n"] == 2
    assert figures["of_image.all"]["mean"] == pytest.approx((0.5 / 0.6 + 0.52 / 0.62) / 2, abs=1e-5)


def test_one_seed_has_no_standard_error():
    assert spread([0.5]) == {"mean": 0.5, "sem": None, "n": 1}
