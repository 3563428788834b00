"""`clipgen encode`: image shards → latent shards."""

from clipgen.check import check, check_clip
from clipgen.config import Config


def main(cfg: Config) -> None:
    from clipgen.cli.latents import encode_latents
    from clipgen.cli.run import use_threads
    from clipgen.cli.say import say
    from clipgen.config import complete

    cfg = complete(cfg)
    check(cfg)
    check_clip(cfg.clip)
    use_threads(cfg)
    manifest = encode_latents(cfg, cfg.replace)
    crops = manifest.facts["crops"]
    say(
        f"encode: {manifest.samples('train') + manifest.samples('val'):,} images ({crops} crop{'s' * (crops > 1)} "
        f"each) are in {cfg.latents}; text mean from {manifest.facts['texts']:,} texts ({manifest.facts['texts_from']})"
    )
