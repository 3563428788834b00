"""`clipgen gap`: the modality gap of latents and texts, in numbers and a picture."""

from pathlib import Path

from clipgen.check.sampling import check_bank
from clipgen.errors import UserError
from clipgen.tools import GapConfig

IMAGES = 2000  # and texts, evenly from a split: enough for a picture and for means of cosines


def main(cfg: GapConfig) -> None:
    if cfg.captions and cfg.templates:
        raise UserError(f"captions={cfg.captions} and templates={cfg.templates} were both given; take one of them")
    check_bank(cfg.bank)
    import torch

    from clipgen.cli.say import say_cut
    from clipgen.clip.texts import fill_templates, read_texts, reference_texts
    from clipgen.data.atomic import replacing, write_json
    from clipgen.data.manifest import Manifest
    from clipgen.evaluation.gap import measure_bridges, measure_gap, moments
    from clipgen.evaluation.gap_picture import gap_picture
    from data_prep.statistics import OF_IMAGES, bank, load_statistics, pairs

    manifest = Manifest.load(cfg.latents, "latents")
    statistics = load_statistics(cfg.latents)
    split = "val" if manifest.samples("val") else "train"
    image_NE = bank(cfg.latents, IMAGES, split)
    if image_NE is None:
        raise UserError(f"latents={cfg.latents} are empty; run `clipgen encode` first")
    clip = _clip(cfg, manifest)
    if cfg.captions:
        texts, source = read_texts(cfg.captions, f"captions={cfg.captions}"), cfg.captions
    elif cfg.templates:
        texts = fill_templates(read_texts(cfg.templates, f"templates={cfg.templates}", "template"), cfg.templates)
        source = f"{cfg.templates} and words of the package"
    else:  # those that a model of these latents is stored with
        stored = manifest.facts.get("texts_from", "")
        texts, source = reference_texts(clip.identity.model, stored if Path(stored).is_file() else None)
        source = stored or source
    image_NE, paired_NE = image_NE.float(), pairs(cfg.latents, IMAGES, split)
    if source == OF_IMAGES and paired_NE is not None:
        text_ME = paired_NE[~paired_NE.isnan().any(1)]
    else:
        text_ME = clip.encode_text(texts).cpu()
    if cfg.captions or cfg.templates:
        say_cut(clip, texts)
        statistics |= {key: value for key, value in moments(image_NE, text_ME).items() if key.startswith("text")}
    bank_NE = bank(cfg.latents, cfg.bank) if split == "val" and cfg.bank else None
    facts = {"latents": cfg.latents, "split": split, "clip": clip.identity.fingerprint(), "texts_from": source}
    facts |= measure_gap(image_NE, text_ME, paired_NE)
    facts["bridges"] = measure_bridges(image_NE, text_ME, statistics, bank_NE, paired_NE)
    print(_told(facts))
    if bank_NE is None:
        why = "the images shown are the training images, and so would be its bank" if split == "train" else "bank=0"
        print(f"knn is left out: {why}")
    out = Path(cfg.out) if cfg.out else Path(cfg.latents).parent / "gap"
    with replacing(out / "gap.png") as path, torch.no_grad():
        gap_picture(image_NE, text_ME, statistics, bank_NE, facts["bridges"]).save(path, format="PNG")
    write_json(out / "gap.json", facts)
    print(f"gap: look at {out}/gap.png")


def _clip(cfg: GapConfig, manifest):
    """The CLIP of the latents, or another copy of it where that has moved."""
    from clipgen.cli.machine import pick_device
    from clipgen.clip.frozen import load_clip

    made = manifest.made_by["clip"]
    model = cfg.clip.model or made["model"]
    clip = load_clip(model, cfg.clip.pretrained if cfg.clip.model else made["pretrained"], pick_device(cfg.device))
    if clip.identity.fingerprint() != made["fingerprint"]:
        raise UserError(
            f"latents={cfg.latents} were made with CLIP {made['fingerprint'][:8]}… but {model} is "
            f"{clip.identity.fingerprint()[:8]}…; give the one that made them as clip.model="
        )
    return clip


def _told(facts: dict) -> str:
    lines = [
        f"{facts['images']} images ({facts['split']}), {facts['texts']} texts from {facts['texts_from']}",
        f"centroids                {facts['centroid_distance']:.3f} apart, which is {facts['gap_mean_share']:.0%} of "
        "the squared distance of an image and a text",
        f"cosine                   image-image {facts['image']['cosine_within']:.3f}, text-text "
        f"{facts['text']['cosine_within']:.3f}, image-text {facts['cosine_image_text']:.3f}",
    ]
    for side in ("image", "text"):
        each = facts[side]
        spectrum = " ".join(f"{value:.1%}" for value in each["spectrum"][:6])
        removed, dimension = f"a mean removes {each['mean_share']:.0%}", f"{each['effective_dimension']:.1f}"
        lines.append(f"{side + 's':<25}{removed}; the first directions have {spectrum} of the rest")
        lines.append(f"{'':<25}effective dimension {dimension}")
    if "pairs" in facts:
        each = facts["pairs"]
        cosines = f"cosine {each['cosine']:.3f}, centred {each['cosine_centred']:.3f}"
        lines.append(f"pairs                    {cosines}, of {each['images']} images that have a caption")
    lines.append(f"\n{'bridge':<16}{'centroids':>10}{'nearest':>9}" + ("   pair recall@1" if "pairs" in facts else ""))
    for name, each in facts["bridges"].items():
        line = f"{name:<16}{each['centroid_distance']:>10.3f}{each['cosine_nearest']:>9.3f}"
        pair = f"{each['paired_cosine']:>7.3f}{each['recall@1']:>9.1%}" if "paired_cosine" in each else ""
        lines.append(line + pair)
    return "\n".join(lines)
