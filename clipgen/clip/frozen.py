"""A frozen open_clip model: image or text → one L2-normalised embedding, and nothing else in the project normalises.

B batch, H W pixels, E embedding size
"""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pretrained import _PRETRAINED
from open_clip.transformer import Transformer
from torch import Tensor, nn

from clipgen.checkpoint import weights_sha256
from clipgen.data.atomic import sha256_file
from clipgen.errors import UserError

LOCAL_DIR = "local-dir:"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ClipIdentity:
    """What made an embedding; it travels with the latents and the generator."""

    model: str
    pretrained: str | None
    sha256: str
    embed_dim: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def name(self) -> str:
        """For a reader: where a folder of one's own lies is no one else's concern."""
        if not self.model.startswith(LOCAL_DIR):
            return f"{self.model} ({self.pretrained})" if self.pretrained else self.model
        return "the CLIP in " + "/".join(Path(self.model.removeprefix(LOCAL_DIR)).parts[-2:])

    def describe(self) -> dict:
        """For a manifest: plain JSON."""
        return json.loads(json.dumps(asdict(self)))

    def fingerprint(self) -> str:
        """The same for the same weights and preprocessing, wherever the folder lies."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("model", "pretrained")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


class FrozenClip(nn.Module):
    """Eval mode, no gradients to its weights; embeddings are float32 of unit length."""

    def __init__(self, model: nn.Module, tokenizer, identity: ClipIdentity):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        _put_sequence_first(self.model)
        self.tokenizer = tokenizer
        self.identity = identity
        self.register_buffer("mean_C11", torch.tensor(identity.mean)[:, None, None], persistent=False)
        self.register_buffer("std_C11", torch.tensor(identity.std)[:, None, None], persistent=False)

    def train(self, mode: bool = True):
        return super().train(False)

    def preprocess(self, image_BCHW: Tensor, whole: bool = False) -> Tensor:
        """CLIP's own: antialiased bicubic resize of the shorter side, the centre square of that, then mean and std.

        With `whole` all of a picture that is not square is squeezed into the square.
        """
        size = self.identity.image_size
        image_BCHW = image_BCHW.float()
        height, width = image_BCHW.shape[-2:]
        if (height, width) != (size, size):
            scale = size / min(height, width)
            height, width = max(size, round(scale * height)), max(size, round(scale * width))
            if whole:
                height = width = size
            image_BCHW = F.interpolate(image_BCHW, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
            top, left = (height - size) // 2, (width - size) // 2
            image_BCHW = image_BCHW[..., top : top + size, left : left + size]
        return ((image_BCHW + 1) / 2 - self.mean_C11) / self.std_C11

    @torch.no_grad()
    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Unit embeddings (B, E) of images in [-1, 1]."""
        return self.embed_image(image_BCHW)

    def embed_image(self, image_BCHW: Tensor) -> Tensor:
        """As `encode_image`, with gradients to the images."""
        with plain_attention(image_BCHW.device):
            return F.normalize(self.model.encode_image(self.preprocess(image_BCHW)).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, E) of texts; what exceeds the model's context is cut."""
        tokens = self.tokenizer(list(texts)).to(self.mean_C11.device)
        with plain_attention(tokens.device):
            return torch.cat([F.normalize(self.model.encode_text(t).float(), dim=-1) for t in tokens.split(256)])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end does not fit into the context."""
        if not texts:
            return []
        token_BL = self.tokenizer(list(texts))
        longer_BM = self.tokenizer(list(texts), context_length=token_BL.shape[1] + 1)
        cut_B = (longer_BM[:, :-1] != token_BL).any(1)
        return [text for text, cut in zip(texts, cut_B.tolist(), strict=True) if cut]

    def features(self, image_BCHW: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of the image tower, with gradients to the image: for a perceptual loss."""
        with plain_attention(image_BCHW.device):
            found = self.model.visual.forward_intermediates(
                self.preprocess(image_BCHW, whole=True), intermediates_only=True, output_fmt="NCHW"
            )
        return found["image_intermediates"]


def _put_sequence_first(model: nn.Module) -> None:
    """Let the blocks of open_clip's Transformers see (L, B, D): results are the same.

    With the batch first torch's attention multiplies a transposed view, which is slow in bf16 on the CPU: ViT-B/32's
    features of 8 photos with their gradient took 6 s instead of 0.6 s on one core.
    """
    for part in model.modules():
        if isinstance(part, Transformer):
            attentions = [getattr(block, "attn", None) for block in part.resblocks]
            if all(isinstance(attention, nn.MultiheadAttention) for attention in attentions):
                for each in (part, *attentions):
                    each.batch_first = False


