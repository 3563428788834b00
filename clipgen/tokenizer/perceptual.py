"""Frozen networks whose features say how alike two pictures look: VGG16 as LPIPS weighs it, and SqueezeNet.

Weights are handed in by name; nothing is downloaded. Under bf16 autocast the distance of damaged 128-pixel photos stays
within 0.3 % of float32, 1.5 % where the damage is noise of σ = 0.02; the gradient's cosine with float32's is 0.83
(SqueezeNet, strong blur) to 0.99 (VGG16, slight noise).

B batch, H W pixels, C channels of a map
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipgen.tokenizer.loss import perceptual_distance

VGG_SLICES = (0, 4, 9, 16, 23, 30)  # of torchvision's vgg16().features; each ends in relu1_2, 2_2, 3_3, 4_3, 5_3
VGG_CONVS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip
VGG_POOLS = (4, 9, 16, 23)
VGG_CHANNELS = (64, 128, 256, 512, 512)

SQUEEZENET_SLICES = (0, 2, 5, 8, 10, 11, 12, 13)  # of torchvision's squeezenet1_1().features, as LPIPS taps them
SQUEEZENET_FIRES = {
    3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128),
    9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256),
}  # fmt: skip
SQUEEZENET_POOLS = (2, 5, 8)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class Frozen(nn.Module):
    """A network that is never trained; calling it gives its feature maps (B, C, h, w) of images in [-1, 1]."""

    def freeze(self):
        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Load these weights and no others; ValueError names the first that is missing, left over or misshapen."""
        wanted = self.state_dict()
        for name, own in wanted.items():
            if name not in tensors:
                raise ValueError(f"it has no tensor {name}")
            if tensors[name].shape != own.shape:
                raise ValueError(f"its {name} is {tuple(tensors[name].shape)}, {tuple(own.shape)} is needed")
        if left := sorted(tensors.keys() - wanted.keys()):
            raise ValueError(f"its {left[0]} has no place here")
        self.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


