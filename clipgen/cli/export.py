"""`clipgen export`: the models of a run → a self-contained folder."""

from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.assemble import export, transformer_checkpoint
    from clipgen.cli.say import say

    made = {"transformer": "model", "paired": "model", "caption": "captioner", "super": "upscaler"}
    stage = "caption" if (cfg.stage, cfg.task) == ("paired", "caption") else cfg.stage
    if stage not in made or (cfg.task != "image" and stage != "caption"):
        raise UserError(
            f"stage={cfg.stage} task={cfg.task} is nothing to export; take stage=transformer, paired or super, or "
            "stage=paired task=caption for a captioner"
        )
    run = Path(cfg.run)
    out = Path(cfg.out) if cfg.out else run / made[stage]
    tokenizer = Path(cfg.tokenizer.ckpt) if cfg.tokenizer.ckpt else run / "vqgan" / "last.ckpt"
    transformer = Path(cfg.transformer.ckpt) if cfg.transformer.ckpt else transformer_checkpoint(run / stage)
    export(cfg, tokenizer, transformer, run / "latents", out, stage)
    asked = {"caption": f"caption model={out} image=FILE", "super": f"upscale model={out} image=FILE"}
    say(f"export: {out}; try `clipgen {asked.get(stage, f'sample model={out} …')}`")
