"""`clipgen export`: the models of a run → a self-contained folder."""

from pathlib import Path

from clipgen.config import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.say import say
    from clipgen.cli.stages import export, transformer_checkpoint

    run = Path(cfg.run)
    tokenizer = Path(cfg.tokenizer.ckpt) if cfg.tokenizer.ckpt else run / "vqgan" / "last.ckpt"
    own = transformer_checkpoint(run / "transformer")
    transformer = Path(cfg.transformer.ckpt) if cfg.transformer.ckpt else own
    export(cfg, tokenizer, transformer, run / "latents", Path(cfg.out))
    say(f'export: {cfg.out}; try `clipgen sample model={cfg.out} "…"`')
