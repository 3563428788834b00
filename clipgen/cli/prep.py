"""`clipgen prep`: a folder of images → image shards with a manifest and a list of what was set aside."""

from clipgen.config import Config, check


def main(cfg: Config) -> None:
    from clipgen.cli.machine import cores
    from clipgen.cli.stages import prep, say
    from clipgen.config import complete

    cfg = complete(cfg)
    check(cfg)
    cfg.prep.workers = cfg.prep.workers or cores()
    manifest = prep(cfg, cfg.replace)
    say(summary(manifest, cfg.shards))


def summary(manifest, shards: str) -> str:
    """One or two lines: how many, where, and what was set aside."""
    facts = manifest.facts
    line = (
        f"prep: {facts['written']:,} of {facts['seen']:,} files are in {shards} "
        f"({manifest.samples('train'):,} to train on, {manifest.samples('val'):,} to validate)"
    )
    if facts["set_aside"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["set_aside"].items())
        line += f"\n      set aside: {reasons}; {shards}/quarantine.jsonl says which"
    return line
