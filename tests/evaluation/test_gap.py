"""The gap's figures on clouds of known shape, and the real embeddings where they are at hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipgen.evaluation.gap import BRIDGES, average_precision, measure_bridges, measure_gap, moments
from clipgen.evaluation.gap_picture import gap_picture
from clipgen.transformer.condition import centre

E = 8


def clouds(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and texts of the same contents with another mean."""
    draw = torch.Generator().manual_seed(0)
    content_NE = torch.randn(n, E, generator=draw) * 0.3
    content_NE[:, :2] = 0.0  # there the modalities differ, and nothing else does
    image_E, text_E = torch.eye(E)[0], torch.eye(E)[1]
    return F.normalize(content_NE + image_E, dim=-1), F.normalize(content_NE + text_E, dim=-1)


IMAGES, TEXTS = clouds()


def test_the_gap_in_numbers():
    facts = measure_gap(IMAGES, TEXTS, TEXTS)
    assert facts["centroid_distance"] == pytest.approx(float((IMAGES.mean(0) - TEXTS.mean(0)).norm()))
    pairs_NN = IMAGES @ TEXTS.T
    assert facts["cosine_image_text"] == pytest.approx(float(pairs_NN.mean()), abs=1e-5)
    squared = float(torch.cdist(IMAGES, TEXTS).square().mean())
    assert facts["gap_mean_share"] == pytest.approx(facts["centroid_distance"] ** 2 / squared, rel=1e-4)
    inner_NN = (IMAGES @ IMAGES.T)[~torch.eye(len(IMAGES), dtype=bool)]
    assert facts["image"]["cosine_within"] == pytest.approx(float(inner_NN.mean()), abs=1e-5)
    assert facts["pairs"]["cosine"] == pytest.approx(float(pairs_NN.diagonal().mean()), abs=1e-5)
    assert facts["pairs"]["cosine"] < 0.5 < 0.9 < facts["pairs"]["cosine_centred"]


def test_the_effective_dimension_counts_equal_directions():
    rows = torch.eye(4).repeat(10, 1)
    assert measure_gap(rows, rows)["image"]["effective_dimension"] == pytest.approx(3, rel=1e-4)  # the mean takes one
    spectrum = measure_gap(rows, rows)["image"]["spectrum"]
    assert spectrum[:3] == pytest.approx([1 / 3] * 3, abs=1e-4) and spectrum[3] == pytest.approx(0, abs=1e-6)


def test_where_the_bridges_bring_the_texts():
    found = measure_bridges(IMAGES[::2], TEXTS[::2], moments(IMAGES, TEXTS), IMAGES[1::2], TEXTS[::2])
    assert list(found) == ["image", *BRIDGES]
    assert found["none"]["centroid_distance"] > 0.8 > 0.1 > found["mean"]["centroid_distance"]
    assert found["mean"]["recall@1"] > 0.95 > found["none"]["recall@1"]
    assert found["mean"]["paired_cosine"] > 0.95
    assert found["knn"]["cosine_nearest"] > found["none"]["cosine_nearest"]


def test_images_without_a_text_are_no_pairs_but_may_be_found_for_one():
    some_NE = TEXTS.clone()
    some_NE[::3] = torch.nan
    facts, known_N = measure_gap(IMAGES, TEXTS, some_NE), torch.arange(len(TEXTS)) % 3 > 0
    assert facts["pairs"]["images"] == known_N.sum()
    assert facts["pairs"]["cosine"] == pytest.approx(float((IMAGES * TEXTS).sum(1)[known_N].mean()), abs=1e-5)
    found, every = (measure_bridges(IMAGES, TEXTS, moments(IMAGES, TEXTS), None, own_NE) for own_NE in (some_NE, TEXTS))
    assert found["mean"]["recall@1"] > 0.95 and found["mean"]["paired_cosine"] > 0.95
    for name in ("none", "mean"):
        for key in ("paired_cosine", "recall@1"):
            assert found[name][key] == pytest.approx(every[name][key], abs=0.1)


def test_without_a_bank_knn_is_left_out():
    found = measure_bridges(IMAGES, TEXTS, moments(IMAGES, TEXTS))
    assert list(found) == ["image", "none", "mean", "mean_scale", "whiten"]


def test_the_picture_shows_the_clouds_apart_then_together():
    statistics = moments(IMAGES, TEXTS)
    found = measure_bridges(IMAGES, TEXTS, statistics)
    picture = gap_picture(IMAGES, TEXTS, statistics, None, found).convert("RGB")
    assert picture.width > 1000 and picture.height > 600  # five panels in two rows
    apart = {name: clouds_apart(picture, panel) for panel, name in enumerate(["as they are", "none", "mean"])}
    assert apart["as they are"] > 100 and apart["none"] > 100  # pixels, in panels of 300
    assert apart["mean"] < 20


def clouds_apart(picture, panel: int) -> float:
    """Pixels between the middles of the blue and the orange points of a panel in the first row."""
    left = 12 + 310 * panel
    pixels = np.asarray(picture.crop((left, 72, left + 296, 366))).astype(int)
    blue, orange = (np.argwhere(sign * (pixels[..., 2] - pixels[..., 0]) > 60) for sign in (1, -1))
    assert min(len(blue), len(orange)) > 100
    return float(np.linalg.norm(blue.mean(0) - orange.mean(0)))


def test_average_precision_by_hand():
    relevant_N = torch.tensor([True, False, True, False])
    assert average_precision(torch.tensor([4.0, 3, 2, 1]), relevant_N) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(torch.tensor([1.0, 3, 2, 4]), relevant_N) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(torch.tensor([4.0, 1, 3, 2]), relevant_N) == 1.0


def test_one_rotation_of_both_sides_changes_no_ranking():
    rotation_EE = torch.linalg.qr(torch.randn(E, E, generator=torch.Generator().manual_seed(1)))[0]
    images_NE, texts_NE = IMAGES @ rotation_EE, TEXTS @ rotation_EE
    statistics = moments(images_NE, texts_NE)
    turned = measure_bridges(images_NE, texts_NE, statistics, None, texts_NE, ("mean", "whiten"))
    plain = measure_bridges(IMAGES, TEXTS, moments(IMAGES, TEXTS), None, TEXTS, ("mean", "whiten"))
    for name in plain:
        assert turned[name] == pytest.approx(plain[name], abs=1e-3)


def test_real_embeddings(shared_data):
    from benchmarks.gap_real import precision, read

    folder = shared_data / "clip_vitb32_fixture"
    image_NE, text_CE, *_ = read(folder)
    facts = measure_gap(image_NE, text_CE)
    assert facts["centroid_distance"] == pytest.approx(0.943, abs=0.001)
    assert facts["cosine_image_text"] == pytest.approx(0.187, abs=0.001)
    assert centre(image_NE, image_NE.mean(0)).shape == (1000, 512)
    found = precision(folder)
    assert found["names"] == 35
    made = {name: each["map"] for name, each in found["bridges"].items()}
    assert made["chance"] < made["none"] < made["raw cosine"] < made["mean"]
