"""What a CLIP cost is read from beside its weights, and where that says nothing nothing is made up."""

from pathlib import Path

import pytest

from clipgen import shapes
from clipgen.clip.cost import clip_cost
from clipgen.clip.frozen import load_clip


def test_one_of_ours_says_what_it_was_trained_on():
    clip = load_clip(f"local-dir:{Path(shapes.__file__).parent / 'gapped_clip'}")
    cost = clip_cost(clip)
    assert cost["pictures"] == cost["captions"] == 768_000
    weights = sum(parameter.numel() for parameter in clip.model.parameters())
    assert cost["flops"] == pytest.approx(4.1e13, rel=0.02) and cost["flops"] > 2 * weights * 768_000
    assert "repeats counted" in cost["note"]


def test_one_from_elsewhere_is_said_to_be(tiny_clip_folder):
    cost = clip_cost(load_clip(f"local-dir:{tiny_clip_folder}"))
    assert cost["pictures"] is cost["captions"] is cost["flops"] is None and "trained elsewhere" in cost["note"]
