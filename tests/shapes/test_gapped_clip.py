"""The shipped CLIP with a modality gap has it as real ones do: before and after both sides lose their means."""

from importlib.resources import files

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipgen.clip.frozen import load_clip
from clipgen.data.transforms import to_model_range
from clipgen.evaluation.world import zero_shot
from clipgen.shapes.draw import draw, partial_caption, scenes


@pytest.fixture(scope="module")
def clip():
    return load_clip(f"local-dir:{files('clipgen.shapes') / 'gapped_clip'}", None)


@pytest.fixture(scope="module")
def embedded(clip):
    """1,000 fresh pictures and a caption of each, as the CLIP was trained on."""
    drawn, rng = scenes(1000, 20_261_123), np.random.default_rng(0)
    pixels = torch.from_numpy(np.stack([draw(scene) for scene in drawn]))
    return clip.encode_image(to_model_range(pixels)), clip.encode_text([partial_caption(s, rng, 0.5) for s in drawn])


def test_the_centroids_lie_far_apart(embedded):
    image_BE, text_BE = embedded
    assert (image_BE.mean(0) - text_BE.mean(0)).norm() >= 0.8


def test_without_the_means_a_caption_is_farther_from_its_picture_than_another_picture_is(embedded):
    image_BE, text_BE = (F.normalize(side_BE - side_BE.mean(0), dim=-1) for side_BE in embedded)
    own = (image_BE * text_BE).sum(-1).mean()
    nearest = (image_BE @ image_BE.T).fill_diagonal_(-1).max(1).values.mean()
    assert 0.4 < own <= 0.6 and nearest >= 0.9, (own, nearest)


def test_it_still_tells_pictures_apart(clip):
    found = zero_shot(clip, 32, 300)
    assert all(found[f"clip.zero_shot.{name}"] >= 0.97 for name in ("shape", "foreground", "background", "size"))
