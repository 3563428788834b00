"""Weights as files: never a pickle from outside, always with the stage and the settings that made them."""

import hashlib
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clipgen.data.atomic import replacing
from clipgen.errors import UserError

# what torch's reader raises for bytes that it did not write
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip
MODEL_CHECKPOINT = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


class ModelCheckpoint:
    """Stands for Lightning's class, by which Lightning 1.0 keyed `callbacks`: every published checkpoint names it."""


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes, the same for a checkpoint and for what is exported from it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_torch(path: str | Path, stage: str) -> Any:
    """What torch saved in a file, tensors and plain values; UserError when it is missing, broken or unsafe."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; train it with `clipgen train stage={stage}`, or give another checkpoint"
        )
    try:
        return _load(path)
    except UNREADABLE as problem:
        reason = str(problem).strip().split("\n")[0][:120]
        if unsafe := re.search(r"GLOBAL (\S+) was not an allowed global", str(problem)):
            reason = f"it holds a pickled object of {unsafe[1]}, which is not loaded"
        raise UserError(
            f"{path} is not a checkpoint of clipgen ({reason}); give one made by `clipgen train`"
        ) from problem


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals([(ModelCheckpoint, MODEL_CHECKPOINT)]):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_checkpoint(path: str | Path, *stages: str) -> dict[str, Any]:
    """A training checkpoint of one of `stages`; UserError when it is missing, broken, unsafe or of another stage."""
    return of_stage(read_torch(path, stages[0]), path, *stages)


def of_stage(checkpoint: Any, path: str | Path, *stages: str) -> dict[str, Any]:
    """`checkpoint`, which was read from `path`, or a UserError when it is of none of our `stages`."""
    try:
        found = checkpoint["clipgen"]["stage"]
    except (LookupError, TypeError, RuntimeError, ValueError) as problem:
        reason = str(problem).strip().split("\n")[0][:120]
        raise UserError(
            f"{path} is not a checkpoint of clipgen ({reason}); give one made by `clipgen train`"
        ) from problem
    if found not in stages:
        raise UserError(
            f"{path} is of stage {found}, but stage {' or '.join(stages)} is needed here; give a checkpoint of that "
            "stage"
        )
    return checkpoint


def submodule(checkpoint: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The weights of one submodule of the saved LightningModule, without its prefix; averaged where there is an EMA."""
    prefix = name + "."
    state = {**checkpoint["state_dict"], **checkpoint.get("ema", {})}
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def save_weights(state: Mapping[str, Tensor], path: str | Path) -> None:
    with replacing(path) as temporary:
        # not by safetensors itself: it reports a full disk as an error of its own, and lets only the owner read
        temporary.write_bytes(
            save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
        )


def load_weights(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a folder made by `clipgen export` or `clipgen run`")
    try:
        return load_file(path)
    except SafetensorError as problem:
        raise UserError(f"{path} is not a readable safetensors file ({problem}); export the model again") from problem


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz or torch file by name, of its `state_dict` where it has one.

    UserError when it is missing, broken, or holds a pickled object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a file of weights (.pth, .ckpt, .safetensors or .npz)")
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(arrays[name]) for name in arrays}
        else:
            found = _load(path)
        found = found.get("state_dict", found)
        tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    except (SafetensorError, zipfile.BadZipFile, *UNREADABLE) as problem:
        reason = str(problem).strip().split("\n")[0][:120]
        raise UserError(f"{path} holds no readable weights ({reason}); give a .pth, .safetensors or .npz") from problem
    if not tensors:
        raise UserError(f"{path} holds no tensors; give a .pth, .safetensors or .npz of weights by name")
    return tensors
