"""The frozen CLIP: a small one through the very code that loads a pretrained one, and what bad input gets."""

import io
import json
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from clipgen.clip.frozen import FrozenClip, _check_activation, load_clip
from clipgen.data.transforms import to_model_range
from clipgen.errors import UserError


@pytest.fixture(scope="module")
def clip(tiny_clip_folder) -> FrozenClip:
    return load_clip(f"local-dir:{tiny_clip_folder}")


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is a failure of the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def copied(tiny_clip_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "copy"))


def images(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def refused(model: str, pretrained: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_clip(model, pretrained)
    text = str(caught.value)
    assert "\n" not in text
    assert model in text
    return text


def test_embeddings_are_float32_and_of_unit_length(clip):
    for embedding_BE in (clip.encode_image(images()), clip.encode_text(["a red circle", "two blue rings", "x"])):
        assert embedding_BE.shape == (3, clip.identity.embed_dim) == (3, 16)
        assert embedding_BE.dtype == torch.float32
        assert not embedding_BE.requires_grad
        torch.testing.assert_close(embedding_BE.norm(dim=-1), torch.ones(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert clip.encode_image(images()).dtype == torch.float32


@torch.no_grad()
def test_it_is_open_clips_model(clip, tiny_clip_folder):
    name = f"local-dir:{tiny_clip_folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a red circle", "nothing"])
    wanted = F.normalize(model.eval().encode_text(tokens), dim=-1)
    torch.testing.assert_close(clip.encode_text(["a red circle", "nothing"]), wanted, atol=1e-5, rtol=0)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wanted = F.normalize(model.encode_image(preprocess(Image.fromarray(pixels))[None]), dim=-1)
    found = clip.encode_image(to_model_range(torch.from_numpy(pixels)[None]))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_many_texts_are_embedded_as_each_alone(clip):
    texts = [f"number {i}" for i in range(300)]  # more than one pass
    together = clip.encode_text(texts)
    assert together.shape == (300, 16)
    for i in (0, 255, 256, 299):
        torch.testing.assert_close(together[i], clip.encode_text([texts[i]])[0], atol=1e-5, rtol=0)
    assert clip.encode_text([]).shape == (0, 16)


def test_a_text_that_is_too_long_is_cut(clip):
    long = " ".join(["red"] * 500)
    assert torch.equal(clip.encode_text([long]), clip.encode_text([long + " blue"]))
    room = clip.tokenizer.context_length - 2  # for the words between start and end
    full = " ".join(["red"] * room)
    assert clip.too_long(["red", full, f"{full} red", long]) == [f"{full} red", long]
    assert clip.too_long([]) == []


def photo(shared_data, side: int) -> Image.Image:
    """A real photo of 128 pixels or a part of it."""
    with tarfile.open(shared_data / "clothing_128.tar") as tar:
        member = next(each for each in tar if each.name.endswith(".jpg"))
        image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
    return image.crop((0, 0, side, side))


@pytest.mark.parametrize(("side", "tolerance"), [(32, 1e-6), (128, 2.1), (90, 2.1), (24, 2.1)])
def test_preprocessing_is_open_clips_own(clip, tiny_clip_folder, shared_data, side, tolerance):
    """Within `tolerance` levels of 255: Pillow rounds to whole levels after each of its two passes."""
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip_folder}")
    picture = photo(shared_data, side)
    wanted = preprocess(picture)[None]
    found = clip.preprocess(to_model_range(torch.from_numpy(np.array(picture)[None])))
    assert found.shape == wanted.shape == (1, 3, 32, 32)
    levels = (found - wanted).abs() * 0.5 * 255  # std is 0.5
    assert levels.max() <= tolerance + 1e-3
    assert levels.mean() <= tolerance / 4 + 1e-3
    blurred = preprocess(picture.filter(ImageFilter.GaussianBlur(1)))[None]
    assert (blurred - wanted).abs().max() * 0.5 * 255 > 10  # what a careless resize would cost


def test_each_clip_has_its_own_mean_and_std(copied):
    config = json.loads((copied / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1.0]}
    (copied / "open_clip_config.json").write_text(json.dumps(config))
    black = load_clip(f"local-dir:{copied}").preprocess(-torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-0.2, -0.8, -0.3]))


def test_it_stays_frozen(clip):
    clip.train()
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    before = clip.encode_image(images())
    torch.nn.Sequential(clip).train()
    assert torch.equal(clip.encode_image(images()), before)