def plain_attention(device: torch.device):
    """torch's fused kernel is several times slower than plain products for CLIP's short sequences on the CPU."""
    if torch.device(device).type != "cpu":
        return contextlib.nullcontext()
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)


def load_clip(
    model: str, pretrained: str | None = None, device: str | torch.device = "cpu", setting: str = "clip."
) -> FrozenClip:
    """A pretrained open_clip model: a name and a tag or file, `hf-hub:ORG/REPO`, or `local-dir:FOLDER`.

    Raises UserError when the weights cannot be had, or when name and weights disagree about the activation; it calls
    them by the keys `{setting}model` and `{setting}pretrained`.
    """
    weights = _local_weights(model, setting) if model.startswith(LOCAL_DIR) else None
    if weights is None and not model.startswith("hf-hub:"):
        _check_name(model, pretrained, setting)
        _check_activation(model, pretrained, setting)
    try:
        with _quiet():
            net, _, _ = open_clip.create_model_and_transforms(
                model, pretrained=pretrained or None, device=device, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(model)
    except UserError:
        raise
    except Exception as problem:  # open_clip and the hub raise many kinds for the same thing
        reason = str(problem).strip().split("\n")[0][:200]
        raise UserError(
            f"{setting}model={model} {setting}pretrained={pretrained}: the weights could not be loaded ({reason}). "
            "Connect to the network once, or give a folder with open_clip_config.json and weights as "
            f"{setting}model=local-dir:FOLDER"
        ) from problem
    preprocess = open_clip.get_model_preprocess_cfg(net)
    size = preprocess["size"]
    identity = ClipIdentity(
        model=model,
        pretrained=pretrained,
        sha256=sha256_file(weights) if weights else weights_sha256(net.state_dict()),
        embed_dim=_embed_dim(net),
        image_size=size[0] if isinstance(size, list | tuple) else size,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
    )
    return FrozenClip(net, tokenizer, identity).to(device)


def _local_weights(model: str, setting: str) -> Path:
    folder = Path(model.removeprefix(LOCAL_DIR))
    if not (folder / "open_clip_config.json").is_file():
        raise UserError(
            f"{setting}model={model}: there is no open_clip_config.json in {folder}; give a folder that has one"
        )
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{setting}model={model}: {folder} has no weights; put {WEIGHT_FILES[0]} beside its config")


def _check_name(model: str, pretrained: str | None, setting: str) -> None:
    if model.replace("/", "-") not in open_clip.list_models():
        raise UserError(f"{setting}model={model} is not a model of open_clip; `open_clip.list_models()` lists them")
    if not pretrained:
        raise UserError(
            f"{setting}pretrained is empty: name weights for {model}, or use {setting}model=local-dir:FOLDER"
        )
    tags = open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(
            f"{setting}pretrained={pretrained} is neither a file nor a tag of {model} ({', '.join(tags) or 'none'})"
        )


def _check_activation(model: str, pretrained: str, setting: str) -> None:
    """OpenAI's weights need QuickGELU; open_clip loads them into a GELU model with a warning or, from a file, none."""
    wanted = None
    if Path(pretrained).is_file():
        digest = sha256_file(Path(pretrained))
        for tags in _PRETRAINED.values():
            if any(digest in (cfg.get("url") or "") for cfg in tags.values()):
                wanted = True
    else:
        wanted = bool(open_clip.get_pretrained_cfg(model, pretrained).get("quick_gelu", False))
    has = bool((open_clip.get_model_config(model) or {}).get("quick_gelu", False))
    base = model.removesuffix("-quickgelu")
    mend = f"{base}-quickgelu" if wanted else base
    if wanted is not None and wanted != has and mend != model:  # roberta-ViT-B-32 has QuickGELU under its plain name
        raise UserError(
            f"{setting}model={model} has {'QuickGELU' if has else 'GELU'} but {setting}pretrained={pretrained} was "
            f"trained with {'QuickGELU' if wanted else 'GELU'}; use {setting}model={mend}"
        )


def _embed_dim(net: nn.Module) -> int:
    dim = getattr(net.visual, "output_dim", None) or net.text_projection.shape[-1]
    return int(dim)


@contextlib.contextmanager
def _quiet():
    """open_clip logs and warns while loading; what matters of it is an error here."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
