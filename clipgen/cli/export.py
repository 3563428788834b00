"""`clipgen export`: the models of a run → a self-contained folder."""

from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.assemble import ASSEMBLERS, export, transformer_checkpoint
    from clipgen.cli.say import say

    if cfg.stage not in ASSEMBLERS:
        raise UserError(f"stage={cfg.stage} is no generator; take stage={' or stage='.join(ASSEMBLERS)}")
    captions = cfg.task == "caption"
    if cfg.task not in ("image", "caption") or (captions and cfg.stage != "paired"):
        raise UserError(f"stage={cfg.stage} task={cfg.task} is none; take stage=paired task=caption for a captioner")
    stage = "caption" if captions else cfg.stage
    run = Path(cfg.run)
    out = Path(cfg.out) if cfg.out else run / ("captioner" if captions else "model")
    tokenizer = Path(cfg.tokenizer.ckpt) if cfg.tokenizer.ckpt else run / "vqgan" / "last.ckpt"
    own = transformer_checkpoint(run / stage)
    transformer = Path(cfg.transformer.ckpt) if cfg.transformer.ckpt else own
    export(cfg, tokenizer, transformer, run / "latents", out, stage)
    asked = f"caption model={out} image=FILE" if captions else f'sample model={out} "…"'
    say(f"export: {out}; try `clipgen {asked}`")
