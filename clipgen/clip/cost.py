"""What a CLIP was trained on: where the words of a generator without captions come from."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipgen.clip.frozen import LOCAL_DIR, FrozenClip

TRAINING = "training.json"  # beside the weights of a CLIP that clipgen trained


def clip_cost(clip: FrozenClip) -> dict[str, Any]:
    """Pictures and captions seen in its training, and its FLOPs; None where it does not say, and `note` tells."""
    name, identity = clip.identity.model, clip.identity
    nothing = {"model": identity.name, "pictures": None, "captions": None, "flops": None}
    try:
        training = json.loads((Path(name.removeprefix(LOCAL_DIR)) / TRAINING).read_text(encoding="utf-8"))["clip.train"]
        seen = training["steps"] * training["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return nothing | {"note": f"trained elsewhere ({identity.pretrained}); its files do not say on what"}
    at = clip.mean_C11.device
    with FlopCounterMode(display=False) as counter:
        clip.encode_image(torch.zeros(1, 3, identity.image_size, identity.image_size, device=at))
        clip.encode_text(["a picture"])
    flops = 3 * counter.get_total_flops() * seen
    note = "seen in its training, repeats counted; forward and backward as three forward passes"
    return nothing | {"pictures": seen, "captions": seen, "flops": flops, "note": note}
