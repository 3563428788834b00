"""Stage `paired`: latents and their captions → CogView's Transformer of text and image, or of image and text."""

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image

from clipgen.check.paired import check_window
from clipgen.checkpoint import weights_sha256
from clipgen.cli.build import TOKEN_TRAINING_KEYS, paired_settings
from clipgen.cli.imports import check_inputs, check_start, read_paired
from clipgen.cli.latents import latents_in_use
from clipgen.cli.machine import pick_device
from clipgen.cli.record import Record
from clipgen.cli.say import say
from clipgen.cli.stage import PREVIEWS, batches, fit_tokens, preview_options, refuse_own, say_used, start
from clipgen.config import Config
from clipgen.data.module import CaptionedLatentData
from clipgen.data.transforms import to_uint8
from clipgen.paired.captioner import CaptionTransformer, write
from clipgen.paired.model import PairedTransformer
from clipgen.paired.module import CaptionModule, PairedModule
from clipgen.paired.text import FILE, Text
from clipgen.picture import image_grid
from clipgen.ranks import from_rank_zero
from clipgen.tokenizer.vqgan import VQGAN
from clipgen.transformer.compiler import check_compiler
from clipgen.transformer.sampling import generate

SPELT = 2  # times the longest caption, where there are words beyond the share, which are spelt in letters
CAPTIONED = 320  # pixels of a picture under its caption, so that the words fit


def train_paired(cfg: Config, folder: Path) -> Record:
    """Captioned latents → `folder/best.ckpt`, with the pieces of its texts beside it."""
    m, p = cfg.transformer, cfg.paired
    captions = cfg.task == "caption"
    stage, kind = ("caption", CaptionTransformer) if captions else ("paired", PairedTransformer)
    latents = latents_in_use(cfg)
    data = CaptionedLatentData(cfg.latents, *batches(cfg), share=cfg.captions_share)
    check_window(p, data.grid[0] * data.grid[1])
    device = pick_device(cfg.trainer.device)
    if cfg.trainer.compile:
        check_compiler(device)
    training = {key: getattr(m.train, key) for key in TOKEN_TRAINING_KEYS}
    own = {"ema": m.train.ema, "batch_size": m.train.batch_size}
    scales = {} if captions else {"txt_loss_scale": p.txt_loss_scale, "img_loss_scale": p.img_loss_scale}
    start_settings, weights, start_inputs, text = {}, None, {}, None
    if m.ckpt:
        refuse_own(m.ckpt, folder, "transformer.ckpt")
        stages = ("paired", "caption") if captions else ("paired",)
        start_settings, weights, start_inputs, text = read_paired(m.ckpt, *stages)
    text, length, mean = read_text(cfg, data, text, start_settings.get("text_length"))
    model = paired_settings(cfg, data.grid, latents.codebook_size, len(text), length)
    settings = {"paired": model, "paired.train": training | own | scales}
    settings |= {"captions_share": cfg.captions_share, "seed": cfg.seed}
    inputs = {"latents": latents.content, "text": text.sha256}
    if m.ckpt:
        check_start(m.ckpt, start_settings, model, kind)
        check_inputs(m.ckpt, start_inputs, {"tokenizer": latents.tokenizer})
        inputs["start"] = weights_sha256(weights)
    say_used(stage, data, cfg.captions_share)
    record = start(folder, stage, settings, inputs)
    if record.done:
        return record
    from_rank_zero(lambda: text.save(folder / FILE))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    say(f"{stage}: {len(text):,} pieces of text, {length} at most in a caption and {mean:.1f} on average")
    transformer = kind(**model)
    if m.ckpt:
        transformer.load_state_dict(weights)
    transformer.checkpointing = m.train.checkpointing
    vqgan = latents.vqgan.to(device)
    made_with = {"tokenizer": latents.tokenizer[0], "text": text.sha256}
    common = {"seed": cfg.seed, "settings": settings, "inputs": made_with, **training}
    layout = transformer.layout
    if captions:
        module = CaptionModule(transformer, lambda texts: layout.captions(text.encode(texts)), **common)
        samples = captioned_pictures(transformer, vqgan, data, text) if data.n_val else None
    else:
        module = PairedModule(transformer, lambda texts: layout.prefix(text.encode(texts)), **scales, **common)
        samples = pictures(cfg, module, vqgan, data) if cfg.prompts or data.n_val else None
    fit_tokens(cfg, record, module, data, samples)
    return record


def pictures(cfg: Config, module: PairedModule, vqgan: VQGAN, data: CaptionedLatentData) -> Callable[[], Image.Image]:
    """What draws a grid for some prompts, or for captions of held-out pictures."""
    prompts = list(cfg.prompts)[:PREVIEWS]

    def drawn() -> Image.Image:
        shown = prompts or data.val_batches.plain(range(min(PREVIEWS, data.n_val)))["caption"]
        each, options = 4, preview_options(cfg.sampling, vqgan)
        text_BP = module.encode(shown).repeat_interleave(each, 0).to(module.device)
        tokens_Bhw = generate(module.transformer, text_BP, None, range(len(text_BP)), **options)
        return image_grid(to_uint8(vqgan.decode(tokens_Bhw).float()).cpu().numpy(), each, shown)

    return drawn


def captioned_pictures(
    transformer: CaptionTransformer, vqgan: VQGAN, data: CaptionedLatentData, text: Text
) -> Callable[[], Image.Image]:
    """What draws a grid of held-out pictures, each under the caption that it is given."""

    def drawn() -> Image.Image:
        tokens_BL = data.val_batches.plain(range(min(PREVIEWS, data.n_val)))["tokens"].to(transformer.place_LD.device)
        with torch.inference_mode():
            image_BCHW = vqgan.decode(tokens_BL.view(-1, *transformer.grid))
        captions = text.decode(write(transformer, tokens_BL, range(len(tokens_BL))))
        return image_grid(to_uint8(image_BCHW.float()).cpu().numpy(), 1, captions, cell=CAPTIONED)

    return drawn


def read_text(
    cfg: Config, data: CaptionedLatentData, text: Text | None = None, length: int | None = None
) -> tuple[Text, int, float]:
    """The pieces of the captions that may be used, how many of them a text may have, and how many it has on average.

    A `text` and a `length` that are given are kept.
    """
    captions = list(data.captions())
    text = text or Text.train(captions, cfg.paired.vocab_size)
    lengths = list(map(len, text.encode(captions)))
    room = SPELT if cfg.captions_share < 1 else 1
    length = length or min(room * max(lengths), cfg.paired.text_length)
    if cut := sum(own > length for own in lengths):
        say(f"paired: {cut:,} of {len(captions):,} captions are longer than {length} pieces and are cut there")
    return text, length, sum(min(own, length) for own in lengths) / len(lengths)
