"""The settings of the verbs that share none with a run (conf/tools), and of export."""

from dataclasses import dataclass, field

from clipgen.config import MISSING, Clip, Sampling


@dataclass
class Generate:
    """What `sample` and `evaluate` share; null leaves a setting as the model has it."""

    model: str = MISSING
    n: int = 4
    seed: int = 0
    guidance_scale: float | None = None
    guidance_schedule: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    clusters: int | None = None
    prefix_boost: float | None = None
    fidelity: float | None = None
    bridge: str | None = None
    precision: str | None = None
    compile: bool | None = None
    batch_size: int | None = None
    device: str = "auto"


@dataclass
class SampleConfig(Generate):
    prompts: str | None = None
    image: str | None = None
    mix: str | None = None
    negative: str | None = None
    mask: str | None = None
    candidates: int | None = None
    keep: int | None = None
    rerank: str | None = None
    captioner: str | None = None
    upscale: str | None = None
    out: str = "samples"


@dataclass
class CaptionConfig:
    model: str = MISSING
    image: str = MISSING
    n: int = 1
    seed: int = 0
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    out: str | None = None
    device: str = "auto"


@dataclass
class UpscaleConfig:
    model: str = MISSING
    image: str = MISSING
    out: str | None = None
    seed: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    precision: str | None = None
    device: str = "auto"


@dataclass
class TokenizerFile:
    ckpt: str | None = None
    ckpt_config: str | None = None


@dataclass
class TransformerFile:
    ckpt: str | None = None


@dataclass
class ClipChoice:
    model: str | None = None
    pretrained: str | None = None


@dataclass
class EvaluateConfig(Generate):
    stage: str | None = None
    shards: str | None = None
    world: str | None = None
    prompts: str | None = None
    split: str = "test"
    out: str | None = None
    name: str = "run"
    run: str = "outputs/${name}"
    tokenizer: TokenizerFile = field(default_factory=TokenizerFile)
    val_samples: int = 5000
    perturb_prob: float = 0.1
    perturb_neighbours: int = 100
    perceptual: str = "lpips"
    perceptual_weights: str | None = None
    fid_weights: str | None = None
    dinov2_weights: str | None = None
    captioner: str | None = None
    nearest: int = 64
    clip: ClipChoice = field(default_factory=ClipChoice)


GENERATION = (  # of Generate, for ClipGen
    "guidance_scale", "guidance_schedule", "temperature", "top_k", "top_p", "min_p", "clusters", "prefix_boost",
    "fidelity", "bridge", "precision", "compile", "batch_size",
)  # fmt: skip


@dataclass
class DrawConfig:
    out: str = MISSING
    world: str = "shapes"
    n: int = 20_000
    seed: int = 0
    image_size: int = 32
    captions: bool = False
    left_out: float = 0.0
    style: str | None = None
    style_share: float = 1.0


@dataclass
class ExportConfig:
    stage: str = "transformer"
    task: str = "image"
    name: str = "run"
    run: str = "outputs/${name}"
    latents: str = "${run}/latents"
    out: str | None = None  # null: model in the run, or captioner
    bank: int = 10_000
    tokenizer: TokenizerFile = field(default_factory=TokenizerFile)
    transformer: TransformerFile = field(default_factory=TransformerFile)
    clip: Clip = field(default_factory=Clip)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass
class VerifyConfig:
    shards: str | None = None
    latents: str | None = None
    repair: bool = False
    images: str | None = None
    captions: str | None = None
    tokenizer: TokenizerFile = field(default_factory=TokenizerFile)
    device: str = "auto"


@dataclass
class BrowseConfig:
    shards: str | None = None
    latents: str | None = None
    out: str = "browse.html"
    n: int = 60
    split: str = "train"
    tokenizer: TokenizerFile = field(default_factory=TokenizerFile)
    device: str = "auto"


@dataclass
class GapConfig:
    latents: str = MISSING
    captions: str | None = None
    templates: str | None = None
    clip: ClipChoice = field(default_factory=ClipChoice)
    bank: int = 10_000
    out: str | None = None
    device: str = "auto"


@dataclass
class ReportConfig:
    run: str = MISSING


SCHEMAS = {
    "sample_schema": SampleConfig,
    "caption_schema": CaptionConfig,
    "upscale_schema": UpscaleConfig,
    "evaluate_schema": EvaluateConfig,
    "draw_schema": DrawConfig,
    "export_schema": ExportConfig,
    "verify_schema": VerifyConfig,
    "browse_schema": BrowseConfig,
    "gap_schema": GapConfig,
    "report_schema": ReportConfig,
}
