"""`clipgen export`: the models of a run → a self-contained folder."""

from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.assemble import ASSEMBLERS, export, transformer_checkpoint
    from clipgen.cli.say import say

    if cfg.stage not in ASSEMBLERS:
        raise UserError(f"stage={cfg.stage} is no generator; take stage={' or stage='.join(ASSEMBLERS)}")
    run = Path(cfg.run)
    tokenizer = Path(cfg.tokenizer.ckpt) if cfg.tokenizer.ckpt else run / "vqgan" / "last.ckpt"
    own = transformer_checkpoint(run / cfg.stage)
    transformer = Path(cfg.transformer.ckpt) if cfg.transformer.ckpt else own
    export(cfg, tokenizer, transformer, run / "latents", Path(cfg.out), cfg.stage)
    use = f"upscale model={cfg.out} image=FILE" if cfg.stage == "super" else f'sample model={cfg.out} "…"'
    say(f"export: {cfg.out}; try `clipgen {use}`")
