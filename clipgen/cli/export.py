"""`clipgen export`: the models of a run → a self-contained folder."""

from pathlib import Path

from clipgen.config import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.stages import export, say, transformer_checkpoint
    from data_prep.encode import STATISTICS

    run = Path(cfg.run)
    export(
        cfg, run / "vqgan" / "last.ckpt", transformer_checkpoint(run / "transformer"), run / "latents" / STATISTICS,
        Path(cfg.out),
    )  # fmt: skip
    say(f'export: {cfg.out}; try `clipgen sample model={cfg.out} "…"`')
