"""The networks whose features sets of pictures are compared by, from local files; nothing is downloaded."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clipgen import caption_pipeline
from clipgen.checkpoint import UNREADABLE, read_weights
from clipgen.cli.build import load_clip_once
from clipgen.data.atomic import sha256_file
from clipgen.errors import UserError
from clipgen.evaluation.extractors import Extractor, of_clip
from clipgen.evaluation.metrics import Captioner
from clipgen.tools import EvaluateConfig

DINOV2 = {384: "small", 768: "base", 1024: "large"}  # by the width of the file's class token
DINOV2_SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


def extractors(
    cfg: EvaluateConfig, device: torch.device, clip: str = "clip.", others: str = ""
) -> tuple[dict[str, Extractor], dict[str, str]]:
    """Those whose weights are at hand, and why the others are left out; keys are called `{clip}model`, `{others}…`."""
    found, left_out = {}, {}
    if cfg.clip.model:
        found["clip"] = of_clip(load_clip_once(cfg.clip.model, cfg.clip.pretrained, device, clip))
    else:
        left_out["clip"] = f"needs {clip}model=NAME (and {clip}pretrained=TAG), a CLIP that did not condition"
    if cfg.fid_weights:
        found["inception"] = inception(Path(cfg.fid_weights), f"{others}fid_weights")
    else:
        left_out["inception"] = f"needs {others}fid_weights=FILE, InceptionV3 as torch-fidelity publishes it"
    if cfg.dinov2_weights:
        found["dinov2"] = dinov2(Path(cfg.dinov2_weights), f"{others}dinov2_weights")
    else:
        left_out["dinov2"] = f"needs {others}dinov2_weights=FILE, such as dinov2_vitl14_pretrain.pth"
    for each in found.values():
        each.network.to(device)
    return found, left_out


def captioner_of(folder: str | None, device: torch.device, key: str = "captioner") -> Captioner | None:
    """The captioner of a model folder as metrics ask it, or none; UserError where it cannot be read."""
    if folder is None:
        return None
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{key}={folder} is no model folder; give one such as outputs/NAME/captioner")
    by = caption_pipeline.Captioner.from_pretrained(folder, device)

    def loss(image_BHWC: Tensor, texts: Sequence[str]) -> Tensor:
        return torch.tensor(by.caption_loss([Image.fromarray(pixels) for pixels in image_BHWC.numpy()], texts))

    return Captioner(folder, by.fingerprint, loss)


class _First(nn.Module):
    """The only one of the feature maps that torch-fidelity returns."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.network(image_BCHW)[0]


def inception(path: Path, key: str = "fid_weights") -> Extractor:
    """torch-fidelity's InceptionV3 with the weights of a local file; UserError for whatever is wrong with it."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as problem:
        raise UserError(f"{key} needs torch-fidelity; pip install 'clipgen[eval]'") from problem
    if not path.is_file():
        raise UserError(
            f"{key}={path} does not exist; give weights-inception-2015-12-05-6726825d.pth of torch-fidelity's "
            "releases, or leave it out"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:  # torch-fidelity would unpickle whatever the file holds
            torch.save(state, Path(folder) / "inception.pth")
            network = FeatureExtractorInceptionV3("inception", ["2048"], str(Path(folder) / "inception.pth"))
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())[:120]
        raise UserError(
            f"{key}={path} is not torch-fidelity's InceptionV3 ({reason}); give "
            "weights-inception-2015-12-05-6726825d.pth of its releases"
        ) from problem
    implementation = f"torch-fidelity's InceptionV3 ({path.name}, 2048 features)"
    resize = "resized to 299 as TensorFlow 1 does"
    weights_CF = network.fc.weight.detach()
    return Extractor("inception", sha256_file(path)[:16], 2048, implementation, resize, _First(network), weights_CF)


class _DinoFeatures(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean_C11", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std_C11", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        size = (DINOV2_SIDE, DINOV2_SIDE)
        image_BCHW = F.interpolate(image_BCHW.float() / 255, size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((image_BCHW - self.mean_C11) / self.std_C11)


def dinov2(path: Path, key: str = "dinov2_weights") -> Extractor:
    """DINOv2 without registers (arXiv 2304.07193) by timm, from a file as its authors publish it; UserError if not."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    wanted = "dinov2_vits14_pretrain.pth, dinov2_vitb14_pretrain.pth or dinov2_vitl14_pretrain.pth"
    if not path.is_file():
        raise UserError(f"{key}={path} does not exist; give {wanted} of its authors, or leave it out")
    state = read_weights(path)
    try:
        size = state["cls_token"].shape[-1]
        kind = DINOV2[size]
        network = timm.create_model(f"vit_{kind}_patch14_dinov2", num_classes=0, img_size=DINOV2_SIDE)
        network.load_state_dict(checkpoint_filter_fn(state, network))
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())[:120]
        raise UserError(f"{key}={path} is not DINOv2 without registers ({reason}); give {wanted}") from problem
    implementation = f"DINOv2 ViT-{kind[0].upper()}/14 by timm {timm.__version__} ({path.name}, {size} features)"
    resize = f"squeezed to {DINOV2_SIDE} (bicubic, antialiased)"
    return Extractor("dinov2", sha256_file(path)[:16], size, implementation, resize, _DinoFeatures(network))
