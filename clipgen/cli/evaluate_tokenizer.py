"""`clipgen evaluate stage=vqgan`: a tokenizer on the held-out pictures of shards."""

from pathlib import Path

from clipgen.cli.build import load_tokenizer
from clipgen.cli.evaluate_generator import held_out
from clipgen.cli.extractors import extractors
from clipgen.cli.machine import pick_device
from clipgen.cli.perceptual import described, perceptual_network, too_small
from clipgen.cli.say import say
from clipgen.data.atomic import replacing, write_json
from clipgen.errors import UserError
from clipgen.evaluation.fidelity import Distance, measure, triplets, usage_chart
from clipgen.tokenizer.codes import Perturbation
from clipgen.tools import EvaluateConfig

SHOWN = 12  # pictures
AS_DISTANCE = {"clip": "fd_clip", "inception": "rfid", "dinov2": "fd_dinov2"}


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
    data = held_out(cfg, shards, vqgan.image_size)
    distances, left_out = {}, {}
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
    at_hand, without = extractors(cfg, device)
    features = {AS_DISTANCE[name]: each for name, each in at_hand.items()}
    left_out |= {AS_DISTANCE[name]: why for name, why in without.items()}
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
