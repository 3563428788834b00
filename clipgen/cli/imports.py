"""What `tokenizer.ckpt` and `transformer.ckpt` may be: checkpoints of ours, or ones that others published."""

from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from yaml import YAMLError

from clipgen.checkpoint import of_stage, read_checkpoint, read_torch, submodule
from clipgen.config import Config
from clipgen.defaults import Choice
from clipgen.errors import UserError
from clipgen.paired.text import FILE as TEXT
from clipgen.paired.text import Text
from clipgen.tokenizer.imported import from_hfai, from_taming, needs_yaml, published_weights
from clipgen.transformer.imported import from_hfai as from_hfai_transformer
from clipgen.transformer.imported import published_weights as transformer_weights
from clipgen.transformer.model import Transformer
from clipgen.upscale.windows import SCALE

OF_LATENTS = ("grid", "codebook_size", "embed_dim")
TRAINED_BY = (  # may change in a later training
    "dropout", "cond_drop_prob", "centred", "any_order", "condition", "text_drop_prob", "shrink_gradient",
)  # fmt: skip
OF_PAIRED = ("sandwich", "pb_relax")  # keys of `paired`, not of `transformer`


def read_tokenizer(path: str | Path, yaml: str | Path | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(Settings of the VQGAN, its weights) of a checkpoint; `yaml` is that of taming, else it is looked for beside."""
    checkpoint = read_torch(path, "vqgan")
    if (weights := published_weights(checkpoint)) is None:
        checkpoint = of_stage(checkpoint, path, "vqgan")
        return checkpoint["clipgen"]["settings"]["tokenizer"], submodule(checkpoint, "vqgan")
    if not needs_yaml(weights):
        return from_hfai(weights, str(path))
    yaml = Path(yaml) if yaml else _yaml_beside(Path(path))
    return from_taming(weights, _read_yaml(yaml), str(path), str(yaml))


def read_transformer(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """(Settings of the Transformer, its weights, what it was trained with) of a checkpoint, ours or HFAiLab's.

    The last are fingerprints for `check_inputs`, none where they are not known.
    """
    checkpoint = read_torch(path, "transformer")
    if (weights := transformer_weights(checkpoint)) is None:
        kept = of_stage(checkpoint, path, "transformer")["clipgen"]
        settings, training = kept["settings"]["transformer"], kept["settings"].get("transformer.train", {})
        settings = settings | {"min_level": training.get("min_level")}
        return settings, submodule(checkpoint, "transformer"), kept.get("inputs", {})
    try:
        return *from_hfai_transformer(weights), {}
    except ValueError as problem:
        raise UserError(f"{path} {problem}; give the checkpoint as it was published") from problem


def read_paired(path: str | Path, *stages: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str], Text]:
    """(Settings, weights, what it was trained with, its pieces) of a checkpoint with its text.model beside it.

    `stages` are those that it may be of: paired, or caption, whose order is swapped.
    """
    checkpoint = read_checkpoint(path, *stages)
    kept, beside = checkpoint["clipgen"], Path(path).with_name(TEXT)
    text = Text.load(beside)
    check_inputs(path, kept["inputs"], {"text": (text.sha256, str(beside))})
    return kept["settings"]["paired"], submodule(checkpoint, "transformer"), kept["inputs"], text


def read_tokens_model(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """As `read_transformer`, of a checkpoint of any stage that knows image tokens."""
    checkpoint = read_torch(path, "transformer")
    kept = checkpoint.get("clipgen", {}) if isinstance(checkpoint, dict) else {}
    if (stage := kept.get("stage")) not in ("paired", "super"):
        return read_transformer(path)
    found = kept["settings"][stage]
    if stage == "super":
        found = found | {"grid": [SCALE * side for side in found["window"]]}
    return found, submodule(checkpoint, "transformer"), kept["inputs"]


def check_start(
    path: str | Path, found: dict[str, Any], wanted: dict[str, Any], kind: type[nn.Module] = Transformer
) -> None:
    """UserError when a Transformer of the settings `found` in `path` cannot go on under those `wanted`."""
    defaults = {name: each.default for name, each in signature(kind).parameters.items()}
    of_no_effect = ("rope_base",) if wanted["style"] == "gpt2" else ()
    for key in sorted(wanted.keys() - {*TRAINED_BY, *of_no_effect}):
        has, value = found.get(key, defaults.get(key)), wanted[key]
        if has != value and key in OF_LATENTS:
            raise UserError(
                f"transformer.ckpt={path} has {key} {has}, but the latents have {value}; take other latents"
            )
        if has != value:
            name = f"paired.{key}" if key in OF_PAIRED else f"transformer.{key}"
            raise UserError(f"transformer.ckpt={path} has {key} {has}, but {name} is {value}; take {name}={has}")


def check_inputs(path: str | Path, trained_with: dict[str, str], here: dict[str, tuple[str, str]]) -> None:
    """UserError when the Transformer in `path` knows other tokens or embeddings than those `here`.

    `here` is kind → (fingerprint, what it is of); what a checkpoint does not tell is not compared.
    """
    for kind, (fingerprint, name) in here.items():
        if (was := trained_with.get(kind)) not in (None, fingerprint):
            raise UserError(
                f"{path} was trained with {kind} {was[:8]}…, but that of {name} is {fingerprint[:8]}…; give the one it "
                "was trained with"
            )


def adopt_tokenizer(cfg: Config) -> list[Choice]:
    """Set the network of `cfg.tokenizer` to that of `tokenizer.ckpt`, in place; what changed by that."""
    t = cfg.tokenizer
    if not t.ckpt:
        return []
    settings, _ = read_tokenizer(t.ckpt, t.ckpt_config)
    downsample = settings.get("patch", 1) * 2 ** (len(settings["channel_multipliers"]) - 1)
    choices = []
    for key, value in {**settings, "downsample": downsample}.items():
        if getattr(t, key) != value:
            setattr(t, key, value)
            choices.append(Choice(f"tokenizer.{key}", value, "tokenizer.ckpt"))
    return choices


def _yaml_beside(path: Path) -> Path:
    """Where taming's and latent diffusion's downloads and log folders have it."""
    logs = sorted(path.parent.parent.glob("configs/*-project.yaml"), reverse=True)
    named = [path.with_suffix(".yaml"), path.with_name("model.yaml"), path.with_name("config.yaml")]
    for yaml in [*named, *logs]:
        if yaml.is_file():
            return yaml
    raise UserError(
        f"{path} is a checkpoint of taming, and its YAML is not beside it ({', '.join(each.name for each in named)} or "
        "../configs/*-project.yaml); give it as tokenizer.ckpt_config=FILE.yaml"
    )


def _read_yaml(path: Path) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as problem:
        raise UserError(f"tokenizer.ckpt_config={path} does not exist; give the YAML of the checkpoint") from problem
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise UserError(f"{path} is not a readable YAML ({reason}); give that of the checkpoint") from problem
