"""The frozen networks of the perceptual loss: equal to the published code, and real features that order damage."""

import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipgen.checkpoint import read_weights
from clipgen.tokenizer.perceptual import LPIPS, VGG_CHANNELS, VGG_CONVS, SqueezeNet


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return LPIPS.random(0)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(2, 3, 8, 8), (48, 40), mode="bicubic").clamp(0, 1) * 2 - 1
    return (image + 0.2 * torch.randn_like(image)).clamp(-1, 1), image


@pytest.fixture(scope="module")
def published(lpips):
    """taming's own LPIPS with the same weights, without its downloads."""
    import torchvision
    from taming.modules.losses import lpips as taming

    with pytest.MonkeyPatch.context() as patch:
        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
        patch.setattr(taming.models, "vgg16", lambda pretrained: SimpleNamespace(features=layers))
        patch.setattr(taming.LPIPS, "load_from_pretrained", lambda self: None)
        theirs = taming.LPIPS().eval()
    theirs.load_state_dict(lpips.state_dict())
    return theirs


def test_lpips_is_the_published_one(lpips, published, pair):
    made, image = (x.clone().requires_grad_(i == 0) for i, x in enumerate(pair))
    other = pair[0].clone().requires_grad_()
    expected = published(other, image).mean()
    got = lpips.distance(made, image)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)
    got.backward()
    expected.backward()
    assert (made.grad - other.grad).norm() < 1e-3 * other.grad.norm()


def vgg_file(lpips: LPIPS) -> dict[str, torch.Tensor]:
    """The same weights as torchvision saves a VGG16."""
    net = {name.split(".", 2)[2]: x for name, x in lpips.state_dict().items() if name.startswith("net.")}
    return {f"features.{name}": x for name, x in net.items()} | {"classifier.0.weight": torch.zeros(2, 2)}


def lins(lpips: LPIPS) -> dict[str, torch.Tensor]:
    return {name: x for name, x in lpips.state_dict().items() if name.startswith("lin")}


def test_the_same_weights_from_each_kind_of_file(lpips, pair):
    own = lpips.state_dict()
    taming = {f"loss.perceptual_loss.{name}": x for name, x in own.items()}
    taming |= {"encoder.conv_in.weight": torch.zeros(1), "loss.discriminator.main.0.bias": torch.zeros(1)}
    files = [(own, None), (taming, None), (vgg_file(lpips), lins(lpips)), (vgg_file(lpips) | lins(lpips), None)]
    for tensors, beside in files:
        made = LPIPS.of(tensors, beside)
        assert all(torch.equal(made.state_dict()[name], x) for name, x in own.items())
    assert not any(x.requires_grad for x in made.parameters())


def test_without_lins_the_channels_count_alike(lpips, pair):
    equal = LPIPS.of(vgg_file(lpips))
    by_hand = 0.0
    for a, b in zip(lpips(pair[0]), lpips(pair[1]), strict=True):
        by_hand += (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean() / 5
    torch.testing.assert_close(equal.distance(*pair), by_hand)
    assert len(equal.weights) == len(VGG_CHANNELS)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda file: file.pop("features.28.bias"), "it has no tensor net.slice5.28.bias"),
        (lambda file: file.update({"features.0.weight": torch.zeros(64, 1, 3, 3)}), "(64, 1, 3, 3), (64, 3, 3, 3) is"),
        (lambda file: file.update({"features.1.weight": torch.zeros(64)}), "its net.slice1.1.weight has no place"),
        (lambda file: file.clear(), "neither features.0.weight (VGG16) nor net.slice1.0.weight (LPIPS)"),
    ],
)
def test_a_file_of_another_network(lpips, change, says):
    file = vgg_file(lpips)
    change(file)
    with pytest.raises(ValueError) as problem:
        LPIPS.of(file)
    assert says in str(problem.value) and "\n" not in str(problem.value)


def test_the_wanted_picture_costs_no_gradient(lpips, pair):
    made, image = pair[0].clone().requires_grad_(), pair[1].clone().requires_grad_()
    lpips.distance(made, image).backward()
    assert made.grad.norm() > 0 and image.grad is None
    assert len(VGG_CONVS) == 13 and all(x.grad is None for x in lpips.parameters())


# Real features on real pictures


@pytest.fixture(scope="module")
def squeezenet(shared_data) -> SqueezeNet:
    path = shared_data / "weights" / "squeezenet1_1_features_torch.npz"
    if not path.exists():
        pytest.skip(f"{path} does not exist: it holds the real weights of a SqueezeNet")
    return SqueezeNet.of(read_weights(path))


@pytest.fixture(scope="module")
def photos(shared_data) -> torch.Tensor:
    """Eight photos of clothes, (8, 3, 128, 128) in [-1, 1]."""
    with tarfile.open(shared_data / "clothing_128.tar") as tar:
        files = [member for member in tar if member.name.endswith(".jpg")][:400:50]
        pixels = np.stack([np.asarray(Image.open(tar.extractfile(file)).convert("RGB")) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def blurred(image_BCHW: torch.Tensor, radius: int) -> torch.Tensor:
    size = 2 * radius + 1
    return F.avg_pool2d(F.pad(image_BCHW, [radius] * 4, mode="reflect"), size, 1)


def test_real_features_order_damage(squeezenet, photos):
    assert squeezenet.distance(photos, photos) == 0
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    for damaged in (
        [blurred(photos, radius) for radius in (1, 2, 4, 8)],
        [photos + sigma * noise for sigma in (0.02, 0.05, 0.1, 0.2, 0.4)],
    ):
        distances = [squeezenet.distance(made, photos).item() for made in damaged]
        assert distances == sorted(distances) and distances[0] > 0.001, distances
        assert distances[-1] > 3 * distances[0]


def test_real_features_mind_a_blur_that_pixels_hardly_see(squeezenet, photos):
    """A slight change of light is further off in pixels, a blur in what is seen."""
    lighter, soft = photos * 0.8, blurred(photos, 2)
    assert (lighter - photos).abs().mean() > (soft - photos).abs().mean()
    assert squeezenet.distance(lighter, photos) < 0.5 * squeezenet.distance(soft, photos)


@pytest.mark.parametrize("which", ["squeezenet", "lpips"])
def test_bf16_agrees_with_float32_on_real_photos(which, request, photos):
    net, image = request.getfixturevalue(which), photos[:2]
    noise = 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    for made, tolerance in ((image + noise, 0.03), (image + 10 * noise, 0.006), (blurred(image, 2), 0.006)):
        exact = net.distance(made, image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net.distance(made, image)
        assert rounded.dtype == torch.float32
        assert abs(rounded / exact - 1) < tolerance, (which, exact, rounded)
