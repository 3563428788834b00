"""What reads captions: stage `paired`, its task, and what else uses them."""

from clipgen.config import Config, Paired
from clipgen.errors import UserError

OF_TOKENS = ("paired", "super")  # stages whose Transformer is not asked by an embedding


def check_paired(cfg: Config) -> None:
    """What reads captions; a UserError also for what stage=paired has no use for."""
    m, p = cfg.transformer, cfg.paired
    if not 0 < cfg.captions_share <= 1:
        raise UserError(f"captions_share={cfg.captions_share:g}; take more than 0 and at most 1, which is all captions")
    if p.img_loss_scale <= 0:
        raise UserError(f"paired.img_loss_scale={p.img_loss_scale:g} trains on no image; take more than 0")
    if p.vocab_size > 50_000:
        raise UserError(f"paired.vocab_size={p.vocab_size}; take at most 50000, as CogView")
    if p.pivots and not p.window:
        raise UserError(
            f"paired.pivots={p.pivots} has no effect with paired.window=0, which sees all tokens; give a paired.window"
        )
    if m.condition == "text" and m.train.recon.weight:
        raise UserError(
            "transformer.train.recon compares pictures, but transformer.condition=text knows their captions; take "
            "transformer.train.recon.weight=0"
        )
    check_task(cfg)
    if cfg.stage not in OF_TOKENS:
        return
    if cfg.task == "caption" and p.window:
        raise UserError(
            f"paired.window={p.window} has no effect with task=caption, as a captioner sees all of its image; take "
            "paired.window=0 paired.pivots=0"
        )
    if cfg.task == "caption" and (p.txt_loss_scale, p.img_loss_scale) != (1, 1):
        raise UserError(
            f"paired.txt_loss_scale={p.txt_loss_scale:g} and paired.img_loss_scale={p.img_loss_scale:g} have no effect "
            "with task=caption, which learns the text alone; leave them out"
        )
    for key, asked in (
        ("gft", m.gft), ("train.rar", m.train.rar), ("train.aux_weight", m.train.aux_weight),
        ("train.recon.weight", m.train.recon.weight),
    ):  # fmt: skip
        if asked:
            raise UserError(f"transformer.{key}={asked} has no effect on stage={cfg.stage}; leave it out")


def check_task(cfg: Config) -> None:
    """UserError for another task than images where stage=paired is not what is trained."""
    if cfg.stage != "paired" and cfg.task != "image":
        stage = "" if cfg.stage is None else f", and this is stage={cfg.stage}"
        raise UserError(f"task={cfg.task} is one of `clipgen train stage=paired`{stage}; leave it out")


def check_window(paired: Paired, tokens: int) -> None:
    """UserError where an image of so many tokens has none that is out of sight."""
    if paired.window and paired.window + paired.pivots >= tokens:
        raise UserError(
            f"paired.window={paired.window} and paired.pivots={paired.pivots} are all {tokens} tokens of an image; "
            "take fewer, or paired.window=0 paired.pivots=0, which sees all of them in less time"
        )
