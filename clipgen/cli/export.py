"""`clipgen export`: the models of a run → a self-contained folder."""

import json
from pathlib import Path

from clipgen.errors import UserError
from clipgen.tools import ExportConfig


def main(cfg: ExportConfig) -> None:
    from clipgen.cli.assemble import export, transformer_checkpoint
    from clipgen.cli.record import FILE as STAGE
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
    as_trained(cfg, transformer.parent / STAGE)
    export(cfg, tokenizer, transformer, Path(cfg.latents), out, stage)
    asked = {"caption": f"caption model={out} image=FILE", "super": f"upscale model={out} image=FILE"}
    say(f"export: {out}; try `clipgen {asked.get(stage, f'sample model={out} …')}`")


def as_trained(cfg: ExportConfig, stage: Path) -> None:
    """Take the settings of sampling that the training was composed with, but for those that are typed; say which."""
    from hydra.core.hydra_config import HydraConfig

    from clipgen.cli.say import say

    content = json.loads(stage.read_text(encoding="utf-8")) if stage.is_file() else {}
    trained = content.get("beside", {}).get("sampling", {})
    typed = {word.lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task}
    taken = {}
    for key, value in trained.items():
        if f"sampling.{key}" not in typed and getattr(cfg.sampling, key, value) != value:
            setattr(cfg.sampling, key, value)
            taken[key] = value
    if taken:
        say("export: as it was trained with, " + ", ".join(f"sampling.{key}={value}" for key, value in taken.items()))
