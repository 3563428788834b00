"""What enlarging by tokens gains over enlarging pixels: 32 px of the demo world → 64 px, against the drawing at 64 px.

python docs/upscale.py outputs/super/upscaler --pictures 64
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipgen.cli.machine import made_with, pick_device
from clipgen.clip.frozen import load_clip
from clipgen.data.transforms import image_tensor, to_uint8
from clipgen.evaluation.tokenizer import reconstruct
from clipgen.picture import image_grid
from clipgen.shapes.draw import Scene, combinations, draw, held_out, scenes
from clipgen.shapes.judge import judge
from clipgen.transformer.packed import prepared
from clipgen.upscale.sampling import upscale
from clipgen.upscaler import Upscaler

FOLDER = Path(__file__).parent
SIZE = 32
OURS, TRIVIAL, LIMIT = "enlarged", "bicubic of the decoded 32 px", "64 px drawing through the tokenizer"


def figure(values) -> dict:
    values = np.asarray(values, dtype=float)
    sem = values.std(ddof=1) / len(values) ** 0.5
    return {"mean": round(float(values.mean()), 4), "sem": round(float(sem), 4), "n": len(values)}


def resized(pixels_BHWC: np.ndarray, how: Image.Resampling) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(each).resize((2 * SIZE, 2 * SIZE), how)) for each in pixels_BHWC])


class Compared:
    """Scenes at both sizes, each way to come from the one to the other, and how far it is from the drawing."""

    def __init__(self, upscaler: Upscaler, shown: list[Scene]):
        self.upscaler, self.shown, self.clip = upscaler, shown, load_clip("local-dir:clipgen/shapes/clip")
        self.small, self.true = (np.stack([draw(scene, size) for scene in shown]) for size in (SIZE, 2 * SIZE))
        self.token, self.decoded = self._through(self.small)
        self.true_token, limit = self._through(self.true)
        self.ways = {LIMIT: (limit, self.true_token)}
        for name, pixels, how in (
            ("nearest of the decoded 32 px", self.decoded, Image.Resampling.NEAREST),
            (TRIVIAL, self.decoded, Image.Resampling.BICUBIC),
            ("bicubic of the 32 px drawing, no tokenizer", self.small, Image.Resampling.BICUBIC),
        ):
            large = resized(pixels, how)
            self.ways[name] = large, self._through(large)[0]

    def _through(self, pixels: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        token_Bhw, made = reconstruct(self.upscaler.vqgan, torch.from_numpy(pixels))
        return token_Bhw, made.numpy()

    def enlarge(self, name: str, token_Bhw: torch.Tensor, **changes: float) -> None:
        kept = {key: self.upscaler.sampling[key] for key in ("temperature", "top_k", "top_p", "min_p")}
        made = upscale(prepared(self.upscaler.transformer), token_Bhw, range(len(token_Bhw)), **kept | changes)
        with torch.no_grad():
            self.ways[name] = to_uint8(self.upscaler.vqgan.decode(made)).numpy(), made

    def values(self, name: str) -> dict[str, np.ndarray]:
        pixels, token = self.ways[name]
        error_B = ((pixels.astype(float) - self.true) ** 2).mean((1, 2, 3))
        ours_BE, true_BE = (
            self.clip.encode_image(image_tensor(list(map(Image.fromarray, each)))) for each in (pixels, self.true)
        )
        shapes = [judge(each).shape for each in pixels]
        return {
            "psnr": 10 * np.log10(255**2 / error_B),
            "clip.distance": (1 - (ours_BE * true_BE).sum(-1)).numpy(),
            "tokens.right": (token == self.true_token).float().mean((1, 2)).numpy(),
            "judge.shape": np.array([found == scene.shape for found, scene in zip(shapes, self.shown, strict=True)]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=128, help="the second half of combinations never shown")
    parser.add_argument("--temperatures", type=float, nargs="*", default=[], help="tried on 32 other pictures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    upscaler = Upscaler.from_pretrained(given.model)
    tried = {}
    if given.temperatures:
        development = Compared(upscaler, scenes(32, 4241))
        for temperature in given.temperatures:
            development.enlarge(OURS, development.token, temperature=temperature)
            tried[f"{temperature:g}"] = {name: figure(each) for name, each in development.values(OURS).items()}
        print(json.dumps(tried, indent=1))
    half = given.pictures // 2
    unseen = sorted(held_out() & set(combinations()))
    test = Compared(upscaler, [*scenes(given.pictures - half, 4242), *scenes(half, 4243, unseen)])
    test.enlarge(OURS, test.token)
    test.enlarge("enlarged, from the decoded 32 px", test._through(test.decoded)[0])
    values = {name: test.values(name) for name in test.ways}
    counts_K = torch.bincount(test.true_token.flatten(), minlength=upscaler.transformer.codebook_size)
    ours, trivial = values[OURS], values[TRIVIAL]
    content = {
        **made_with(pick_device("cpu")),
        "seeds": [4242, 4243],
        "sampling": upscaler.sampling,
        "development": tried,
        "arms": {name: {key: figure(each) for key, each in found.items()} for name, found in values.items()},
        "difference": {key: figure(ours[key].astype(float) - trivial[key]) for key in ours},
        "tokens.chance": round(float(counts_K.max() / counts_K.sum()), 4),
    }
    path = FOLDER / "results" / "upscale.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({key: content[key] for key in ("arms", "difference", "tokens.chance")}, indent=1))
    columns = range(0, given.pictures, max(1, given.pictures // 10))
    rows = [test.small, test.ways[TRIVIAL][0], test.ways[OURS][0], test.true]
    labels = ["32 px", "decoded and enlarged by bicubic", "enlarged by tokens", "drawn at 64 px"]
    image_grid([row[i] for row in rows for i in columns], len(columns), labels, 128).save(FOLDER / "upscale.png")


if __name__ == "__main__":
    main()