def test_features_have_gradients_to_the_image(clip):
    image_BCHW = images().requires_grad_()
    maps = clip.features(image_BCHW)
    assert len(maps) > 2
    assert all(each.ndim == 4 and len(each) == 3 for each in maps)
    sum(each.sum() for each in maps).backward()
    assert image_BCHW.grad.norm() > 0
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_the_fingerprint_is_of_weights_and_preprocessing_not_of_the_place(clip, copied):
    moved = load_clip(f"local-dir:{copied}").identity
    assert moved.model != clip.identity.model
    assert moved.fingerprint() == clip.identity.fingerprint()
    assert moved.describe()["sha256"] == clip.identity.sha256
    assert json.loads(json.dumps(moved.describe())) == moved.describe()

    config = json.loads((copied / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.4] * 3
    (copied / "open_clip_config.json").write_text(json.dumps(config))
    assert load_clip(f"local-dir:{copied}").identity.fingerprint() != clip.identity.fingerprint()


@pytest.mark.parametrize(("model", "mend"), [("ViT-B-32", "ViT-B-32-quickgelu"), ("RN50", "RN50-quickgelu")])
def test_an_activation_that_does_not_fit_the_weights_is_refused_before_any_download(no_network, model, mend):
    text = refused(model, "openai")
    assert f"use clip.model={mend}" in text
    assert "clip.pretrained=openai" in text


def test_the_name_that_an_error_recommends_has_the_same_weights():
    refusals = 0
    for model in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(model):
            try:
                _check_activation(model, tag, "clip.")
            except UserError as error:
                refusals += 1
                mend = str(error).rpartition("clip.model=")[2]
                assert tag in open_clip.list_pretrained_tags_by_model(mend), str(error)
                _check_activation(mend, tag, "clip.")
    assert refusals > 10


def test_an_unknown_model_is_refused(no_network):
    assert "is not a model of open_clip" in refused("ViT-B-33", "openai")


def test_an_unknown_tag_is_refused_with_those_there_are(no_network):
    text = refused("ViT-B-32-quickgelu", "opanai")
    assert "clip.pretrained=opanai" in text
    assert "openai" in text.replace("opanai", "")


def test_a_name_without_weights_is_refused(no_network):
    assert "clip.pretrained is empty" in refused("ViT-B-32-quickgelu")


def test_weights_that_cannot_be_downloaded(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = refused("hf-hub:clipgen-tests/is-no-such-model")
    assert "could not be loaded" in text
    assert "local-dir:" in text


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_no_clip(tmp_path, there):
    folder = tmp_path / "folder"
    if there:
        folder.mkdir()
    assert "open_clip_config.json" in refused(f"local-dir:{folder}")


def test_a_folder_without_weights(copied):
    (copied / "open_clip_model.safetensors").unlink()
    assert "has no weights; put open_clip_model.safetensors" in refused(f"local-dir:{copied}")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"no weights")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [halve, garble, empty])
def test_corrupt_weights(copied, damage):
    damage(copied / "open_clip_model.safetensors")
    assert "could not be loaded" in refused(f"local-dir:{copied}")


@pytest.mark.parametrize("text", ["no json", "{}", '{"model_cfg": {"embed_dim": 16}}'])
def test_a_broken_config(copied, text):
    (copied / "open_clip_config.json").write_text(text)
    assert "could not be loaded" in refused(f"local-dir:{copied}")


def test_weights_of_another_size(copied):
    config = json.loads((copied / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 24
    (copied / "open_clip_config.json").write_text(json.dumps(config))
    assert "could not be loaded" in refused(f"local-dir:{copied}")


class Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_as_weights_is_not_executed(copied, tmp_path):
    (copied / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": Attack(tmp_path / "executed")}, copied / "open_clip_pytorch_model.bin")
    assert "could not be loaded" in refused(f"local-dir:{copied}")
    assert not (tmp_path / "executed").exists()


def test_the_order_of_attention_changes_no_result(clip):
    """`FrozenClip` turns open_clip's blocks to (L, B, D), for their speed."""
    vit = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(
        **vit, text_cfg={"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    )
    image = torch.rand(3, 3, 32, 32) * 2 - 1
    tokens = open_clip.tokenize(["a red bird", "two", "three"], 12)
    pixels = clip.preprocess(image)
    with torch.no_grad():
        expected = [model.eval().encode_image(pixels), model.encode_text(tokens)]
        expected += model.visual.forward_intermediates(pixels, intermediates_only=True)["image_intermediates"]
        ours = FrozenClip(model, None, clip.identity)
        found = [ours.model.encode_image(pixels), ours.model.encode_text(tokens), *ours.features(image)]
    assert not ours.model.transformer.batch_first and not ours.model.visual.transformer.batch_first
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
