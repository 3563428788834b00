"""Latents with captions: which pictures are used, and which caption is drawn."""

import numpy as np
import pytest
import torch

from clipgen.data.batches import in_share
from clipgen.data.module import CaptionedLatentData
from clipgen.data.sample import sample_key
from clipgen.errors import UserError

STEPS = 12


def some(i: int) -> list[str]:
    return [] if i % 3 == 0 else [f"caption {i}.{c}" for c in range(1 + i % 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_latents):
    made = tmp_path_factory.mktemp("some")
    make_latents(made, captions=some)
    return made


def batches(folder, **options) -> list[dict]:
    data = CaptionedLatentData(folder, 4, STEPS, seed=3, **options)
    data.setup("fit")
    return list(data.train_dataloader())


def test_pictures_without_a_caption_are_left_out_and_each_comes_with_its_own(folder):
    data = CaptionedLatentData(folder, 4, STEPS)
    assert (data.samples, data.n_train, data.n_val) == (30, 20, 4)
    seen = [(row[0].item(), text) for b in batches(folder) for row, text in zip(b["tokens"], b["caption"], strict=True)]
    assert {i for i, _ in seen} == {i for i in range(30) if i % 3}
    assert all(text in some(i) for i, text in seen)
    assert len({text for i, text in seen if i % 2}) > 12  # either of two


@pytest.mark.parametrize("limit", [2 << 30, 0])
def test_what_is_drawn_is_a_function_of_seed_and_batch(folder, limit):
    one, two = (batches(folder, memory_limit_bytes=limit) for _ in range(2))
    resumed = CaptionedLatentData(folder, 4, STEPS, seed=3)
    resumed.start = 5
    for each, wanted in zip([*two, *resumed.train_dataloader()], [*one, *one[5:]], strict=True):
        assert each["caption"] == wanted["caption"] and torch.equal(each["tokens"], wanted["tokens"])
    assert one[0]["caption"] == batches(folder)[0]["caption"]  # whether held in memory or not


def test_embeddings_of_the_caption_take_the_picture_s_place(folder):
    texts, embedded = batches(folder), batches(folder, embeddings=True)
    for text, clip in zip(texts, embedded, strict=True):
        assert torch.equal(text["tokens"], clip["tokens"])
        numbers = [float(caption.rpartition(".")[2]) for caption in text["caption"]]
        assert clip["clip"][:, 0].tolist() == numbers


def test_a_smaller_share_is_part_of_a_larger_one(tmp_path, make_latents):
    make_latents(tmp_path, n_train=400, captions=lambda i: [f"caption {i}"], split_at=100)
    used = {}
    for share in (0.01, 0.1, 0.5, 1.0):
        data = CaptionedLatentData(tmp_path, 2, 3, share=share)
        used[share] = set(data.train_batches.chosen.tolist())
        assert data.n_train == data.in_share == len(used[share]) and data.n_val == 5
    assert used[0.01] < used[0.1] < used[0.5] < used[1.0]
    assert 20 < len(used[0.1]) < 65 and 160 < len(used[0.5]) < 240
    counts = [shard.samples for shard in CaptionedLatentData(tmp_path, 2, 3, share=0.1)._windows()]
    assert len(counts) == 4 and sum(counts) == len(used[0.1])


def test_the_share_is_chosen_by_the_key_alone():
    assert np.mean([in_share(sample_key(i), 0.25) for i in range(4000)]) == pytest.approx(0.25, abs=0.02)


def test_no_captions_are_told_with_how_to_add_them(latent_folder, tmp_path, make_latents):
    with pytest.raises(UserError, match=r"no image of .* has a caption; pack the images again with captions=FILE"):
        CaptionedLatentData(latent_folder, 4, STEPS)
    make_latents(tmp_path, n_train=5, captions=lambda i: ["one"])
    with pytest.raises(UserError, match=r"captions_share=1e-06 of the 5 images .* leaves none"):
        CaptionedLatentData(tmp_path, 4, STEPS, share=1e-6)
