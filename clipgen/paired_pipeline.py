"""Text → image by a model that was trained on captions: what differs from `ClipGen`, which is asked by embeddings.

B images, P prefix tokens
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipgen.clip.frozen import FrozenClip
from clipgen.errors import UserError
from clipgen.paired.model import PairedTransformer
from clipgen.paired.text import FILE, Text
from clipgen.pipeline import ClipGen
from clipgen.tokenizer.vqgan import VQGAN

OF_EMBEDDINGS = ("bridge", "fidelity")  # settings that say nothing to a model that reads the text itself


class PairedGen(ClipGen):
    """A generator trained on captions: conditions are texts as numbers. Its CLIP has no part but to score and rank."""

    kind = "paired"

    def __init__(
        self,
        vqgan: VQGAN,
        transformer: PairedTransformer,
        clip: FrozenClip,
        text: Text,
        sampling: dict[str, Any],
        settings: dict[str, Any],
        device: str | torch.device = "cpu",
    ):
        super().__init__(vqgan, transformer, clip, {}, sampling, settings, device)
        self.text = text
        self.sampling = {key: value for key, value in self.sampling.items() if key not in OF_EMBEDDINGS}
        self.reader = f"this model, {transformer.layout.text_length} pieces"

    def own_files(self) -> dict[str, dict[str, Tensor] | bytes | None]:
        return {FILE: self.text.content}

    def _text_conditions(self, prompts: Sequence[str], name: str | None = None) -> Tensor:
        """Prefixes (B, P); what goes beyond the text's length is cut. UserError where no word of it is known."""
        self._check_prompts(prompts)
        every = self.text.encode(prompts)
        for prompt, own in zip(prompts, every, strict=True):
            if not self.text.knows(own):
                raise UserError(
                    f'prompt "{prompt}" has no letter of the captions that this model was trained on; ask as they do'
                )
        return self.transformer.layout.prefix(every).to(self.device)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        most = self.transformer.layout.text_length
        return [text for text, own in zip(texts, self.text.encode(texts), strict=True) if len(own) > most]

    def image_conditions(self, images: Sequence[Image.Image]) -> Tensor:
        """A text cannot be had from an image."""
        raise UserError(
            "this model was trained on captions and is asked by text alone, not by an image; give a prompt, or a model "
            "of stage=transformer"
        )

    def mix(self, *parts: Any, **sampling: Any) -> list[Image.Image]:
        raise UserError(
            "this model was trained on captions, whose words cannot be mixed by weight; give a prompt, or a model of "
            "stage=transformer"
        )

    def usable_bridges(self) -> list[str]:
        return []

    def _options(self, overrides: dict[str, Any]) -> dict[str, Any]:
        for key in OF_EMBEDDINGS:
            if (value := overrides.get(key)) is not None:
                raise UserError(
                    f"{key}={value} has no effect on a model that was trained on captions, as it reads the text "
                    "itself; leave it out"
                )
        return super()._options({key: value for key, value in overrides.items() if key not in OF_EMBEDDINGS})

    def card(self) -> str:
        size, downsample = self.vqgan.image_size, self.vqgan.downsample
        parameters = sum(p.numel() for p in self.transformer.parameters()) / 1e6
        layout = self.transformer.layout
        return (
            "---\nlibrary_name: clipgen\npipeline_tag: text-to-image\n---\n"
            "# A text-to-image generator trained with captions\n\n"
            f"Made with clipgen in the way of CogView (arXiv 2105.13290): a VQGAN ({size} px, downsampling "
            f"{downsample}, {layout.codebook_size} codes) and a Transformer of {parameters:.1f} M parameters that was "
            f"trained on captions, of {layout.pieces} pieces of SentencePiece and {layout.text_length} of them at "
            "most, and their images' tokens.\n\n"
            "```python\nfrom clipgen import ClipGen\n\n"
            'images = ClipGen.from_pretrained("THIS_FOLDER").generate(["…"], n=4, seed=0)\n```\n\n'
            "It knows the words of its captions and no others. The CLIP beside it scores and ranks pictures only.\n\n"
            f"CLIP: `{self.clip.identity.sha256[:16]}…`. Sampling defaults: `{json.dumps(self.sampling)}`.\n"
        )
