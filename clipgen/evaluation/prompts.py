"""How well samples show what their prompts say, by a CLIP; only one that neither conditioned nor chose them is a judge.

M samples, P prompts, E embedding size
"""

from collections.abc import Sequence

import torch
from PIL import Image

from clipgen.clip.frozen import FrozenClip
from clipgen.evaluation.extractors import of_clip
from clipgen.evaluation.metrics import Pictures

FOUND = (1, 10)


def clip_figures(
    images: Sequence[Image.Image] | Pictures, prompts: Sequence[str], clip: FrozenClip
) -> dict[str, float]:
    """`images` are n for each prompt, in order. The mean cosine of a sample with its prompt, and with another's.

    `clip.top_k` is the share of samples whose own prompt is among the k nearest of all the prompts (chance: k / P).
    """
    n = len(images) // len(prompts)
    text_PE = clip.encode_text(prompts)
    samples = images if isinstance(images, Pictures) else Pictures.of(images, "samples")
    image_ME = samples.features_NF(of_clip(clip)).to(text_PE.device)
    cosine_MP = image_ME @ text_PE.T
    own_M1 = cosine_MP.gather(1, torch.arange(len(prompts), device=text_PE.device).repeat_interleave(n)[:, None])
    rank_M = (cosine_MP > own_M1).sum(1)
    metrics = {"clip.score": own_M1.mean().item()}
    if len(prompts) > 1:
        metrics["clip.score_of_others"] = ((cosine_MP.sum() - own_M1.sum()) / (cosine_MP.numel() - len(own_M1))).item()
        for k in FOUND:
            if k < len(prompts):
                metrics[f"clip.top_{k}"] = (rank_M < k).float().mean().item()
                metrics[f"clip.top_{k}.chance"] = k / len(prompts)
    return metrics
