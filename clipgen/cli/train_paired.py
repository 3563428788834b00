"""Stage `paired`: latents and their captions → CogView's Transformer of text and image."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image
from torch import Tensor

from clipgen.check import check_sampling
from clipgen.checkpoint import weights_sha256
from clipgen.cli.build import TOKEN_TRAINING_KEYS, load_tokenizer, paired_settings, tokenizer_path
from clipgen.cli.imports import check_inputs, check_start, read_paired
from clipgen.cli.latents import check_latents
from clipgen.cli.machine import check_compiler, pick_device
from clipgen.cli.record import Record
from clipgen.cli.say import say
from clipgen.cli.stage import PREVIEWS, SAMPLED, fit_tokens, refuse_own, say_used, start
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
    device = pick_device(cfg.trainer.device)
    if cfg.trainer.compile:
        check_compiler(device)
    training = {key: value for key, value in asdict_of(m.train).items() if key in (*TOKEN_TRAINING_KEYS, "ema")}
    scales = {"txt_loss_scale": p.txt_loss_scale, "img_loss_scale": p.img_loss_scale}
    start_settings, weights, start_inputs, text = read_paired(m.ckpt) if m.ckpt else ({}, None, {}, None)
    text, length = read_text(cfg, data, text, start_settings.get("text_length"))
    model = paired_settings(cfg, data.grid, codebook_size, len(text), length)
    settings = {"paired": model, "paired.train": training | {"batch_size": m.train.batch_size} | scales}
    settings |= {"captions_share": cfg.captions_share, "seed": cfg.seed}
    inputs = {"latents": latents.content, "text": text.sha256}
    if m.ckpt:
        refuse_own(m.ckpt, folder, "transformer.ckpt")
        check_start(m.ckpt, start_settings, model, PairedTransformer)
        check_inputs(m.ckpt, start_inputs, {"tokenizer": (sha256, str(path))})
        inputs["start"] = weights_sha256(weights)
    say_used("paired", data, cfg.captions_share)
    record = start(folder, "paired", settings, inputs)
    if record.done:
        return record
    from_rank_zero(lambda: text.save(folder / FILE))
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    say(f"paired: {len(text):,} pieces of text, {length} at most in a caption")
    transformer = PairedTransformer(**model)
    if m.ckpt:
        transformer.load_state_dict(weights)
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
        each, sampling = 4, asdict_of(cfg.sampling)
        text_BP = encode(shown).repeat_interleave(each, 0).to(device)
        options = {key: sampling[key] for key in SAMPLED}
        tokens_Bhw = generate(transformer, text_BP, None, range(len(text_BP)), **options)
        return image_grid(to_uint8(vqgan.decode(tokens_Bhw).float()).cpu().numpy(), each, shown)

    fit_tokens(cfg, record, module, data, samples if prompts or data.n_val else None)
    return record


def read_text(
    cfg: Config, data: CaptionedLatentData, text: Text | None = None, length: int | None = None
) -> tuple[Text, int]:
    """The pieces of the captions that may be used, and how many of them a text may have; or those given, kept."""
    captions = list(data.captions())
    text = text or Text.train(captions, cfg.paired.vocab_size)
    lengths = list(map(len, text.encode(captions)))
    length = length or min(max(lengths), cfg.paired.text_length)
    if cut := sum(own > length for own in lengths):
        say(f"paired: {cut:,} of {len(captions):,} captions are longer than {length} pieces and are cut there")
    return text, length
