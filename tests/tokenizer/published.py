"""Small random tokenizers in the layout of the published files, out of taming's own modules, and HFAiLab's names."""

import contextlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.discriminator.model import NLayerDiscriminator
from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2
from torch import Tensor, nn

SMALL = {
    "double_z": False, "z_channels": 16, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [8], "dropout": 0.0,
}  # fmt: skip
PUBLISHED = SMALL | {
    "z_channels": 256,
    "resolution": 256,
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "attn_resolutions": [16],
}
F8 = {"ch_mult": [1, 2, 2, 4], "attn_resolutions": [32]}
GUMBEL = {"ch_mult": [1, 1, 2, 4], "attn_resolutions": [32]}


def config(n_embed=48, embed_dim=16, target="taming.models.vqgan.VQModel", base=SMALL, **ddconfig) -> dict:
    """A YAML as it is published."""
    params = {"embed_dim": embed_dim, "n_embed": n_embed, "ddconfig": base | ddconfig}
    params["lossconfig"] = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_conditional": False, "disc_in_channels": 3, "disc_start": 0, "disc_weight": 0.75},
    }
    if target.endswith("GumbelVQ"):
        params["kl_weight"] = 1.0e-08
    return {"model": {"base_learning_rate": 4.5e-06, "target": target, "params": params}}


class VQModel(nn.Module):
    """taming's VQModel or GumbelVQ, put together as its constructors do, without Lightning and LPIPS."""

    def __init__(self, model: dict):
        super().__init__()
        params = model["model"]["params"]
        z_channels, K, D = params["ddconfig"]["z_channels"], params["n_embed"], params["embed_dim"]
        with contextlib.redirect_stdout(io.StringIO()):
            self.encoder, self.decoder = Encoder(**params["ddconfig"]), Decoder(**params["ddconfig"])
        if model["model"]["target"].endswith("GumbelVQ"):
            self.quantize = GumbelQuantize(z_channels, D, n_embed=K, kl_weight=params["kl_weight"])
        else:
            self.quantize = VectorQuantizer2(K, D, beta=0.25)
        self.quant_conv = nn.Conv2d(z_channels, D, 1)
        self.post_quant_conv = nn.Conv2d(D, z_channels, 1)

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        z_BDhw = self.quant_conv(self.encoder(image_BCHW))
        if isinstance(self.quantize, GumbelQuantize):
            return self.quantize.proj(z_BDhw).argmax(1)
        B, _, h, w = z_BDhw.shape
        return self.quantize(z_BDhw)[2][2].view(B, h, w)

    def decode(self, tokens_Bhw: Tensor) -> Tensor:
        shape = (*tokens_Bhw.shape, self.post_quant_conv.in_channels)
        z_BhwD = self.quantize.get_codebook_entry(tokens_Bhw.flatten(), shape)
        return self.decoder(self.post_quant_conv(z_BhwD))


class ResnetBlock(nn.Module):
    """The layers of HFAiLab/clip-gen's models/codec.py under its names."""

    def __init__(self, of: int, to: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(32, of), nn.SiLU(), nn.Conv2d(of, to, 3, padding=1),
            nn.GroupNorm(32, to), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(to, to, 3, padding=1),
        )  # fmt: skip
        if of != to:
            self.shortcut = nn.Conv2d(of, to, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.attn = nn.MultiheadAttention(channels, 1, batch_first=True)

    def forward(self, x_BChw: Tensor) -> Tensor:
        h_BLC = self.norm(x_BChw).flatten(2).transpose(1, 2)
        return x_BChw + self.attn(h_BLC, h_BLC, h_BLC)[0].transpose(1, 2).reshape(x_BChw.shape)


class Resample(nn.Module):
    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels))


