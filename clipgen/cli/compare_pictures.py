"""The figures of a comparison that are of sets of pictures: how far from real ones, how varied, whether copies."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipgen.cli.arms import tokenizer_of
from clipgen.cli.asking import JUDGE
from clipgen.cli.build import load_clip_once
from clipgen.cli.evaluate_generator import compared as figures_of
from clipgen.cli.evaluate_generator import held_out, pictures_of
from clipgen.cli.extractors import captioner_of, extractors
from clipgen.cli.machine import pick_device
from clipgen.cli.perceptual import needs_clip
from clipgen.cli.record import FILE as STAGE
from clipgen.data.atomic import fingerprint, write_json
from clipgen.evaluation.extractors import of_clip
from clipgen.evaluation.metrics import Figure, Pictures, caption_loss, clip_score
from clipgen.tools import ClipChoice, EvaluateConfig

if TYPE_CHECKING:
    from clipgen.cli.compare import Compared, Job

KEPT = "figures.json"  # beside the pictures that they are of
REFERENCE = 2000  # validation pictures, at most
HIGHER = ("precision", "recall", "density", "coverage", "is", "clip.score")
LOWER = ("fid_k", "cmmd", "caploss")
DISTANCES = {"clip": "FD-CLIP", "inception": "FID", "dinov2": "FD-DINOv2"}
TITLES = {
    "is": "Inception score", "cmmd": "CMMD", "diversity": "Variety in a prompt", "clip.score": "CLIP score",
    "caploss": "CapLoss", "nearest.mean": "Nearest training picture, mean", "nearest.least": "… least",
    "nearest.held_out.mean": "… of held-out pictures, mean", "nearest.held_out.least": "… least",
}  # fmt: skip


class PictureFigures:
    """`of(job, …)` measures once and keeps it; `metrics` and `left_out` say how, and what could not be."""

    def __init__(self, compared: "Compared"):
        cfg = compared.cfg
        c, device = cfg.compare, pick_device(cfg.trainer.device)
        choice = ClipChoice(c.judge_model, c.judge_pretrained)
        files = {"fid_weights": c.fid_weights, "dinov2_weights": c.dinov2_weights}
        self.how = EvaluateConfig("", clip=choice, val_samples=REFERENCE, **files)
        at_hand, self.left_out = extractors(self.how, device, JUDGE, "compare.")
        self.captioner = captioner_of(c.captioner, device, "compare.captioner")
        if self.captioner is None:
            self.left_out["caploss"] = "needs compare.captioner=FOLDER, a captioner"
        self.conditioning = load_clip_once(cfg.clip.model, cfg.clip.pretrained).identity.fingerprint()
        if "clip" not in at_hand:
            self.left_out.pop("clip", None)
            at_hand["clip"] = of_clip(load_clip_once(cfg.clip.model, cfg.clip.pretrained, device))
        self.at_hand, self.compared = at_hand, compared
        size = next(iter(compared.arms.values())).cfg.tokenizer.image_size
        self.data = held_out(self.how, cfg.shards, size)
        self.reference = pictures_of(self.data)
        self.metrics: dict[str, dict[str, Any]] = {}

    def of(self, job: "Job", test: dict[str, Any]) -> dict[str, Any]:
        """The test with figures of each prompt among its `values`, figures `of_sets`, and which are `circular`."""
        path = self.compared.folder(job) / KEPT
        judges = sorted(each.fingerprint for each in (*self.at_hand.values(), self.captioner) if each is not None)
        key = fingerprint([test["key"], judges, self.data.manifest.content, self.compared.cfg.compare.test])[:24]
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("key") != key:
            kept = {"key": key, **self._measured(job)}
            write_json(path, kept)
        self.left_out |= kept["left_out"]
        figures = {name: Figure(**each) for name, each in kept["figures"].items()}
        for name, figure in figures.items():
            self.metrics.setdefault(name, _described(name, figure))
        by_prompt = {name: np.array(each) for name, each in kept["by_prompt"].items()}
        return test | {
            "values": test["values"] | by_prompt,
            "of_sets": {name: figure.value for name, figure in figures.items() if name not in by_prompt},
            "circular": [name for name, figure in figures.items() if figure.circular],
            "warnings": {name: figure.warning for name, figure in figures.items() if figure.warning},
        }

    def _measured(self, job: "Job") -> dict[str, Any]:
        """As many pictures of a prompt for every arm, as a distance depends on their number."""
        prompts, each = self.compared.world.prompts["test"], self.compared.cfg.compare.test
        pixels_NHWC = torch.from_numpy(self.compared.asked(job).pictures())
        pixels_PnHWC = pixels_NHWC.unflatten(0, (len(prompts), -1))
        spread = torch.linspace(0, pixels_PnHWC.shape[1] - 1, each).round().long()  # chosen ones lie best first
        pixels_NHWC = pixels_PnHWC[:, spread].flatten(0, 1)
        arm = self.compared.arms[job.variant.arm].cfg
        by_clip = arm.stage != "paired" or arm.compare.arm.candidates or self._tokenizer_knows_clip(job)
        samples = Pictures(pixels_NHWC, "samples", [self.conditioning] if by_clip else [])
        found, left_out = figures_of(self.how, samples, self.reference, len(prompts), self.data, self.at_hand)
        figures = {name.replace("clip.", "", 1).replace("circular.", ""): figure for name, figure in found.items()}
        score, values_Pn = clip_score(samples, prompts, self.at_hand["clip"].network.clip)
        figures["clip.score"] = score
        by_prompt = {"clip.score": values_Pn.mean(1).tolist()}
        if self.captioner is not None:
            figures["caploss"], values_Pn = caption_loss(samples, prompts, self.captioner)
            by_prompt["caploss"] = values_Pn.mean(1).tolist()
        return {
            "figures": {name: figure._asdict() for name, figure in figures.items()}, "left_out": left_out,
            "by_prompt": by_prompt,
        }  # fmt: skip

    def _tokenizer_knows_clip(self, job: "Job") -> bool:
        """Whether a CLIP's features were the perceptual loss of its tokenizer, as the record beside that says."""
        arm = self.compared.arms[job.variant.arm]
        record = tokenizer_of(arm, self.compared.out)[0].with_name(STAGE)
        if not record.is_file():
            return not arm.cfg.tokenizer.ckpt and needs_clip(arm.cfg.tokenizer.train)  # else a published one
        train = json.loads(record.read_text(encoding="utf-8"))["settings"].get("tokenizer.train", {})
        return train.get("perceptual") == "clip" and train.get("perceptual_weight", 1) > 0


def _described(name: str, figure: Figure) -> dict[str, Any]:
    kind, _, rest = name.rpartition("fid_k.")
    by = kind.rstrip(".") or "clip"
    short = name.rpartition(".")[2] if name not in TITLES else name
    title = f"{DISTANCES[by]}, k = {rest}" if "fid_k." in name else TITLES.get(short, name.replace("_", " "))
    resize = figure.resize.replace(f"({rest}), sigma {rest}", "(k), sigma k")  # so that radii share a note
    better = "lower" if any(each in name for each in LOWER) else "higher" if short in HIGHER else None
    return {
        "title": title, "better": better, "implementation": figure.implementation, "n": figure.n,
        "resize": resize, "reference": figure.reference,
    }  # fmt: skip
