"""Text → image: the object a user holds.

B images, E embedding size, h w token grid
"""

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
from clipgen.data.colour import as_seen
from clipgen.data.transforms import center_crop_resize, image_tensor, size_of
from clipgen.errors import UserError
from clipgen.generator import RERANK, Generator, choose, image_seed
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer import bridges
from clipgen.transformer.model import CausalTransformer
from clipgen.transformer.sampling import Given

STATISTICS, BANK = "statistics.safetensors", "bank.safetensors"


class CapLoss(Protocol):
    """What tells how badly texts fit images, as `clipgen.caption_pipeline.Captioner` does: less fits better."""

    def caption_loss(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]: ...


class ClipGen(Generator):
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
        super().__init__(vqgan, transformer, sampling, device)
        self.clip = clip.to(self.device)
        self.statistics = {name: tensor.to(self.device) for name, tensor in statistics.items()}
        self.bank_NE = None if bank_NE is None else bank_NE.to(self.device)
        self.settings = settings

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
        `clipgen.transformer.bridges`), precision (of the Transformer), compile (one graph for all tokens, for many
        pictures; its rounding may differ by the batch) and batch_size. An image depends on its prompt, its number, the
        seed and the settings, and else on no other image. Raises UserError for an empty prompt, a setting out of range,
        a bridge that the model lacks something for, or where there is nothing to compile with.
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
        choose("rerank", rerank, RERANK)
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
        image, mask = as_seen(image), as_seen(mask, "black")  # what is transparent is not painted
        if mask.size != image.size:
            raise UserError(
                f"the mask has {size_of(mask)} pixels and the image {size_of(image)}; give them the same size"
            )
        white = mask.convert("L").point(lambda level: 255 * (level > 127)).convert("F")  # shares too small for a byte
        shares = center_crop_resize(white, self.transformer.grid, Image.Resampling.BOX)
        made_L = torch.from_numpy(np.array(shares)).flatten().to(self.device) > 0
        if not made_L.any():
            raise UserError("the mask has no white where the model looks; paint white what is to be made")
        pixels = center_crop_resize(image, self.vqgan.image_size)
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
        if not rows or condition_1E.norm() <= 1e-3 * sum(abs(weight) for _, weight in parts):
            raise UserError("the parts of the mix cancel each other; change their weights")
        seeds = [image_seed("", seed, i) for i in range(n)]
        away_1E = self._negative(negative, sampling)
        condition_BE = F.normalize(condition_1E, dim=-1).expand(n, -1)
        return self.from_conditions(condition_BE, seeds, on_batch, away_1E, **sampling)

    def _like(self, image: Image.Image) -> Tensor:
        """The condition (1, E) of an image."""
        return self.image_conditions([center_crop_resize(as_seen(image), self.vqgan.image_size)])

    def _negative(self, text: str | None, sampling: dict[str, Any]) -> Tensor | None:
        if text is None:
            return None
        if self._options(sampling)["guidance_scale"] == 1:
            raise UserError(f'negative="{text}" has no effect at guidance_scale=1; take a larger guidance_scale')
        return self._text_conditions([text], sampling.get("bridge"))

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
