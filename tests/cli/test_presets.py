"""Each preset of conf/tokenizer and conf/model builds the network that its name says, and passes the checks."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from clipgen.check import check
from clipgen.cli.build import paired_settings, tokenizer_settings, transformer_settings
from clipgen.config import Config
from clipgen.paired.model import PairedTransformer
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.model import Transformer

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "tokenizer"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "auto")
RECIPES = {path.stem: [path.stem] for path in sorted((FOLDER.parent / "recipe").glob("*.yaml"))}
RECIPES["robust"] = ["modern", "robust"]  # by its defaults


def config(name: str) -> Config:
    own = OmegaConf.create({"tokenizer": OmegaConf.load(FOLDER / f"{name}.yaml")})
    if OmegaConf.select(own, "tokenizer.train.perceptual") == "lpips":  # whose weights everyone has elsewhere
        own.tokenizer.train.perceptual_weights = "vgg16.pth"
    return OmegaConf.merge(OmegaConf.structured(Config), own)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_goes_with_every_preset(name, recipe):
    own = [OmegaConf.load(FOLDER.parent / "recipe" / f"{each}.yaml") for each in RECIPES[recipe]]
    for each in own:
        each.pop("defaults", None)
    merged = OmegaConf.merge(config(name), *({"tokenizer": each} for each in own))
    merged.tokenizer.train.steps = 2000
    check(merged)


def network(name: str) -> VQGAN:
    with torch.device("meta"):
        return VQGAN(**tokenizer_settings(config(name).tokenizer))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_what_its_name_says(name):
    cfg = config(name)
    check(cfg)
    model, kind = network(name), name.split("_")
    side = cfg.tokenizer.image_size
    assert f"f{model.downsample}" in kind
    assert model.grid == (side // model.downsample, side // model.downsample)
    if kind[-1].isdigit():
        assert model.quantizer.codebook_size == int(kind[-1])


@pytest.mark.parametrize(
    ("name", "parameters"),  # of taming's models built from its YAMLs, without the loss
    [("vqgan_f16_1024", 72_141_699), ("vqgan_f16_16384", 76_073_859)],
)
def test_taming_s_presets_have_taming_s_number_of_parameters(name, parameters):
    assert sum(parameter.numel() for parameter in network(name).parameters()) == parameters


def test_cogview_s_preset_is_its_plain_vq_vae():
    model = network("cogview_vqvae_f8_8192")
    assert [tuple(conv.weight.shape) for conv in model.encoder.down] == [(512, w, 4, 4) for w in (3, 512, 512)]
    assert model.quantizer.codes_are_averaged
    assert not any("norm" in name for name, _ in model.named_parameters())


MODELS = FOLDER.parent / "model"


@pytest.mark.parametrize(
    ("name", "millions"),  # the paper's are those of the published networks
    [
        ("clipgen_tiny", 9), ("clipgen_small", 28), ("clipgen_base", 197), ("clipgen_large", 340), ("clipgen_xl", 750),
        ("clip_gen_paper_medium", 336.7), ("clip_gen_paper_large", 751.3),
    ],
)  # fmt: skip
def test_a_transformer_s_preset_has_the_size_it_says(name, millions):
    own = OmegaConf.load(MODELS / f"{name}.yaml")
    cfg = OmegaConf.merge(OmegaConf.structured(Config), own if "transformer" in own else {"transformer": own})
    cfg.transformer.dropout = cfg.transformer.dropout or 0.0
    check(cfg)
    with torch.device("meta"):
        model = Transformer(**transformer_settings(cfg.transformer, (16, 16), 16_384, 512))
    found = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.05 if "paper" in name else 0.5)
    assert cfg.transformer.train.z_loss == (0 if "tiny" in name or "paper" in name else 1e-4)


def paired(name: str, codebook_size: int, grid: tuple[int, int], pieces: int) -> PairedTransformer:
    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(MODELS / f"{name}.yaml"))
    cfg.stage, cfg.transformer.dropout = "paired", cfg.transformer.dropout or 0.0
    check(cfg)
    assert cfg.paired.sandwich and cfg.paired.pb_relax and cfg.paired.shrink_gradient == 0.1
    with torch.device("meta"):
        return PairedTransformer(**paired_settings(cfg, grid, codebook_size, pieces, cfg.paired.text_length))


def test_cogview_s_preset_has_the_paper_s_four_billion_parameters():
    model = paired("cogview_4b", 8192, (32, 32), 50_000)
    every = sum(parameter.numel() for parameter in model.parameters())
    heads = sum(parameter.numel() for head in (model.head, model.text_head) for parameter in head.parameters())
    assert (every - heads) / 1e9 == pytest.approx(4.0, abs=0.1)  # the paper's head is its embedding
    assert every / 1e9 == pytest.approx(4.07, abs=0.01)
    assert model.n_prefix + model.n_tokens + 1 == 64 + 3 + 1024 + 1


@pytest.mark.parametrize(("name", "like"), [("tiny", "tiny"), ("small", "small"), ("base", "base")])
def test_cogview_s_smaller_presets_are_as_large_as_ours(name, like):
    ours = OmegaConf.load(MODELS / f"clipgen_{like}.yaml")
    model = paired(f"cogview_{name}", 1024, (8, 8), 100)
    inside = sum(parameter.numel() for parameter in model.blocks.parameters())
    wanted = 12 * ours.depth * ours.width**2
    assert inside == pytest.approx(wanted, rel=0.03)
