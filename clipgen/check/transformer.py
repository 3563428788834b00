"""Stage 2: the network, what it is shown in training, and what it can be asked with then."""

from clipgen.check.paired import OF_TOKENS
from clipgen.config import Config, TransformerModel
from clipgen.defaults import heads_for
from clipgen.errors import UserError


def check_transformer(cfg: Config) -> None:
    """UserError for settings of the network and its training that do not go together, or not with the level asked."""
    m, by_embedding = cfg.transformer, cfg.stage not in OF_TOKENS
    train, key = m.train, "transformer."
    if m.style == "gpt2" and by_embedding:
        for name, value, mend in (
            ("n_prefix", m.n_prefix != 1, "1"),
            ("train.rar", train.rar, "false, as its tokens do not say where they stand"),
            ("gft", m.gft, "false, as there is no token to tell beta"),
            ("train.min_level", train.min_level != 1, "1, as there is no token to tell the level"),
        ):
            if value:
                raise UserError(f"{key}{name} does not fit {key}style=gpt2; take {mend}, or style=modern")
    if m.gft and not m.level_token:
        raise UserError(f"{key}gft=true tells beta by the level's token; take {key}level_token=true")
    if m.gft and not m.cond_drop_prob:
        raise UserError(f"{key}gft=true needs images without a condition; take {key}cond_drop_prob=0.1")
    if train.keep_random and not train.rar:
        raise UserError(f"{key}train.keep_random=true has no random order to keep; take {key}train.rar=true")
    if len(train.rar_anneal) != 2 or not 0 <= train.rar_anneal[0] <= train.rar_anneal[1] <= 1:
        raise UserError(f"{key}train.rar_anneal={list(train.rar_anneal)}; take two rising shares, as [0.5,0.75]")
    for name in ("lr", "muon_lr"):
        if (value := getattr(train, name)) is not None and value <= 0:
            raise UserError(f"{key}train.{name}={value}; take more than 0")
    if by_embedding:
        _check_level(cfg)


def _check_level(cfg: Config) -> None:
    m, fidelity = cfg.transformer, cfg.sampling.fidelity
    if m.style == "modern" and m.level_token and fidelity < m.train.min_level:
        raise UserError(
            f"sampling.fidelity={fidelity:g} is a level that transformer.train.min_level={m.train.min_level:g} never "
            f"shows the model; take sampling.fidelity={m.train.min_level:g} or more, or a smaller min_level"
        )


def check_guidance(cfg: Config) -> None:
    """UserError for guidance that the model is not trained for."""
    m = cfg.transformer
    if m.gft and (cfg.sampling.guidance_schedule != "constant" or cfg.sampling.guidance_scale < 1):
        raise UserError(
            f"transformer.gft=true is told one scale of 1 or more for all tokens, but sampling.guidance_scale="
            f"{cfg.sampling.guidance_scale:g} and sampling.guidance_schedule={cfg.sampling.guidance_schedule}; take "
            "sampling.guidance_schedule=constant and a scale of at least 1"
        )
    if not m.cond_drop_prob and cfg.sampling.guidance_scale != 1:
        raise UserError(
            f"sampling.guidance_scale={cfg.sampling.guidance_scale:g} needs a model that knows no condition, but "
            f"transformer.cond_drop_prob=0; take sampling.guidance_scale=1, or transformer.cond_drop_prob=0.1"
        )


def check_heads(m: TransformerModel) -> None:
    """UserError for heads that the width cannot be shared out to."""
    if m.width and m.heads and (m.width % m.heads or (m.width // m.heads) % 4):
        mend = f"transformer.heads={heads_for(m.width)}" if m.width % 4 == 0 else "a width that is a multiple of 4"
        raise UserError(
            f"transformer.width={m.width} over transformer.heads={m.heads} gives no head size that is a multiple of 4; "
            f"take {mend}"
        )
