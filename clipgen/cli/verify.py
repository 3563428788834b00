"""`clipgen verify`: every shard read again against its manifest; exit status 1 when something is broken."""

from clipgen.config import VerifyConfig


def main(cfg: VerifyConfig) -> None:
    from data_prep.verify import verify

    problems = verify(cfg.shards, cfg.images)
    for problem in problems:
        print(problem)
    print(f"verify: {cfg.shards} " + (f"has {len(problems)} problems" if problems else "is as its manifest says"))
    if problems:
        raise SystemExit(1)
