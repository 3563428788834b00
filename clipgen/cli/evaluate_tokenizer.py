"""`clipgen evaluate stage=vqgan`: a tokenizer on the held-out pictures of shards."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from clipgen.checkpoint import UNREADABLE
from clipgen.cli.build import load_clip_once, load_tokenizer
from clipgen.cli.machine import pick_device
from clipgen.cli.perceptual import described, perceptual_network, too_small
from clipgen.cli.say import say
from clipgen.clip.frozen import FrozenClip
from clipgen.config import EvaluateConfig
from clipgen.data.atomic import replacing, write_json
from clipgen.data.module import ImageData
from clipgen.data.transforms import to_model_range
from clipgen.errors import UserError
from clipgen.evaluation.fidelity import Distance, Features, measure, triplets, usage_chart
from clipgen.tokenizer.codes import Perturbation
from clipgen.tokenizer.vqgan import VQGAN

SHOWN = 12  # pictures


def evaluate_tokenizer(cfg: EvaluateConfig) -> float:
    """Prints the figures and writes vqgan.json, vqgan.png and codes.png into the folder; the PSNR."""
    if not 0 <= cfg.perturb_prob <= 1 or cfg.perturb_neighbours < 1:
        raise UserError(
            f"perturb_prob={cfg.perturb_prob} perturb_neighbours={cfg.perturb_neighbours}; take a probability from 0 "
            "to 1 and 1 neighbour or more"
        )
    path = Path(cfg.tokenizer.ckpt or Path(cfg.run) / "vqgan" / "last.ckpt")
    device = pick_device(cfg.device)
    vqgan, _, sha256 = load_tokenizer(path, cfg.tokenizer.ckpt_config)
    shards = Path(cfg.shards or Path(cfg.run) / "shards")
    data = held_out(cfg, shards, vqgan)
    features, distances, left_out = {}, {}, {}
    if cfg.perceptual_weights:
        network = perceptual_network(cfg.perceptual, cfg.perceptual_weights, "perceptual").to(device)
        if too_small(vqgan.image_size, network):
            raise UserError(
                f"{path} makes pictures of image_size={vqgan.image_size}, too small for perceptual={cfg.perceptual}, "
                f"which takes {network.least_size} pixels or more; leave out perceptual_weights"
            )
        distances[cfg.perceptual] = Distance(network.distance, described(network, cfg.perceptual_weights))
    else:
        left_out["lpips"] = "needs perceptual_weights=FILE, VGG16's (or perceptual=squeezenet and SqueezeNet's)"
    if cfg.fid_weights:
        features["rfid"] = inception(Path(cfg.fid_weights))
    else:
        left_out["rfid"] = "needs fid_weights=FILE, InceptionV3 as torch-fidelity publishes it"
    if cfg.clip.model:
        features["fd_clip"] = of_clip(load_clip_once(cfg.clip.model, cfg.clip.pretrained, device))
    else:
        left_out["fd_clip"] = "needs clip.model=NAME (and clip.pretrained=TAG)"
    vqgan.to(device)
    perturbation = Perturbation(1.0, cfg.perturb_prob, cfg.perturb_neighbours)
    found = measure(vqgan, data.val_dataloader(), perturbation, cfg.seed, distances, features)
    left_out |= found.left_out
    for name, (value, how) in found.figures.items():
        say(f"{name:<28}{value:<12.4f}{how}")
    for name, why in left_out.items():
        say(f"{name:<28}{'left out':<12}{why}")
    out = Path(cfg.out or ("evaluation" if cfg.tokenizer.ckpt else Path(cfg.run) / "evaluation"))
    out.mkdir(parents=True, exist_ok=True)
    shown = data.val_batches.plain(range(min(SHOWN, data.n_val)))["image"]
    for name, picture in (("vqgan.png", triplets(vqgan, shown)), ("codes.png", usage_chart(found.counts_K))):
        with replacing(out / name) as temporary:
            picture.save(temporary, format="PNG")
    write_json(
        out / "vqgan.json",
        {
            "checkpoint": str(path), "weights_sha256": sha256, "shards": str(shards), "left_out": left_out,
            "figures": {name: figure._asdict() for name, figure in found.figures.items()},
        },
    )  # fmt: skip
    say(f"they are in {out / 'vqgan.json'}; look at {out / 'vqgan.png'} and {out / 'codes.png'}")
    return found.figures["psnr"].value


def held_out(cfg: EvaluateConfig, shards: str | Path, vqgan: VQGAN) -> ImageData:
    """The validation pictures of shards at the tokenizer's size; UserError where there are none."""
    if cfg.val_samples < 1:
        raise UserError(f"val_samples={cfg.val_samples} leaves no picture to evaluate on; take at least 1")
    data = ImageData(shards, vqgan.image_size, cfg.batch_size or 50, 1, val_samples=cfg.val_samples)
    if not data.n_val:
        raise UserError(
            f"{shards} has no validation pictures to evaluate on; make shards with prep.val_fraction above 0, "
            "or give others with shards=FOLDER"
        )
    data.setup("validate")
    return data


class _First(nn.Module):
    """The only one of the feature maps that torch-fidelity returns."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.network(image_BCHW)[0]


def inception(path: Path) -> Features:
    """torch-fidelity's InceptionV3 with the weights of a local file; UserError for whatever is wrong with it."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as problem:
        raise UserError("fid_weights needs torch-fidelity; pip install 'clipgen[eval]'") from problem
    if not path.is_file():
        raise UserError(
            f"fid_weights={path} does not exist; give weights-inception-2015-12-05-6726825d.pth of torch-fidelity's "
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
            f"fid_weights={path} is not torch-fidelity's InceptionV3 ({reason}); give "
            "weights-inception-2015-12-05-6726825d.pth of its releases"
        ) from problem
    how = f"torch-fidelity's InceptionV3 ({path.name}, 2048 features), pictures resized to 299 as TensorFlow 1 does"
    return Features(_First(network), 2048, how)


class _ClipFeatures(nn.Module):
    def __init__(self, clip: FrozenClip):
        super().__init__()
        self.clip = clip

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.clip.encode_image(to_model_range(image_BCHW.permute(0, 2, 3, 1)))


def of_clip(clip: FrozenClip) -> Features:
    """The embeddings of a CLIP: not comparable with an FID of Inception."""
    identity = clip.identity
    how = f"unit embeddings of {identity.model}, pictures resized to {identity.image_size} by it; no FID of Inception"
    return Features(_ClipFeatures(clip), identity.embed_dim, how)
