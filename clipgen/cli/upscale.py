"""`clipgen upscale`: an image at twice its size."""

from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import UpscaleConfig


def main(cfg: UpscaleConfig) -> None:
    if not (Path(cfg.model) / "config.json").is_file():
        raise UserError(f"model={cfg.model} is no model folder; give one that `clipgen export stage=super` made")
    from clipgen.cli.machine import pick_device
    from clipgen.cli.sample import open_image
    from clipgen.data.atomic import replacing
    from clipgen.upscaler import SAMPLING, Upscaler

    upscaler = Upscaler.from_pretrained(cfg.model, pick_device(cfg.device))
    image = open_image(cfg.image, f"image={cfg.image}")
    settings = {key: cfg[key] for key in SAMPLING if key in cfg}
    (large,) = upscaler.upscale([image], cfg.seed, **settings)
    out = Path(cfg.out) if cfg.out else Path(cfg.image).with_suffix(".2x.png")
    with replacing(out) as path:
        large.save(path, format="PNG")
    print(f"upscale: {image.width}×{image.height} → {large.width}×{large.height} pixels, in {out}")