class HfaiEncoder(nn.Module):
    def __init__(self, ch: int, mult: list[int], res_blocks: int, attention: list[int], z: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        blocks, side, of = [], 256, ch
        for level, factor in enumerate(mult):
            for _ in range(res_blocks):
                blocks.append(ResnetBlock(of, ch * factor))
                of = ch * factor
                blocks += [AttnBlock(of)] if side in attention else []
            if level < len(mult) - 1:
                blocks.append(Resample(of, up=False))
                side //= 2
        self.down, self.mid = nn.Sequential(*blocks), _middle(of)
        self.final = nn.Sequential(nn.GroupNorm(32, of), nn.SiLU(), nn.Conv2d(of, z, 3, padding=1), nn.Conv2d(z, z, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.mid(self.down(self.conv_in(x))))


class HfaiDecoder(nn.Module):
    def __init__(self, ch: int, mult: list[int], res_blocks: int, attention: list[int], z: int):
        super().__init__()
        of, side = ch * mult[-1], 256 >> len(mult) - 1
        self.quant_conv_in, self.conv_in = nn.Conv2d(z, z, 1), nn.Conv2d(z, of, 3, padding=1)
        self.mid = _middle(of)
        blocks = []
        for level in reversed(range(len(mult))):
            for _ in range(res_blocks + 1):
                blocks.append(ResnetBlock(of, ch * mult[level]))
                of = ch * mult[level]
                blocks += [AttnBlock(of)] if side in attention else []
            if level:
                blocks.append(Resample(of, up=True))
                side *= 2
        self.up = nn.Sequential(*blocks)
        self.final = nn.Sequential(nn.GroupNorm(32, of), nn.SiLU(), nn.Conv2d(of, 3, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.final(self.up(self.mid(self.conv_in(self.quant_conv_in(z)))))


class Codes(nn.Module):
    def __init__(self, K: int, D: int):
        super().__init__()
        self.embedding = nn.Embedding(K, D)


class HfaiVQGAN(nn.Module):
    """The arithmetic and the names of HFAiLab's VQGAN; the released one has the default shape."""

    def __init__(self, K=16384, z=256, ch=128, mult=(1, 1, 2, 2, 4), res_blocks=2, attention=(16,)):
        super().__init__()
        shape = (ch, list(mult), res_blocks, list(attention), z)
        self.encoder, self.decoder, self.quantizer = HfaiEncoder(*shape), HfaiDecoder(*shape), Codes(K, z)
        self.discriminator = nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8))

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        z_BChw = self.encoder(image_BCHW)
        vectors_NC = z_BChw.permute(0, 2, 3, 1).flatten(0, 2)
        return torch.cdist(vectors_NC, self.quantizer.embedding.weight).argmin(1).view(-1, *z_BChw.shape[2:])

    def decode(self, tokens_Bhw: Tensor) -> Tensor:
        return self.decoder(self.quantizer.embedding(tokens_Bhw).permute(0, 3, 1, 2))


def random(model: nn.Module) -> nn.Module:
    """Weights that tell norms, biases and codes apart, where taming begins with zeros and ones."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.2)
            elif "embed" in name:
                value.normal_()
            elif name.startswith(("quant_conv", "encoder.final.3")):
                value.mul_(40)  # so that many codes are the nearest of some vector
            elif name.startswith(("decoder.conv_out", "decoder.final.2")):
                value.mul_(0.25)  # so that pictures are in about [-1, 1]
    return model.eval()


def save_taming(model: VQModel, path: Path, yaml_path: Path | None, settings: dict) -> None:
    """A file as Lightning 1.0 wrote it, with a discriminator and a piece of LPIPS among the weights."""
    state = model.state_dict()
    loss = NLayerDiscriminator(3, 8, 2).state_dict()
    state |= {f"loss.discriminator.{name}": value for name, value in loss.items()}
    state["loss.perceptual_loss.lin0.model.1.weight"] = torch.ones(1, 64, 1, 1)
    callback = {"monitor": "val/rec_loss", "best_model_score": torch.tensor(0.5), "best_model_path": "last.ckpt"}
    torch.save(
        {
            "epoch": 3, "global_step": 100, "pytorch-lightning_version": "1.0.8",
            "callbacks": {ModelCheckpoint: callback}, "optimizer_states": [], "lr_schedulers": [], "state_dict": state,
        },
        path,
    )  # fmt: skip
    if yaml_path:
        yaml_path.parent.mkdir(parents=True, exist_ok=True)
        yaml_path.write_text(yaml.safe_dump(settings), encoding="utf-8")
