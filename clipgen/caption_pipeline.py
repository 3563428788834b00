"""Image → text: a captioner as a user holds it, and what it says of a text by its loss (CapLoss).

B images, L image tokens
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipgen.checkpoint import weights_sha256
from clipgen.data.colour import as_seen
from clipgen.data.transforms import center_crop_resize, image_tensor
from clipgen.errors import UserError
from clipgen.generator import image_seed
from clipgen.paired.captioner import CaptionTransformer, caption_losses, write
from clipgen.paired.text import FILE, Text
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.packed import prepared

BATCH = 64


class Captioner:
    """A trained captioner: the VQGAN that makes tokens of a picture, and the Transformer that puts them into words.

    `Captioner.from_pretrained(folder).caption([image], n=3)` gives three captions of each PIL image.
    """

    kind = "caption"

    def __init__(
        self,
        vqgan: VQGAN,
        transformer: CaptionTransformer,
        text: Text,
        settings: dict[str, Any],
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.vqgan = vqgan.eval().to(self.device, memory_format=torch.channels_last)
        self.transformer = transformer.eval().to(self.device)
        self.text, self.settings = text, settings
        self._prepared = prepared(self.transformer)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Captioner":
        """Load what `clipgen export stage=paired task=caption` wrote. UserError when a part is missing."""
        from clipgen.pretrained import load_captioner

        return load_captioner(folder, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, safetensors, the pieces and a model card. No pickle."""
        from clipgen.pretrained import write

        write(self, Path(folder), {FILE: self.text.content}, {})

    @property
    def fingerprint(self) -> str:
        """Of the Transformer's weights: which captioner a figure is by."""
        return weights_sha256(self.transformer.state_dict())

    def caption(
        self,
        images: Sequence[Image.Image],
        n: int = 1,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[list[str]]:
        """`n` captions of each image; of one the likeliest words, of several drawn ones (temperature 1).

        A caption depends on its image, its number, the seed and the settings, and on no other image. UserError for a
        setting out of range, and for several captions at temperature 0, which would be the same.
        """
        if n < 1:
            raise UserError(f"n={n}; take at least 1")
        temperature = (0.0 if n == 1 else 1.0) if temperature is None else temperature
        if n > 1 and temperature == 0:
            raise UserError(f"n={n} captions at temperature=0 are all the same; take temperature=1, or n=1")
        for key, value, most in (
            ("temperature", temperature, 100), ("top_p", top_p, 1), ("top_k", top_k, self.transformer.layout.pieces),
        ):  # fmt: skip
            if not 0 <= value <= most:
                raise UserError(f"{key}={value} is out of range; take a value from 0 to {most}")
        captions: list[str] = []
        for _, tokens_BL, named in self._tokens(images):
            seeds = [image_seed(name, seed, i) for name in named for i in range(n)]
            pieces = write(self._prepared, tokens_BL.repeat_interleave(n, 0), seeds, temperature, top_k, top_p)
            captions += self.text.decode(pieces)
        return [captions[start : start + n] for start in range(0, len(captions), n)]

    def caption_loss(
        self,
        images: Sequence[Image.Image],
        texts: Sequence[str],
        on_batch: Callable[[int], None] | None = None,
    ) -> list[float]:
        """CapLoss of each image and its text: mean nats of the text's pieces given the image; less fits better.

        Pictures are compared, so they may come from any tokenizer and have any size. What goes beyond the text's length
        is cut. UserError for a text without words.
        """
        if len(images) != len(texts):
            raise UserError(f"{len(images)} images and {len(texts)} texts; give each image a text")
        every = self.text.encode(texts)
        if empty := [number for number, own in enumerate(every) if not own]:
            raise UserError(f"text {empty[0] + 1} is empty; say what the image shows")
        losses: list[float] = []
        for part, tokens_BL, _ in self._tokens(images):
            text_BS = self.transformer.layout.captions(every[part]).to(self.device)
            losses += caption_losses(self._prepared, tokens_BL, text_BS).tolist()
            if on_batch:
                on_batch(len(tokens_BL))
        return losses

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end is not read."""
        most = self.transformer.layout.text_length
        return [text for text, own in zip(texts, self.text.encode(texts), strict=True) if len(own) > most]

    @torch.no_grad()
    def _tokens(self, images: Sequence[Image.Image]) -> Iterator[tuple[slice, Tensor, list[str]]]:
        """By batch: which images, their tokens (B, L), and names that follow from their pixels."""
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            crops = [center_crop_resize(as_seen(image), self.vqgan.image_size) for image in images[part]]
            names = [hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops]
            yield part, self.vqgan.encode(image_tensor(crops).to(self.device)).flatten(1), names

    def card(self) -> str:
        size, layout = self.vqgan.image_size, self.transformer.layout
        parameters = sum(p.numel() for p in self.transformer.parameters()) / 1e6
        return (
            "---\nlibrary_name: clipgen\npipeline_tag: image-to-text\n---\n"
            "# A captioner\n\n"
            f"Made with clipgen in the way of CogView (arXiv 2105.13290): a VQGAN ({size} px, {layout.codebook_size} "
            f"codes) and a Transformer of {parameters:.1f} M parameters that was trained on images' tokens and then "
            f"their captions, of {layout.pieces} pieces of SentencePiece and {layout.text_length} of them at most.\n\n"
            "```python\nfrom clipgen import Captioner\n\n"
            'captions = Captioner.from_pretrained("THIS_FOLDER").caption([image])\n```\n\n'
            "It knows the words of its training captions and no others.\n"
        )
