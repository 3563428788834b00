"""Photos to prepare: generated ones with the spectrum of natural pictures, and real ones from ../shared/data.

H W pixels, C = 3 channels
"""

import tarfile
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
REAL = SHARED / "clothing_128.tar"


def photo(seed: int, times: int = 1) -> Image.Image:
    """Noise whose spectrum falls as that of photos, sides of 480 to 800 px `times` so many, colour weaker than light.

    At quality 90 that makes JPEGs of 0.59 bytes a pixel, as the photos of COCO have.
    """
    random = torch.Generator().manual_seed(seed)
    height, width = (times * torch.randint(480, 801, (2,), generator=random)).tolist()
    lowest = 1 / (800 * times)
    frequency_HW = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)).clamp(min=lowest)
    noise_CHW = torch.randn(3, height, width, generator=random)
    noise_CHW = torch.fft.irfft2(torch.fft.rfft2(noise_CHW) * frequency_HW**-1.1, (height, width))
    strength_C11 = torch.tensor([50.0, 15.0, 15.0])[:, None, None]
    pixels_CHW = 128 + strength_C11 * noise_CHW / noise_CHW.std((1, 2), keepdim=True)
    planes = [Image.fromarray(plane) for plane in pixels_CHW.clamp(0, 255).to(torch.uint8).numpy()]
    return Image.merge("YCbCr", planes).convert("RGB")


def generate(folder: Path, count: int, times: int = 1) -> None:
    """`count` photos as JPEGs of quality 90, the same ones each time."""
    folder.mkdir()
    for seed in range(count):
        photo(seed, times).save(folder / f"{seed:05d}.jpg", quality=90)


def multiply(photos: Path, folder: Path, times: int) -> None:
    """Each photo so many times; a few bytes behind its end make every copy another file, which no decoder sees."""
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        data = path.read_bytes()
        for copy in range(times):
            (folder / f"{path.stem}-{copy:03d}.jpg").write_bytes(data + bytes(copy))


def unpack_real(folder: Path) -> int:
    """The real photos (128 px), without their folders; how many, 0 where they are not here."""
    if not REAL.exists():
        return 0
    folder.mkdir()
    count = 0
    with tarfile.open(REAL) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg"):
                (folder / f"{count:05d}-{PurePosixPath(member.name).name}").write_bytes(tar.extractfile(member).read())
                count += 1
    return count
