"""Stand-ins that know what they are asked: a generator that draws it, a VQGAN without loss, a CLIP of rules."""

from collections.abc import Callable, Hashable, Iterable

import numpy as np
import torch
from PIL import Image


class Draws:
    """A generator whose pictures of a text are `draw(text, n, seed)`."""

    def __init__(self, draw: Callable[[str, int, int], Iterable[np.ndarray]]):
        self.draw, self.calls = draw, []

    def generate(self, texts, n, seed, on_batch, **sampling):
        self.calls.append((n, seed, sampling))
        images = []
        for number, text in enumerate(texts):
            images += [Image.fromarray(each) for each in self.draw(text, n, seed + number)]
            on_batch(n)
        return images


class Perfect(torch.nn.Module):
    """A VQGAN that gives every image back."""

    image_size = 32
    last_layer = torch.zeros(1)

    def encode(self, image_BCHW):
        self.image_BCHW = image_BCHW
        return torch.zeros(len(image_BCHW), 1, 1, dtype=torch.long)

    def decode(self, tokens_Bhw):
        return self.image_BCHW


class Reads:
    """A CLIP that knows of a text what `read` tells, and of a picture, uint8 (H, W, 3), what `see` does."""

    mean_C11 = torch.zeros(1)

    def __init__(self, read: Callable[[str], Iterable[Hashable]], see: Callable[[np.ndarray], Iterable[Hashable]]):
        self.read, self.see, self.features = read, see, {}

    def embed(self, told: Iterable[Hashable]) -> torch.Tensor:
        hot = torch.zeros(400)
        for each in told:
            hot[self.features.setdefault(each, len(self.features))] = 1
        return hot

    def encode_text(self, texts):
        return torch.stack([self.embed(self.read(text)) for text in texts])

    def encode_image(self, image_BCHW):
        pixels_BHW3 = ((image_BCHW.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
        return torch.stack([self.embed(self.see(each)) for each in pixels_BHW3])
