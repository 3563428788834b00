"""Published tokenizers give the tokens and pictures that their own code gives, or say in one line why they cannot."""

import pytest
import torch
import yaml

from clipgen.cli.build import load_tokenizer
from clipgen.cli.imports import read_tokenizer
from clipgen.errors import UserError
from clipgen.tokenizer.vqgan import VQGAN

GUMBEL = "taming.models.vqgan.GumbelVQ"
KINDS = {
    "VQModel": {"embed_dim": 8},
    "GumbelVQ": {"target": GUMBEL},
    "VQ-f8": {"target": "ldm.models.autoencoder.VQModel", "embed_dim": 4, "z_channels": 4},
}


def images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def check_the_same(theirs, ours: VQGAN, image_BCHW: torch.Tensor) -> None:
    with torch.no_grad():
        tokens_Bhw = theirs.tokens(image_BCHW)
        assert len(tokens_Bhw.unique()) > 4
        assert torch.equal(ours.encode(image_BCHW), tokens_Bhw)
        wanted = theirs.decode(tokens_Bhw)
        torch.testing.assert_close(ours.decode(tokens_Bhw), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(image_BCHW).image_BCHW, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_taming_is_numerically_taming(published, tmp_path, kind):
    settings = published.config(**KINDS[kind])
    model = published.random(published.VQModel(settings))
    published.save_taming(model, tmp_path / "last.ckpt", tmp_path / "model.yaml", settings)
    vqgan, found, _ = load_tokenizer(tmp_path / "last.ckpt")
    check_the_same(model, vqgan, images(32))
    assert found["image_size"] == vqgan.image_size == 32 and vqgan.grid == (8, 8)


def test_the_published_f8_shape_with_attention_at_32(published, tmp_path):
    settings = published.config(
        target="ldm.models.autoencoder.VQModel",
        embed_dim=4,
        z_channels=4,
        resolution=256,
        num_res_blocks=1,
        **published.F8,
    )
    model = published.random(published.VQModel(settings))
    published.save_taming(model, tmp_path / "model.ckpt", tmp_path / "config.yaml", settings)
    vqgan, found, _ = load_tokenizer(tmp_path / "model.ckpt")
    assert found["attention_resolutions"] == [32] and vqgan.downsample == 8 and found["code_dim"] == 4
    check_the_same(model, vqgan, images(64))


def test_the_loss_of_taming_is_kept_for_training(published, tmp_path):
    """With its weight on the codebook's term, which only the gradients tell."""
    settings = published.config()
    model = published.random(published.VQModel(settings))
    published.save_taming(model, tmp_path / "last.ckpt", tmp_path / "last.yaml", settings)
    vqgan, _, _ = load_tokenizer(tmp_path / "last.ckpt")
    z_BChw = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted = model.quantize(model.quant_conv(z_BChw))[1]
    found = vqgan.quantizer(z_BChw).loss
    torch.testing.assert_close(found, wanted)
    for loss in (wanted, found):
        loss.backward()
    torch.testing.assert_close(vqgan.quantizer.codebook.grad, model.quantize.embedding.weight.grad)
    torch.testing.assert_close(vqgan.quantizer.project_in.weight.grad, model.quant_conv.weight.grad)


def test_a_checkpoint_of_hfailab_is_numerically_its_own(published, tmp_path):
    model = published.random(published.HfaiVQGAN(K=64, z=16, ch=32, res_blocks=1))
    torch.save(
        {"model": model.state_dict(), "epoch": 799, "opt_g": {"state": {}, "param_groups": []}}, tmp_path / "v.pt"
    )
    vqgan, found, _ = load_tokenizer(tmp_path / "v.pt")
    check_the_same(model, vqgan, images(64))
    assert (found["image_size"], found["norm_eps"], found["commitment"]) == (256, 1e-5, 0.2)
    assert found["attention_resolutions"] == [16] and found["channel_multipliers"] == [1, 1, 2, 2, 4]


SHAPES = {  # tensors and parameters without loss, as counted on taming's own models
    "f16 1024": ({"n_embed": 1024}, {}, 343, 72_141_699),
    "f16 16384": ({"n_embed": 16384}, {}, 343, 76_073_859),
    "gumbel f8": ({"n_embed": 8192, "target": GUMBEL}, "GUMBEL", 301, 68_995_971),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_published_shapes(published, tmp_path, name):
    arguments, ddconfig, tensors, parameters = SHAPES[name]
    ddconfig = getattr(published, ddconfig) if ddconfig else {}
    settings = published.config(embed_dim=256, base=published.PUBLISHED, **arguments, **ddconfig)
    with torch.device("meta"):
        state = published.VQModel(settings).state_dict()
    assert (len(state), sum(each.numel() for each in state.values())) == (tensors, parameters)
    check_the_shape(published_state(state), settings, tmp_path, parameters)


def test_the_published_shape_of_hfailab(published, tmp_path):
    with torch.device("meta"):
        state = published.HfaiVQGAN().state_dict()
    check_the_shape({"model": published_state(state)}, None, tmp_path, 76_073_859)


def published_state(state: dict) -> dict:
    """Zeros that take no room in memory or on disk."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


def check_the_shape(checkpoint: dict, settings: dict | None, folder, parameters: int) -> None:
    torch.save(checkpoint, folder / "model.ckpt")
    (folder / "model.yaml").write_text(yaml.safe_dump(settings))
    found, state = read_tokenizer(folder / "model.ckpt")
    assert state.pop("quantizer.used_K").shape == (found["codebook_size"],)
    assert sum(value.numel() for value in state.values()) == parameters
    with torch.device("meta"):
        assert sum(value.numel() for value in VQGAN(**found).parameters()) == parameters


@pytest.mark.parametrize(
    ("checkpoint", "yaml_path"),
    [
        ("last.ckpt", "last.yaml"),
        ("last.ckpt", "model.yaml"),
        ("last.ckpt", "config.yaml"),
        ("checkpoints/last.ckpt", "configs/2020-11-09T13-31-51-project.yaml"),
    ],
)
def test_the_yaml_is_found_beside(published, saved, tmp_path, checkpoint, yaml_path):
    for name, source in ((checkpoint, saved / "last.ckpt"), (yaml_path, saved / "model.yaml")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source.read_bytes())
    assert read_tokenizer(tmp_path / checkpoint)[0]["codebook_size"] == 48


def test_a_yaml_elsewhere_is_named(saved, tmp_path):
    (tmp_path / "last.ckpt").write_bytes((saved / "last.ckpt").read_bytes())
    assert "give it as tokenizer.ckpt_config=FILE.yaml" in refused(tmp_path / "last.ckpt")
    assert read_tokenizer(tmp_path / "last.ckpt", saved / "model.yaml")[0]["codebook_size"] == 48
    assert "nowhere.yaml does not exist" in refused(tmp_path / "last.ckpt", tmp_path / "nowhere.yaml")


# Bad input


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory):
    """A folder with last.ckpt and model.yaml as taming publishes them. Not to be changed."""
    folder = tmp_path_factory.mktemp("taming")
    settings = published.config()
    published.save_taming(published.VQModel(settings), folder / "last.ckpt", folder / "model.yaml", settings)
    return folder


def refused(path, yaml_path=None) -> str:
    with pytest.raises(UserError) as caught:
        read_tokenizer(path, yaml_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_embed": 64}, "model.params.n_embed=64, but the checkpoint has 48"),
        ({"embed_dim": 8}, "model.params.embed_dim=8, but the checkpoint has 16"),
        ({"z_channels": 8}, "ddconfig.z_channels=8, but the checkpoint has 16"),
        ({"ch": 64}, "ddconfig.ch=64, but the checkpoint has 32"),
        ({"ch_mult": [1, 2]}, "ddconfig.ch_mult=[1, 2], but the checkpoint has [1, 2, 2]"),
        ({"num_res_blocks": 1}, "ddconfig.num_res_blocks=1, but the checkpoint has 2"),
        ({"attn_resolutions": [16]}, "ddconfig.attn_resolutions=[16], but the checkpoint has [8]"),
        ({"resolution": 64}, "ddconfig.attn_resolutions=[], but the checkpoint has [16]"),
        ({"resolution": "large"}, "ddconfig.resolution=large"),
        ({"double_z": True}, "ddconfig.double_z=True"),
    ],
    ids=str,
)
def test_a_yaml_that_does_not_match(published, saved, tmp_path, changes, says):
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(published.config(**changes)))
    line = refused(saved / "last.ckpt", path)
    assert says in line and str(path) in line


@pytest.mark.parametrize(
    ("content", "says"),
    [("a: [", "is not a readable YAML"), ("", "has no model.params."), ("model: {params: {}}", "has no model.params.")],
)
def test_a_yaml_of_something_else(saved, tmp_path, content, says):
    (tmp_path / "other.yaml").write_text(content)
    line = refused(saved / "last.ckpt", tmp_path / "other.yaml")
    assert says in line and "other.yaml" in line


def test_a_yaml_that_remaps_the_tokens(published, saved, tmp_path):
    settings = published.config()
    settings["model"]["params"]["remap"] = "used.npy"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    assert "model.params.remap=used.npy" in refused(saved / "last.ckpt", tmp_path / "other.yaml")


def changed(saved, path, change) -> str:
    checkpoint = torch.load(saved / "last.ckpt", weights_only=False)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, path)
    return refused(path, saved / "model.yaml")


def test_missing_extra_and_misshapen_weights(saved, tmp_path):
    path = tmp_path / "last.ckpt"

    def lose(state):
        del state["decoder.norm_out.bias"], state["decoder.norm_out.weight"]

    def gain(state):
        state["model_ema.decay"] = torch.ones(())

    def reshape(state):
        state["post_quant_conv.weight"] = torch.zeros(16, 16, 3, 3)

    assert f"{path} lacks decoder.norm_out.bias and 1 more" in changed(saved, path, lose)
    assert "has an unknown model_ema.decay" in changed(saved, path, gain)
    assert "has another shape of post_quant_conv.weight" in changed(saved, path, reshape)
    assert "lacks encoder.conv_in.weight" in changed(saved, path, lambda state: state.pop("encoder.conv_in.weight"))


def test_a_codebook_larger_than_uint16(saved, tmp_path):
    def widen(state):
        state["quantize.embedding.weight"] = torch.zeros(1).expand(65_537, 16)

    line = changed(saved, tmp_path / "last.ckpt", widen)
    assert "65537 codes (n_embed)" in line and "uint16" in line


class Other:
    """What a checkpoint must not bring."""


@pytest.mark.parametrize("legacy", [False, True])
def test_any_other_pickled_object_is_named(saved, tmp_path, legacy):
    checkpoint = torch.load(saved / "last.ckpt", weights_only=False)
    checkpoint["callbacks"]["other"] = Other()
    torch.save(checkpoint, tmp_path / "last.ckpt", _use_new_zipfile_serialization=not legacy)
    line = refused(tmp_path / "last.ckpt", saved / "model.yaml")
    assert f"{Other.__module__}.Other" in line and "not loaded" in line
