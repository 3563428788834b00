"""`clipgen prep`: a folder of images → image shards with a manifest and a list of what was set aside."""

from clipgen.config import Config, check


def main(cfg: Config) -> None:
    from data_prep.local import get_ready

    if cfg.executor.kind == "local" and cfg.prep.workers != 1:
        get_ready("data_prep.chunk")  # beside the imports that follow, which take as long
    from clipgen.cli.machine import cores
    from clipgen.cli.stages import prep, say
    from clipgen.config import complete

    cfg = complete(cfg)
    check(cfg)
    cfg.prep.workers = cfg.prep.workers or cores()
    manifest = prep(cfg, cfg.replace)
    say(summary(manifest, cfg.shards))


def summary(manifest, shards: str) -> str:
    """A few lines: how many, where, and what was not taken."""
    facts = manifest.facts
    lines = [
        f"prep: {facts['written']:,} of {facts['seen']:,} files are in {shards} "
        f"({manifest.samples('train'):,} to train on, {manifest.samples('val'):,} to validate)"
    ]
    if facts["duplicates"]:
        copies = f"{facts['duplicates']:,} duplicate{'s were' if facts['duplicates'] > 1 else ' was'}"
        lines.append(f"{copies} left out; {shards}/files.jsonl says of what")
    if facts["set_aside"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["set_aside"].items())
        lines.append(f"set aside: {reasons}; {shards}/quarantine.jsonl says which")
    if facts["unmatched_captions"]:
        first = facts["first_unmatched_caption"]
        many = facts["unmatched_captions"]
        lines.append(f"captions of {many:,} file{'s' * (many > 1)} match no image, the first is {first!r}")
    if failed := facts.get("img2dataset_failed_rows"):
        lines.append(f"{failed:,} rows failed when img2dataset made these tars, by its own counts")
    lines.append(f"{shards}/prep_report.html shows it")
    return "\n      ".join(lines)
