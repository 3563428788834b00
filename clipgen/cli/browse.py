"""`clipgen browse`: a contact sheet of image shards, or of latents as the tokenizer decodes them."""

from clipgen.errors import UserError
from clipgen.tools import BrowseConfig


def main(cfg: BrowseConfig) -> None:
    from data_prep.browse import browse

    if cfg.n < 1:
        raise UserError(f"n={cfg.n}; take at least 1")
    if cfg.latents is not None:
        decode = _decoder(cfg, cfg.latents)
        shown = browse(cfg.latents, cfg.out, cfg.shards, decode, cfg.n, cfg.split)
    elif cfg.shards is not None:
        from clipgen.data.manifest import Manifest

        decode = _decoder(cfg, cfg.shards) if Manifest.load(cfg.shards).kind == "latents" else None
        shown = browse(cfg.shards, cfg.out, None, decode, cfg.n, cfg.split)
    else:
        raise UserError("shards is not set; type shards=FOLDER, or latents=FOLDER shards=FOLDER")
    print(f"browse: {shown} samples are in {cfg.out}")


def _decoder(cfg: BrowseConfig, latents: str):
    """tokens → images, by the tokenizer that made the latents."""
    import torch

    from clipgen.cli.build import load_tokenizer
    from clipgen.cli.machine import pick_device
    from clipgen.cli.verify import tokenizer_beside
    from clipgen.data.manifest import Manifest

    made = Manifest.load(latents, "latents").made_by["tokenizer"]["sha256"]
    path = tokenizer_beside(cfg.tokenizer.ckpt, latents)
    vqgan, _, sha256 = load_tokenizer(path, cfg.tokenizer.ckpt_config)
    if sha256 != made:
        raise UserError(
            f"latents={latents} were made with tokenizer {made[:8]}… but {path} is {sha256[:8]}…; give the one that "
            "made them as tokenizer.ckpt=FILE"
        )
    device = pick_device(cfg.device)
    vqgan.to(device)

    @torch.no_grad()
    def decode(tokens_Bhw):
        return vqgan.decode(tokens_Bhw.to(device)).float()

    return decode
