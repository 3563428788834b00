"""`clipgen draw`: pictures of the demo world into a folder, and their captions when asked."""

import json
from pathlib import Path

from clipgen.check import check_world
from clipgen.errors import UserError
from clipgen.tools import DrawConfig


def main(cfg: DrawConfig) -> None:
    draw_folder(
        Path(cfg.out), cfg.n, cfg.seed, cfg.image_size, cfg.captions, cfg.left_out, cfg.world, cfg.style,
        cfg.style_share,
    )  # fmt: skip


def draw_folder(
    out: Path,
    n: int,
    seed: int,
    image_size: int,
    captions: bool,
    left_out: float = 0.0,
    world: str = "shapes",
    style: str | None = None,
    style_share: float = 1.0,
) -> None:
    """PNGs in sub-folders of a thousand; `captions.tsv` beside them when asked. A finished folder is left as it is."""
    from PIL import Image
    from tqdm import tqdm

    from clipgen.data.atomic import explained, replacing, write_json
    from clipgen.shapes import draw, two
    from clipgen.shapes import style as styled

    check_world(world)
    if n < 1 or image_size < 16:
        raise UserError(f"n={n} image_size={image_size}; draw at least 1 picture of at least 16 px")
    if not 0 <= left_out <= 1:
        raise UserError(f"left_out={left_out} is the share of things that captions do not name; take 0 to 1")
    if left_out and world == "two":
        raise UserError(f"left_out={left_out:g}: captions of world=two name everything; take left_out=0")
    if style is not None and style not in styled.STYLES:
        raise UserError(f"style={style} is unknown; take style={' or '.join(styled.STYLES)}")
    if style and (left_out or world != "shapes"):
        raise UserError(f"style={style} has captions that name everything, of world=shapes; take left_out=0, no world=")
    if not 0 <= style_share <= 1:
        raise UserError(f"style_share={style_share:g} is the share of pictures in the style; take 0 to 1")
    wanted = {"n": n, "seed": seed, "image_size": image_size, "captions": captions}
    wanted |= ({"left_out": left_out} if left_out else {}) | ({"world": world} if world != "shapes" else {})
    wanted |= {"style": style, "style_share": style_share} if style else {}
    done, begun = out / ".drawn.json", out / ".begun.json"
    for known in filter(Path.exists, (done, begun)):
        if (held := json.loads(known.read_text())) != wanted:
            raise UserError(f"out={out} holds other pictures ({json.dumps(held)}); give another folder, or delete it")
        if known == done:
            print(f"draw: {out} is done already, skipped")
            return
    write_json(begun, wanted)
    lines = ["file\tcaption"]
    with explained(out):
        if style:
            drawn = styled.world(n, seed, image_size, style_share)
        else:
            drawn = two.world(n, seed, image_size) if world == "two" else draw.world(n, seed, image_size, left_out)
        for i, (_, picture, text) in enumerate(tqdm(drawn, total=n, desc="drawing", unit="img")):
            path = out / f"{i // 1000:03d}" / f"{i:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, compress_level=1)
            lines.append(f"{path.relative_to(out)}\t{text}")
    if captions:
        with replacing(out.with_name(out.name + ".tsv")) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with explained(out):
        begun.rename(done)
    print(f"draw: {n:,} pictures of {image_size} px in {out}" + (f", captions in {out}.tsv" if captions else ""))
