"""`clipgen caption`: images → captions, printed and as a table that `clipgen prep captions=` takes."""

import os
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from clipgen.errors import UserError
from clipgen.tools import CaptionConfig

if TYPE_CHECKING:
    from data_prep.scan import SourceFile

BATCH = 64  # images that are held at a time


def main(cfg: CaptionConfig) -> None:
    if not (Path(cfg.model) / "config.json").is_file():
        raise UserError(f"model={cfg.model} is no model folder; give a captioner, such as outputs/NAME/captioner")
    if cfg.out and Path(cfg.out).suffix.lower() != ".tsv":
        raise UserError(f"out={cfg.out} is no .tsv; captions are a table with a tab between file and caption")
    root, files = find_images(cfg.image)

    from tqdm import tqdm

    from clipgen.caption_pipeline import Captioner
    from clipgen.cli.machine import pick_device
    from clipgen.data.atomic import replacing

    captioner = Captioner.from_pretrained(cfg.model, pick_device(cfg.device))
    how = {"temperature": cfg.temperature, "top_k": cfg.top_k, "top_p": cfg.top_p}
    captioner.caption([], cfg.n, cfg.seed, **how)  # a setting out of range is said before a picture is opened
    lines, unread = [], 0
    with tqdm(total=len(files), desc="captioning", unit="img") as bar:
        for start in range(0, len(files), BATCH):
            names, images = [], []
            for name, image in opened(root, files[start : start + BATCH]):
                if isinstance(image, str):
                    tqdm.write(f"clipgen: {name}: {image}", file=sys.stderr)
                    unread += 1
                else:
                    names.append(name)
                    images.append(image)
            for name, captions in zip(names, captioner.caption(images, cfg.n, cfg.seed, **how), strict=True):
                own = [f"{name}\t{caption}" for caption in captions]
                tqdm.write("\n".join(own))
                lines += own
            bar.update(len(files[start : start + BATCH]))
    if cfg.out and lines:
        with replacing(cfg.out) as path:
            path.write_text("\n".join(["file\tcaption", *lines]) + "\n", encoding="utf-8")
        print(f"caption: {cfg.out}; `clipgen prep images={root} captions={cfg.out}` takes it", file=sys.stderr)
    if unread:
        print(f"clipgen: {unread} of {len(files)} files have no caption", file=sys.stderr)
        raise SystemExit(1)


def find_images(image: str) -> tuple[Path, list["SourceFile"]]:
    """(The folder that they lie in, the files below it): a file, all images of a folder, or what a glob matches.

    UserError where there is none.
    """
    from data_prep.scan import SourceFile, looks_like_image, walk

    path = Path(image)
    if path.is_dir():
        files = sorted((file for file in walk(path) if looks_like_image(path, file)), key=lambda file: file.path)
        if not files:
            raise UserError(f"image={image} has no image in it; give a file, a folder of images, or a glob")
        return path, files
    found = [image] if path.exists() else sorted(each for each in glob(image, recursive=True) if Path(each).is_file())
    if not found:
        mend = "is matched by no file" if has_magic(image) else "does not exist"
        raise UserError(f"image={image} {mend}; give a file, a folder of images, or a glob such as 'photos/*.jpg'")
    root = Path(os.path.commonpath([Path(each).parent for each in found]))
    return root, [SourceFile(Path(each).relative_to(root).as_posix(), Path(each).stat().st_size) for each in found]


def opened(root: Path, files: Sequence["SourceFile"]) -> Iterator[tuple[str, object]]:
    """The path of each file with its picture, or with why it has none."""
    from PIL import Image

    from data_prep.decode import SetAside, decode

    for file in files:
        if not file.path.isprintable():
            yield repr(file.path), "a table of captions cannot hold such a name; rename the file"
            continue
        try:
            yield file.path, decode(file.read(root), Image.MAX_IMAGE_PIXELS)
        except (OSError, SetAside) as problem:
            reason = problem.detail if isinstance(problem, SetAside) else problem.strerror or problem
            yield file.path, f"cannot be read as an image ({reason})"
