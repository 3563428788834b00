"""Stage `paired`: latents and their captions → CogView's Transformer of text and image."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image
from torch import Tensor

from clipgen.check import check_sampling, check_window
from clipgen.cli.build import TOKEN_TRAINING_KEYS, load_tokenizer, paired_settings, tokenizer_path
from clipgen.cli.latents import check_latents
from clipgen.cli.machine import check_compiler, pick_device
from clipgen.cli.record import Record
from clipgen.cli.say import say
from clipgen.cli.stage import PREVIEWS, fit_tokens, preview_options, say_used, start
from clipgen.cli.stages import clip_in_use
from clipgen.config import Config, asdict_of
from clipgen.data.manifest import Manifest
from clipgen.data.module import CaptionedLatentData
from clipgen.data.transforms import to_uint8
from clipgen.paired.model import PairedTransformer
from clipgen.paired.module import PairedModule
from clipgen.paired.text import FILE, Text
from clipgen.picture import image_grid
from clipgen.ranks import from_rank_zero
from clipgen.transformer.sampling import generate


def train_paired(cfg: Config, folder: Path) -> Record:
    """Captioned latents → `folder/best.ckpt`, with the pieces of its texts beside it."""
    m, p = cfg.transformer, cfg.paired
    latents = Manifest.load(cfg.latents, "latents")
    path = tokenizer_path(cfg)
    vqgan, _, sha256 = load_tokenizer(path, cfg.tokenizer.ckpt_config)
    check_latents(latents, cfg.latents, path, sha256, clip_in_use(cfg))
    data = CaptionedLatentData(
        cfg.latents, m.train.batch_size, m.train.steps, cfg.seed, cfg.trainer.num_workers, cfg.trainer.val_samples,
        share=cfg.captions_share,
    )  # fmt: skip
    codebook_size = latents.made_by["tokenizer"]["codebook_size"]
    check_sampling(cfg.sampling, cfg.bank, codebook_size)
    check_window(p, data.grid[0] * data.grid[1])
    device = pick_device(cfg.trainer.device)
    if cfg.trainer.compile:
        check_compiler(device)
    training = {key: value for key, value in asdict_of(m.train).items() if key in (*TOKEN_TRAINING_KEYS, "ema")}
    scales = {"txt_loss_scale": p.txt_loss_scale, "img_loss_scale": p.img_loss_scale}
    text, length = read_text(cfg, data)
    model = paired_settings(cfg, data.grid, codebook_size, len(text), length)
    settings = {"paired": model, "paired.train": training | {"batch_size": m.train.batch_size} | scales}
    settings |= {"captions_share": cfg.captions_share, "seed": cfg.seed}
    say_used("paired", data, cfg.captions_share)
    record = start(folder, "paired", settings, {"latents": latents.content, "text": text.sha256})
    if record.done:
        return record
    from_rank_zero(lambda: text.save(folder / FILE))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    say(f"paired: {len(text):,} pieces of text, {length} at most in a caption")
    transformer = PairedTransformer(**model)
    transformer.checkpointing = m.train.checkpointing
    vqgan.to(device)

    def encode(captions: Sequence[str]) -> Tensor:
        return transformer.layout.prefix(text.encode(captions))

    module = PairedModule(
        transformer,
        encode,
        seed=cfg.seed,
        settings=settings,
        inputs={"tokenizer": sha256, "text": text.sha256},
        **scales,
        **{key: value for key, value in training.items() if key != "ema"},
    )
    prompts = list(cfg.prompts)[:PREVIEWS]

    def samples() -> Image.Image:
        shown = prompts or data.val_batches.plain(range(min(PREVIEWS, data.n_val)))["caption"]
        each, options = 4, preview_options(cfg.sampling, vqgan)
        text_BP = encode(shown).repeat_interleave(each, 0).to(device)
        tokens_Bhw = generate(transformer, text_BP, None, range(len(text_BP)), **options)
        return image_grid(to_uint8(vqgan.decode(tokens_Bhw).float()).cpu().numpy(), each, shown)

    fit_tokens(cfg, record, module, data, samples if prompts or data.n_val else None)
    return record


def read_text(cfg: Config, data: CaptionedLatentData) -> tuple[Text, int]:
    """The pieces of the captions that may be used, and how many of them a text may have."""
    captions = list(data.captions())
    text = Text.train(captions, cfg.paired.vocab_size)
    longest = max(map(len, text.encode(captions)))
    length = min(longest, cfg.paired.text_length)
    if longest > length:
        cut = sum(len(own) > length for own in text.encode(captions))
        say(f"paired: {cut:,} of {len(captions):,} captions are longer than {length} pieces and are cut there")
    return text, length