class LPIPS(Frozen):
    """Learned perceptual distance on VGG16 (arXiv 1801.03924), its tensors named as LPIPS and taming publish them."""

    least_size = 16  # pixels: four halvings

    def __init__(self):
        super().__init__()
        self.weighted = True
        self.scaling_layer = nn.Module()
        self.scaling_layer.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.scaling_layer.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.net = nn.Module()
        for number, (first, end) in enumerate(pairwise(VGG_SLICES), 1):
            layers = OrderedDict((str(i), _vgg_layer(i)) for i in range(first, end))
            self.net.add_module(f"slice{number}", nn.Sequential(layers))
        for number, channels in enumerate(VGG_CHANNELS):
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))  # dropout in the original
            self.add_module(f"lin{number}", lin)
        self.freeze()

    @classmethod
    def random(cls, seed: int = 0) -> "LPIPS":
        """Of random weights: as slow as the real one, for benchmarks and tests."""
        generator = torch.Generator().manual_seed(seed)
        lpips = cls()
        for name, weight in lpips.named_parameters():
            if name.startswith("lin"):
                weight.uniform_(0, 2 / len(VGG_CHANNELS), generator=generator)
            elif weight.ndim == 4:
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            else:
                weight.zero_()
        return lpips

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], lins: Mapping[str, Tensor] | None = None) -> "LPIPS":
        """From LPIPS's own tensors, a taming checkpoint's, or torchvision's VGG16, with `lins` beside it or in it.

        Without lins every channel counts 1/5, so that the five maps count alike. ValueError names what is missing.
        """
        lpips = cls()
        found = _lpips_tensors(tensors)
        if not any(name.startswith("net.") for name in found):
            raise ValueError("it has neither features.0.weight (VGG16) nor net.slice1.0.weight (LPIPS)")
        if not any(name.startswith("lin") for name in found) and lins is not None:
            found |= lins
        lpips.weighted = any(name.startswith("lin") for name in found)
        if not lpips.weighted:
            found |= {
                f"lin{i}.model.1.weight": torch.full((1, channels, 1, 1), 1 / len(VGG_CHANNELS))
                for i, channels in enumerate(VGG_CHANNELS)
            }
        lpips.fill({**lpips.scaling_layer.state_dict(prefix="scaling_layer."), **found})
        return lpips

    @property
    def weights(self) -> list[Tensor]:
        """How much each channel of each map counts, (C,)."""
        return [getattr(self, f"lin{i}").model[1].weight.flatten() for i in range(len(VGG_CHANNELS))]

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        x = (image_BCHW.float() - self.scaling_layer.shift) / self.scaling_layer.scale
        return _taps(self.net.children(), x)

    def distance(self, image_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """Mean over the batch, in float32; gradients to the first only."""
        return perceptual_distance(self, image_BCHW, other_BCHW, self.weights)


class SqueezeNet(Frozen):
    """SqueezeNet 1.1's features in torchvision's names, for weights of Caffe's input: BGR from 0 to 255 less a mean."""

    least_size = 17

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(*(_squeezenet_layer(i) for i in range(SQUEEZENET_SLICES[-1])))
        self.register_buffer("mean_C11", torch.tensor(CAFFE_MEAN_BGR)[:, None, None], persistent=False)
        self.freeze()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "SqueezeNet":
        """From `features.*`; ValueError names what is missing or left over (torchvision's file, for other inputs)."""
        net = cls()
        net.fill(tensors)
        return net

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        x = (image_BCHW.float().flip(1) + 1) * 127.5 - self.mean_C11
        return _taps((self.features[first:end] for first, end in pairwise(SQUEEZENET_SLICES)), x)

    def distance(self, image_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        """Mean over the batch and the seven maps, in float32; gradients to the first only."""
        return perceptual_distance(self, image_BCHW, other_BCHW)


class Fire(nn.Module):
    """Few channels, seen at one pixel and at nine (SqueezeNet, arXiv 1602.07360)."""

    def __init__(self, width: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BChw = F.relu(self.squeeze(x_BChw), inplace=True)
        return F.relu(torch.cat([self.expand1x1(x_BChw), self.expand3x3(x_BChw)], 1), inplace=True)


def _vgg_layer(i: int) -> nn.Module:
    if i in VGG_CONVS:
        return nn.Conv2d(*VGG_CONVS[i], 3, padding=1)
    return nn.MaxPool2d(2, 2) if i in VGG_POOLS else nn.ReLU(inplace=True)


def _squeezenet_layer(i: int) -> nn.Module:
    if i == 0:
        return nn.Conv2d(3, 64, 3, stride=2)
    if i in SQUEEZENET_POOLS:
        return nn.MaxPool2d(3, 2, ceil_mode=True)
    return Fire(*SQUEEZENET_FIRES[i]) if i in SQUEEZENET_FIRES else nn.ReLU(inplace=True)


def _taps(slices, x: Tensor) -> list[Tensor]:
    x, maps = x.contiguous(memory_format=torch.channels_last), []
    for part in slices:
        x = part(x)
        maps.append(x)
    return maps


def _lpips_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a file is LPIPS, in its own names."""
    for prefix in ("loss.perceptual_loss.", "perceptual_loss.", ""):
        if f"{prefix}net.slice1.0.weight" in tensors:
            own = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            break
    else:
        own = {_of_slice(name): x for name, x in tensors.items() if name.startswith("features.")}
        own |= {name: x for name, x in tensors.items() if name.startswith("lin")}
    return {name: x for name, x in own.items() if not name.startswith("lins.")}  # which lpips saves a second time


def _of_slice(name: str) -> str:
    """features.7.weight → net.slice2.7.weight"""
    _, i, *rest = name.split(".")
    number = sum(int(i) >= first for first in VGG_SLICES) if i.isdigit() else 0
    return ".".join([f"net.slice{number}", i, *rest])
