"""Text → image: the object a user holds.

B images, E embedding size, h w token grid
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clipgen.clip.frozen import FrozenClip
from clipgen.data.transforms import center_crop_resize, to_model_range, to_uint8
from clipgen.errors import UserError
from clipgen.tokenizer.codes import clusters
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer import bridges
from clipgen.transformer.model import CausalTransformer
from clipgen.transformer.packed import prepared
from clipgen.transformer.sampling import SCHEDULES, Given, check_clusters, sample

LATER = {  # settings that older models lack
    "min_p": 0.0, "guidance_schedule": "constant", "precision": "fp32", "clusters": 0, "prefix_boost": 0.0,
}  # fmt: skip
CHOICES = {"guidance_schedule": SCHEDULES, "precision": ("fp32", "bf16"), "rerank": ("clip", "self", "caption")}
STATISTICS, BANK = "statistics.safetensors", "bank.safetensors"


class CapLoss(Protocol):
    """What tells how badly texts fit images, as `clipgen.caption_pipeline.Captioner` does: less fits better."""

    def caption_loss(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]: ...


class ClipGen:
    """A trained generator: CLIP, Transformer and VQGAN decoder, with the means that bridge text and image.

    `ClipGen.from_pretrained(folder).generate(["a red circle"], n=4, guidance_scale=3.0, seed=0)` gives PIL images.
    """

    kind = "clip"  # what reads the text; of models trained with captions `PairedGen` has another
    reader = "this CLIP"

    def __init__(
        self,
        vqgan: VQGAN,
        transformer: CausalTransformer,
        clip: FrozenClip,
        statistics: dict[str, Tensor],
        sampling: dict[str, Any],
        settings: dict[str, Any],
        device: str | torch.device = "cpu",
        bank_NE: Tensor | None = None,
    ):
        self.device = torch.device(device)
        self.vqgan = vqgan.eval().to(self.device, memory_format=torch.channels_last)
        self.transformer = transformer.eval().to(self.device)
        self.clip = clip.to(self.device)
        self.statistics = {name: tensor.to(self.device) for name, tensor in statistics.items()}
        self.bank_NE = None if bank_NE is None else bank_NE.to(self.device)
        self.sampling = {"bridge": bridges.DEFAULT, **LATER, **sampling}  # what a model of before had no choice in
        self.settings = settings
        self._clusters: dict[int, Tensor] = {}  # of the codes, by how many there are
        self._copies: dict[str, tuple[list, CausalTransformer]] = {}  # by precision; which weights they were made of

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ClipGen":
        """Load what `clipgen run` or `clipgen export` wrote, of either kind. UserError when a part is missing."""
        from clipgen.pretrained import load

        return load(folder, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, safetensors, a model card, and the CLIP where it came from a local folder. No pickle."""
        from clipgen.pretrained import save

        save(self, Path(folder))

    def own_files(self) -> dict[str, dict[str, Tensor] | bytes | None]:
        """What a model folder has beside the two networks: tensors or bytes by name; None: no such file."""
        bank = None if self.bank_NE is None else {"image": self.bank_NE.half()}
        return {STATISTICS: self.statistics, BANK: bank}

    def card(self) -> str:
        size, downsample = self.vqgan.image_size, self.vqgan.downsample
        parameters = sum(p.numel() for p in self.transformer.parameters()) / 1e6
        size_of_bank = 0 if self.bank_NE is None else len(self.bank_NE)
        return (
            "---\nlibrary_name: clipgen\npipeline_tag: text-to-image\n---\n"
            f"# A text-to-image generator trained without captions\n\n"
            f"Made with clipgen (CLIP-GEN, arXiv 2203.00386): a VQGAN ({size} px, downsampling {downsample}, "
            f"{self.transformer.codebook_size} codes) and a Transformer of {parameters:.1f} M parameters that was "
            f"trained on CLIP image embeddings and is asked with text embeddings.\n\n"
            "```python\nfrom clipgen import ClipGen\n\n"
            'images = ClipGen.from_pretrained("THIS_FOLDER").generate(["…"], n=4, seed=0)\n```\n\n'
            "It knows what the images it was trained on show, and the words its CLIP knows. It does not count well, "
            "and it does not tell which of two objects has which property.\n\n"
            f"Bridges from text to images: {', '.join(self.usable_bridges())} "
            f"(bank of `knn`: {f'{size_of_bank:,} images' if size_of_bank else 'none'}).\n\n"
            f"CLIP: `{self.clip.identity.sha256[:16]}…`. Sampling defaults: `{json.dumps(self.sampling)}`.\n"
        )

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 4,
        seed: int = 0,
        on_batch: Callable[[int], None] | None = None,
        negative: str | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """`n` images for each prompt, in order: all of the first prompt, then all of the second.

        Guidance leads away from the prompt `negative`, where there is one. `sampling` overrides the model's own
        guidance_scale, guidance_schedule, temperature, top_k, top_p, min_p, clusters (of codes that are alike: then
        top_k counts these; 0: none), prefix_boost (added to the scores of attention to the prompt), fidelity (the
        cosine at which the Transformer is asked, 0 to 1), bridge (from text to image embeddings:
        `clipgen.transformer.bridges`), precision (of the Transformer) and batch_size. An image depends on its prompt,
        its number, the seed and the settings, and on no other image. Raises UserError for an empty prompt, a setting
        out of range, or a bridge that the model lacks something for.
        """
        condition_PE = self._text_conditions(prompts, sampling.get("bridge"))
        seeds = [image_seed(prompt, seed, i) for prompt in prompts for i in range(n)]
        away_1E = self._negative(negative, sampling)
        return self.from_conditions(condition_PE.repeat_interleave(n, 0), seeds, on_batch, away_1E, **sampling)

    def _text_conditions(self, prompts: Sequence[str], name: str | None = None) -> Tensor:
        """Of the bridge of that name; UserError for an empty prompt."""
        self._check_prompts(prompts)
        return self.bridge(self.clip.encode_text(prompts), name)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end is not read."""
        return self.clip.too_long(texts)

    def _check_prompts(self, prompts: Sequence[str]) -> None:
        if isinstance(prompts, str):
            raise UserError(f"prompts is the text {prompts!r}; give a list of texts")
        for number, prompt in enumerate(prompts):
            if not prompt.strip():
                raise UserError(f"prompt {number + 1} is empty; say what the image shows")

    def bridge(self, text_BE: Tensor, name: str | None = None) -> Tensor:
        """Unit conditions for text embeddings of unit length; UserError where the model lacks what the bridge needs.

        A model trained on texts (`transformer.condition=text`) needs none, whatever its name.
        """
        if self.transformer.condition == "text":
            return bridges.of_texts(text_BE.to(self.device), self.statistics, self.transformer.centred)
        name = self.sampling["bridge"] if name is None else name
        centred = self.transformer.centred
        return bridges.bridge(name, text_BE.to(self.device), self.statistics, self.bank_NE, centred)

    def usable_bridges(self) -> list[str]:
        """Those for which this model holds the statistics, and the bank for `knn`."""
        centred = ["image_mean"] if self.transformer.centred else []
        found = [name for name, (_, needs) in bridges.MAPS.items() if {*needs, *centred} <= set(self.statistics)]
        return found if self.bank_NE is None else [*found, *(f"{name}+knn" for name in found)]

    def image_conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """Conditions (B, E) of pictures of the generator's own size."""
        parts = [self._tensor(images[start : start + 256]) for start in range(0, len(images), 256)]
        image_BE = torch.cat([self.clip.encode_image(part_BCHW) for part_BCHW in parts])
        return bridges.place(image_BE, self.statistics, self.transformer.centred)

    def generate_best(
        self,
        prompts: Sequence[str],
        candidates: int = 32,
        keep: int = 4,
        rerank: str = "clip",
        seed: int = 0,
        on_batch: Callable[[int], None] | None = None,
        negative: str | None = None,
        captioner: CapLoss | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """The best `keep` of `candidates` images for each prompt, the best first; the candidates are `generate`'s.

        `rerank="clip"` takes the cosine of image and prompt by the conditioning CLIP, `"self"` what the Transformer
        itself says: log p(tokens | prompt) - log p(tokens | null), for which the null must have been trained and
        not be replaced by `negative`, `"caption"` the least CapLoss of the prompt given the image by a `captioner`,
        which sees the pixels.
        """
        if not 1 <= keep <= candidates:
            raise UserError(f"keep={keep} of candidates={candidates}; keep at least 1 and at most all of them")
        _choose("rerank", rerank)
        if (rerank == "caption") is (captioner is None):
            has = "needs a captioner" if captioner is None else "asks no captioner"
            raise UserError(f"rerank={rerank} {has}; give rerank=caption and a captioner, or neither")
        condition_PE = self._text_conditions(prompts, sampling.get("bridge"))
        seeds = [image_seed(prompt, seed, i) for prompt in prompts for i in range(candidates)]
        prefer = rerank == "self"
        if prefer and negative is not None:
            raise UserError(f'rerank=self compares with no prompt, not with negative="{negative}"; take rerank=clip')
        away_1E = self._negative(negative, sampling)
        images, scores = self._sampled(
            condition_PE.repeat_interleave(candidates, 0), seeds, on_batch, away_1E, prefer=prefer, **sampling
        )
        asked = [prompt for prompt in prompts for _ in range(candidates)]
        if rerank == "clip":
            scores = self.scores(images, asked)
        elif captioner is not None:
            scores = [-loss for loss in captioner.caption_loss(images, asked)]
        best = []
        for start in range(0, len(images), candidates):
            ranked = sorted(range(start, start + candidates), key=lambda i: -scores[i])
            best += [images[i] for i in ranked[:keep]]
        return best

    def complete(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str | None = None,
        n: int = 4,
        seed: int = 0,
        on_batch: Callable[[int], None] | None = None,
        negative: str | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """`n` times the image with what is white in `mask` made anew, towards the prompt or the image's own embedding.

        A token's cell is made anew where any pixel of the mask there is white; the other tokens are kept. A model
        trained in any order knows all of them; one trained in raster order only what is above and to the left of a
        token. UserError where the sizes differ or nothing is white.
        """
        if mask.size != image.size:
            raise UserError(
                f"the mask has {size_of(mask)} pixels and the image {size_of(image)}; give them the same size"
            )
        white = mask.convert("L").point(lambda level: 255 * (level > 127)).convert("F")  # shares too small for a byte
        shares = center_crop_resize(white, self.transformer.grid, Image.Resampling.BOX)
        made_L = torch.from_numpy(np.array(shares)).flatten().to(self.device) > 0
        if not made_L.any():
            raise UserError("the mask has no white where the model looks; paint white what is to be made")
        pixels = center_crop_resize(image.convert("RGB"), self.vqgan.image_size)
        if prompt is None:
            condition_BE = self.image_conditions([pixels])
            sampling = {**sampling, "fidelity": 1.0 if sampling.get("fidelity") is None else sampling["fidelity"]}
        else:
            condition_BE = self._text_conditions([prompt], sampling.get("bridge"))
        with torch.no_grad():
            given = Given(self.vqgan.encode(self._tensor([pixels])).flatten(), ~made_L)
        seeds = [image_seed(prompt or "", seed, i) for i in range(n)]
        away_1E = self._negative(negative, sampling)
        return self._sampled(condition_BE.expand(n, -1), seeds, on_batch, away_1E, given=given, **sampling)[0]

    def vary(
        self,
        image: Image.Image,
        n: int = 4,
        seed: int = 0,
        on_batch: Callable[[int], None] | None = None,
        negative: str | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """`n` images like a given one: its own CLIP embedding is the condition, by default at fidelity 1."""
        condition_BE = self._like(image)
        sampling = {**sampling, "fidelity": 1.0 if sampling.get("fidelity") is None else sampling["fidelity"]}
        seeds = [image_seed("", seed, i) for i in range(n)]
        away_1E = self._negative(negative, sampling)
        return self.from_conditions(condition_BE.expand(n, -1), seeds, on_batch, away_1E, **sampling)

    def mix(
        self,
        parts: Sequence[tuple[str | Image.Image, float]],
        n: int = 4,
        seed: int = 0,
        on_batch: Callable[[int], None] | None = None,
        negative: str | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """`n` images of the weighted sum of conditions, of texts after the bridge and of images, at unit length.

        A part of negative weight leads away from it. UserError where the parts cancel each other.
        """
        bridge = sampling.get("bridge")
        rows = [
            weight * (self._like(part) if isinstance(part, Image.Image) else self._text_conditions([part], bridge))
            for part, weight in parts
        ]
        condition_1E = sum(rows)
        if not rows or condition_1E.norm() < 1e-3 * sum(abs(weight) for _, weight in parts):
            raise UserError("the parts of the mix cancel each other; change their weights")
        seeds = [image_seed("", seed, i) for i in range(n)]
        away_1E = self._negative(negative, sampling)
        condition_BE = F.normalize(condition_1E, dim=-1).expand(n, -1)
        return self.from_conditions(condition_BE, seeds, on_batch, away_1E, **sampling)

    def _like(self, image: Image.Image) -> Tensor:
        """The condition (1, E) of an image."""
        return self.image_conditions([center_crop_resize(image.convert("RGB"), self.vqgan.image_size)])

    def _negative(self, text: str | None, sampling: dict[str, Any]) -> Tensor | None:
        if text is None:
            return None
        if self._options(sampling)["guidance_scale"] == 1:
            raise UserError(f'negative="{text}" has no effect at guidance_scale=1; take a larger guidance_scale')
        return self._text_conditions([text], sampling.get("bridge"))

    def from_conditions(
        self,
        condition_BE: Tensor,
        seeds: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
        negative_BE: Tensor | None = None,
        **sampling: float | int | str | None,
    ) -> list[Image.Image]:
        """One image for each centred unit condition; `on_batch(k)` is told when k more are done.

        `negative_BE` (one row, or one for each image) is what guidance leads away from, instead of the null.
        """
        return self._sampled(condition_BE, seeds, on_batch, negative_BE, **sampling)[0]

    @torch.no_grad()
    def _sampled(
        self,
        condition_BE: Tensor,
        seeds: Sequence[int],
        on_batch: Callable[[int], None] | None = None,
        negative_BE: Tensor | None = None,
        given: Given | None = None,
        prefer: bool = False,
        **sampling: float | int | str | None,
    ) -> tuple[list[Image.Image], list[float]]:
        """Images, and with `prefer` how much more likely the condition makes each than the null does, in nats."""
        options = self._options(sampling)
        if self.transformer.gft and negative_BE is None:
            self._check_one_pass(options)
        untrained_null = not self.transformer.knows_null and negative_BE is None
        contrasted = options["guidance_scale"] != 1 and not self.transformer.gft
        if untrained_null and (prefer or contrasted):
            asked = "rerank=self" if prefer else f"guidance_scale={options['guidance_scale']}"
            raise UserError(
                f"{asked} needs a model trained with transformer.cond_drop_prob above 0; take guidance_scale=1"
            )
        size, precision = options.pop("batch_size"), options.pop("precision")
        fidelity, _ = options.pop("fidelity", 1.0), options.pop("bridge", None)
        model, options["cluster_V"] = self._prepared(precision), self._clustered(options.pop("clusters"))
        images: list[Image.Image] = []
        preferences: list[float] = []
        for start in range(0, len(seeds), size):
            part = slice(start, start + size)
            part_BE = condition_BE[part].to(self.device)
            level_B = torch.full((len(part_BE),), fidelity, device=self.device)
            away_BE = None if negative_BE is None else negative_BE.to(self.device).expand(len(condition_BE), -1)[part]
            made = sample(
                model, part_BE, level_B, seeds[part], negative_BE=away_BE, given=given, prefer=prefer, **options
            )
            pixels_BHWC = to_uint8(self.vqgan.decode(made.token_Bhw)).cpu().numpy()
            images += [Image.fromarray(pixels) for pixels in pixels_BHWC]
            preferences += made.preference_B.tolist() if prefer else []
            if on_batch:
                on_batch(len(part_BE))
        return images, preferences

    def _clustered(self, n: int) -> Tensor | None:
        """The cluster of each code, near-duplicates of each other being in one."""
        if n and n not in self._clusters:
            self._clusters[n] = clusters(self.vqgan.quantizer.codes_KD, n)
        return self._clusters.get(n)

    def _check_one_pass(self, options: dict[str, Any]) -> None:
        scale, schedule = options["guidance_scale"], options["guidance_schedule"]
        if scale < 1:
            raise UserError(f"guidance_scale={scale} is below what a model trained with gft was told; take 1 or more")
        if schedule != "constant":
            raise UserError(
                f"guidance_schedule={schedule} needs two passes, but a model trained with gft is told one scale for "
                "all tokens; take guidance_schedule=constant"
            )

    def _prepared(self, precision: str) -> CausalTransformer:
        """The copy for sampling, made anew when a weight was changed or replaced."""
        weights = [(tensor.data_ptr(), tensor._version) for tensor in self.transformer.parameters()]
        if precision not in self._copies or self._copies[precision][0] != weights:
            self._copies[precision] = weights, prepared(self.transformer, precision)
        return self._copies[precision][1]

    def _options(self, overrides: dict[str, Any]) -> dict[str, Any]:
        options = settings_in_range(self.sampling, overrides, self.transformer.codebook_size)
        if "bridge" in options:
            bridges.parse(options["bridge"])
        if options.get("fidelity", 1.0) < (least := self.transformer.least_level):
            raise UserError(
                f"fidelity={options['fidelity']} is a level that this model has not seen in training; take {least} to 1"
            )
        return options

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Cosine of each image with its prompt, by the very CLIP that conditioned it: not an independent judge."""
        text_BE = self.clip.encode_text(prompts)
        found = []
        for start in range(0, len(images), 256):
            image_BE = self.clip.encode_image(self._tensor(images[start : start + 256]))
            found += (image_BE * text_BE[start : start + 256]).sum(-1).tolist()
        return found

    def _tensor(self, images: Sequence[Image.Image]) -> Tensor:
        return image_tensor(images).to(self.device)


def image_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as (B, 3, H, W) in [-1, 1]."""
    return to_model_range(torch.from_numpy(np.stack([np.asarray(image) for image in images])))


def settings_in_range(own: dict[str, Any], overrides: dict[str, Any], codebook_size: int) -> dict[str, Any]:
    """A model's `own` settings of sampling, overridden by what is not None; UserError for what cannot be."""
    if unknown := set(overrides) - set(own):
        raise UserError(f"unknown setting {sorted(unknown)[0]}; choose from {', '.join(sorted(own))}")
    options = {**own, **{key: value for key, value in overrides.items() if value is not None}}
    for key, low, high in (
        ("fidelity", 0, 1), ("top_p", 0, 1), ("min_p", 0, 1), ("temperature", 0, 100), ("guidance_scale", 0, 100),
        ("prefix_boost", 0, 100), ("clusters", 0, codebook_size), ("top_k", 0, codebook_size),
        ("batch_size", 1, 1 << 20),
    ):  # fmt: skip
        if key in options and not low <= options[key] <= high:
            raise UserError(f"{key}={options[key]} is out of range; take a value from {low} to {high}")
    check_clusters(options.get("clusters", 0), options.get("top_k", 0))
    for key in ("guidance_schedule", "precision"):
        if key in options:
            _choose(key, options[key])
    return options


def _choose(key: str, value: Any) -> None:
    if value not in CHOICES[key]:
        raise UserError(f"{key}={value} is unknown; take {' or '.join(CHOICES[key])}")


def size_of(image: Image.Image) -> str:
    return f"{image.width}×{image.height}"


def image_seed(prompt: str, seed: int, number: int) -> int:
    """A seed for one image, so that the same prompt, seed and number give it alone or among others."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {prompt}".encode()).digest()[:7], "big")
