"""What torch.compile needs of the machine."""

import os
import shutil

import torch

from clipgen.errors import UserError


def check_compiler(device: torch.device, key: str = "trainer.compile") -> None:
    """UserError where torch.compile would find nothing to compile with."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UserError(f"{key}=true: there is no triton here; pip install triton, or leave it off")
    elif not shutil.which(compiler := os.environ.get("CXX", "g++")):
        raise UserError(
            f"{key}=true: there is no C++ compiler {compiler} here; install g++, name another in the "
            "environment variable CXX, or leave it off"
        )
