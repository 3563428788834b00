"""Figures of a generator against pictures: what they see, what they say of themselves, and when they warn."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import nn

from clipgen.clip.frozen import load_clip
from clipgen.evaluation import metrics
from clipgen.evaluation.extractors import Extractor, of_clip
from clipgen.evaluation.features import frechet
from clipgen.evaluation.metrics import BLURS, Captioner, Pictures, against, blurred, clip_score, cmmd, fid_k
from clipgen.shapes.draw import draw, scenes


@pytest.fixture(scope="module")
def clip():
    return load_clip(f"local-dir:{files('clipgen.shapes') / 'clip'}", None)


@pytest.fixture(scope="module")
def extractor(clip):
    return of_clip(clip)


def drawn(n: int, seed: int, made_with=()) -> Pictures:
    return Pictures.of([Image.fromarray(draw(scene)) for scene in scenes(n, seed)], "drawn pictures", made_with)


@pytest.fixture(scope="module")
def reference():
    return drawn(120, 1)


class Random(nn.Module):
    """A network of random weights: one convolution that sees edges, and its mean over the picture."""

    def __init__(self, size: int):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, size, 7, stride=8)

    def forward(self, image_BCHW):
        return 10 * self.convolution(image_BCHW.float() / 255).relu().mean((2, 3))


def random_extractor(size: int = 8, name: str = "random", classes=None) -> Extractor:
    return Extractor(name, "f" * 16, size, "a random network", "as they are", Random(size), classes)


def test_a_blurred_copy_of_a_set_comes_closer_the_more_both_are_blurred():
    sharp = drawn(40, 1)
    copy = [Image.fromarray(each).filter(ImageFilter.GaussianBlur(0.5)) for each in sharp.pixels_NHWC.numpy()]
    network, copies = random_extractor(), Pictures.of(copy, "copies")
    found = [fid_k(copies, sharp, network, k).value for k in BLURS]
    assert found == sorted(found, reverse=True) and found[-1] < 0.5 * found[0]
    assert fid_k(sharp, sharp, network, 1).value == pytest.approx(0, abs=1e-3 * found[1])


def test_fid_k_is_the_frechet_distance_at_256_pixels_under_pillows_blur(reference, extractor):
    samples = drawn(100, 2)
    figure = fid_k(samples, reference, extractor, 4)
    sides = []
    for pictures in (samples, reference):
        large = [
            Image.fromarray(each).resize((256, 256), Image.Resampling.BICUBIC) for each in pictures.pixels_NHWC.numpy()
        ]
        pixels = np.stack([np.asarray(each.filter(ImageFilter.GaussianBlur(4))) for each in large])
        sides.append(extractor.embed(torch.from_numpy(pixels)))
    assert figure.value == pytest.approx(frechet(*sides), rel=1e-6)
    assert figure.n == 100 and "GaussianBlur(4), sigma 4" in figure.resize and "256" in figure.resize
    assert "120 drawn pictures" in figure.reference and "torchmetrics" in figure.implementation
    assert "Gaussian" not in fid_k(samples, reference, extractor, 0).resize


def test_the_blur_is_of_sigma_k():
    step = torch.zeros(256, 256, 3, dtype=torch.uint8)
    step[:, 128:] = 255
    for k in BLURS[1:]:
        slope = np.diff(blurred(step, k)[128, :, 0].double().numpy()) / 255
        at = np.arange(255)
        sigma = ((slope * (at - (slope * at).sum()) ** 2).sum()) ** 0.5
        assert sigma == pytest.approx(k, rel=0.03)
    wide = torch.zeros(100, 200, 3, dtype=torch.uint8)
    wide[:, 45:155] = 255
    assert (blurred(wide, 0) == 255).all()  # the centre square, not all of it squeezed


def test_what_is_as_drawn_scores_better_than_one_picture_again_and_again(reference, extractor):
    same, narrow = drawn(120, 2), Pictures(drawn(3, 3).pixels_NHWC.repeat(40, 1, 1, 1), "three pictures")
    good, bad = (against(each, reference, extractor, 40)[0] for each in (same, narrow))
    assert set(good) == {f"fid_k.{k}" for k in BLURS} | {
        "cmmd",
        "precision",
        "recall",
        "density",
        "coverage",
        "diversity",
    }
    for name in ("fid_k.0", "fid_k.8", "cmmd"):
        assert good[name].value < 0.3 * bad[name].value, name
    for name in ("precision", "recall", "density", "coverage"):
        assert good[name].value > 0.6, name
    assert bad["recall"].value < 0.2 and bad["coverage"].value < 0.3
    assert good["diversity"].value > 0.5


def test_too_few_pictures_are_warned_of_beside_the_number(reference, extractor):
    few = drawn(50, 2)
    size = extractor.size
    assert len(reference) > size >= len(few)
    warned = fid_k(few, reference, extractor, 0)
    assert "drawn pictures are 50" in warned.warning and f"the {size} features" in warned.warning
    assert "WARNING biased upwards" in warned.how
    assert fid_k(reference, few, extractor, 0).warning  # of the reference as well
    assert not fid_k(reference, drawn(100, 2), extractor, 0).warning
    assert "is the bias of few pictures" in cmmd(drawn(20, 2), drawn(20, 3), extractor).warning
    assert "compare at equal numbers" in metrics.manifold(few, reference, extractor)["recall"].warning


def test_what_conditioned_or_selected_makes_a_figure_circular(reference, clip, extractor):
    prompts = [f"a {s.colour} {s.shape} on a {s.background} background" for s in scenes(20, 2)]
    samples, own = drawn(20, 2), drawn(20, 2, {extractor.fingerprint})
    for pictures, circular in ((samples, False), (own, True)):
        figures, _ = against(pictures, reference, extractor, 20)
        every = [*figures.values(), clip_score(pictures, prompts, clip)[0]]
        assert {figure.circular for figure in every} == {circular}
        assert all(("CIRCULAR" in figure.how) == circular for figure in every)
    assert not fid_k(own, reference, random_extractor(), 0).circular  # another network's is its own
    captioner = Captioner("reader", "r" * 16, lambda image, texts: torch.ones(len(texts)))
    assert not metrics.caption_loss(own, prompts, captioner)[0].circular
    ranked = Pictures(own.pixels_NHWC, "best of 8", {captioner.fingerprint})
    assert metrics.caption_loss(ranked, prompts, captioner)[0].circular


def test_clip_scores_of_right_and_of_other_prompts(clip):
    prompts = [f"a {s.colour} {s.shape} on a {s.background} background" for s in scenes(70, 2)]
    samples = Pictures(drawn(70, 2).pixels_NHWC.repeat_interleave(2, 0), "two each")
    figure, values = clip_score(samples, prompts, clip)
    assert values.shape == (70, 2) and figure.value == pytest.approx(values.mean()) and figure.n == 140
    assert np.array_equal(values[:, 0], values[:, 1])
    assert figure.value > clip_score(samples, prompts[::-1], clip)[0].value + 0.2


def test_a_captioner_is_asked_for_each_sample_and_its_own_prompt():
    samples = Pictures(torch.arange(140, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3), "s")

    def loss(image_BHWC, texts):
        return image_BHWC[:, 0, 0, 0].float() - torch.tensor([2.0 * int(text) for text in texts])

    figure, values = metrics.caption_loss(samples, [str(i) for i in range(70)], Captioner("c", "f", loss))
    assert figure.value == 0.5 and np.array_equal(values, np.tile([0.0, 1.0], (70, 1)))
    assert "nats a token by the captioner c" in figure.how


def test_what_an_extractor_cannot_measure_is_left_out_by_name(reference, extractor):
    figures, left_out = against(drawn(20, 2), reference, random_extractor(classes=torch.eye(8)), 20)
    assert set(left_out) == {"cmmd", "diversity"} and "by a CLIP" in left_out["cmmd"]
    assert (
        not figures["is"].reference
        and "against" not in figures["is"].how
        and figures["is"].warning
        and 1 <= figures["is"].value <= 8
    )
    _, left_out = against(drawn(1, 2), reference, extractor, 1)
    wanted = {"fid_k", "cmmd", "precision", "recall", "density", "coverage", "is", "diversity"}
    assert set(left_out) == wanted and "1 drawn pictures" in left_out["fid_k"]
    with pytest.raises(ValueError, match="two pictures"):
        fid_k(drawn(1, 2), reference, extractor, 0)


def test_copies_of_training_pictures_are_seen(reference):
    batches = [{"image": part} for part in reference.pixels_NHWC.split(50)]
    sets = {"copied": reference.pixels_NHWC[30:90], "fresh": drawn(50, 2).pixels_NHWC}
    found = metrics.copies(sets, batches, "120 training pictures")
    assert found["copied.mean"].value < 0.1 and found["copied.least"].value < 0.1 < found["fresh.least"].value
    assert found["fresh.least"].value < found["fresh.mean"].value
    assert (found["copied.mean"].n, found["fresh.mean"].n) == (60, 50)
    alone = metrics.copies({"fresh": sets["fresh"]}, batches, "")
    assert alone["fresh.mean"].value == pytest.approx(found["fresh.mean"].value)


def test_features_are_taken_once_for_each_network_and_blur(reference, monkeypatch):
    taken = []
    embed = Extractor.embed
    monkeypatch.setattr(Extractor, "embed", lambda self, image: taken.append(len(image)) or embed(self, image))
    samples, network = drawn(30, 2), random_extractor()
    for _ in range(2):
        for k in (0, 1):
            fid_k(samples, samples, network, k)
    assert sum(taken) == 60
