"""The schema of a run's config; clipgen/tools.py has that of the verbs that stand apart.

An unknown key is an error everywhere, in experiment files too. A value of null means "chosen from the images and the
machine" (clipgen/defaults.py says how); each choice is printed.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from clipgen.data.atomic import fingerprint
from clipgen.errors import UserError
from data_prep import executor
from data_prep.settings import PackSettings


@dataclass
class Prep(PackSettings):
    workers: int | None = None
    check: bool = False


@dataclass
class ClipTraining:
    steps: int = 3000
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 100
    logit_scale: float | None = None  # fixed at it; null: learned, 100 at most


@dataclass
class Clip:
    model: str = MISSING
    pretrained: str | None = None
    captions: str | None = None
    made_by: str | None = None  # commands that make the local folder of `model`, to be told where it is missing
    architecture: dict[str, Any] = field(default_factory=dict)
    train: ClipTraining = field(default_factory=ClipTraining)


@dataclass
class VQGANTraining:
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    warmup: int = 50
    lr_final: float = 0.02
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    accumulate: int = 1
    continuous_steps: int | None = None
    usage_window: int = 50
    restart_dead: bool = True
    gumbel_temperature: list[float] = field(default_factory=lambda: [0.9, 0.0625])  # from the first batch to the last
    pixel_loss: str = "l1"
    perceptual: str = "clip"
    perceptual_weight: float = 0.5
    perceptual_weights: str | None = None
    perceptual_sha256: str | None = None
    gan_start: float | None = None
    gan_warmup: int | None = None
    gan_weight: float | None = None
    gan_layers: int | None = None
    gan_channels: int | None = None
    gan_norm: str = "group"
    gan_lr: float | None = None
    lecam: float | None = None
    perturb_share: float = 0.0
    perturb_prob: float = 1.0
    perturb_neighbours: int = 100
    clip_norm: float = 1.0
    ema: float | None = None
    checkpointing: bool = False
    flip: bool = False


@dataclass
class Tokenizer:
    image_size: Any = None  # pixels of the side, or [height, width]
    downsample: int | None = None
    quantizer: str = "nearest"
    codebook_size: int | None = None
    code_dim: int = 8
    unit_codes: bool = True
    commitment: float = 0.25
    legacy: bool = False
    decay: float = 0.99
    kl_weight: float = 5e-4
    levels: list[int] = field(default_factory=list)
    channels: int | None = None
    channel_multipliers: list[int] | None = None
    res_blocks: int | None = None
    attention_resolutions: list[int] = field(default_factory=list)
    z_channels: int = 64
    norm_groups: int | None = None
    norm_eps: float = 1e-6
    patch: int | None = None
    network: str = "resnet"
    dropout: float = 0.0
    ckpt: str | None = None
    ckpt_config: str | None = None
    train: VQGANTraining = field(default_factory=VQGANTraining)


@dataclass
class EmbeddingReconstruction:
    weight: float = 0.0
    every: int = 4
    share: float = 0.25
    estimator: str = "straight_through"


@dataclass
class TransformerTraining:
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: str = "muon"
    lr: float | None = None
    muon_lr: float = 0.02
    weight_decay: float = 0.01
    warmup: int = 50
    schedule: str = "linear"
    lr_final: float = 0.02
    clip_norm: float = 1.0
    ema: float | None = None
    checkpointing: bool = False
    min_level: float = 0.9
    rar: bool = False
    rar_anneal: list[float] = field(default_factory=lambda: [0.5, 0.75])
    keep_random: bool = False
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    aux_weight: float = 0.0
    recon: EmbeddingReconstruction = field(default_factory=EmbeddingReconstruction)


@dataclass
class TransformerModel:
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    n_prefix: int = 4
    cond_drop_prob: float = 0.1
    dropout: float | None = None
    rope_base: float = 100.0
    style: str = "modern"
    level_token: bool = True
    gft: bool = False
    centred: bool = True
    condition: str = "image"  # or text: the embedding of a caption
    ckpt: str | None = None
    train: TransformerTraining = field(default_factory=TransformerTraining)


@dataclass
class Paired:
    """What stage=paired has beside `transformer`."""

    vocab_size: int = 50_000  # at most; fewer where the captions' words need fewer
    text_length: int = 64  # pieces, at most; fewer where the longest caption has fewer
    txt_loss_scale: float = 1.0
    img_loss_scale: float = 1.0
    sandwich: bool = False
    pb_relax: bool = False
    shrink_gradient: float = 1.0  # CogView's alpha; 1 shrinks nothing
    window: int = 0  # of an image's tokens, those up to itself that one sees; 0: all
    pivots: int = 0  # and of those before the window


@dataclass
class Encode:
    crops: int = 1
    large: bool = False  # the tokens of each crop at twice the size too, for stage=super
    own_captions: bool = True  # of a thousand or more, for the texts' mean
    precision: str = "auto"
    batch_size: int = 256
    workers: int | None = None


@dataclass
class Executor(executor.Executor):
    logs: str = "${out}/slurm"


@dataclass
class Sampling:
    guidance_scale: float = 2.0
    guidance_schedule: str = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    clusters: int = 0  # of the codes, which top_k then counts; 0: it counts codes
    prefix_boost: float = 0.0  # added to the scores of attention to the text
    fidelity: float = 0.9
    bridge: str = "mean"
    precision: str = "fp32"
    batch_size: int = 256


@dataclass
class Trainer:
    device: str = "auto"
    devices: int = 1
    strategy: str = "ddp"  # of stage 2, where there are several devices
    precision: str = "auto"
    compile: bool = False  # the networks of stages 1 and 2
    threads: int | None = None
    num_workers: int | None = None  # null: on a GPU some where memory does not hold the set, else none
    val_every: int | None = None
    val_samples: int = 512
    grid_every: int | None = None
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])


@dataclass
class Arm:
    """What a comparison knows of an arm beside its settings (conf/arm)."""

    conditioned_on: str | None = None
    asked_with: str | None = None
    captions_shares: list[float] = field(default_factory=lambda: [0.0])
    choices: dict[str, list[Any]] = field(default_factory=dict)  # of sampling: what trials are drawn from
    candidates: int | None = None  # of a test prompt, of which the CLIP keeps the best `keep`
    keep: int = 8


@dataclass
class Comparison:
    arms: list[str] = field(
        default_factory=lambda: ["clipgen", "plain_swap", "clip_gen_paper", "paired", "paired_clip"]
    )
    captions_shares: list[float] = field(default_factory=list)  # of arms that use captions, instead of their own
    steps: int = 1500  # of arm clipgen; the others get as many FLOPs, and as many pictures
    equal_images: bool = True
    jobs: int = 1  # trainings at once
    seeds: list[int] = field(default_factory=lambda: [0])
    side_seeds: int | None = None  # of the seeds, how many have parts of the captions and equal pictures; null: all
    lr_factors: list[float] = field(default_factory=lambda: [1.0])
    trials: int = 8
    chosen: str | None = None  # compare.json of an earlier comparison, whose choices are taken instead of trials
    development: int = 1  # pictures of a prompt
    test: int = 4
    prompts: int = 200  # of each split, where captions or those of `prompts_file` are the prompts
    prompts_file: str | None = None  # one a line, instead of the captions of validation pictures
    tolerance: float = 0.02
    judge_model: str | None = None  # a CLIP that conditioned nothing, for the scores
    judge_pretrained: str | None = None
    captioner: str | None = None  # a model folder, for CapLoss
    fid_weights: str | None = None
    dinov2_weights: str | None = None
    first: list[list[str]] = field(default_factory=list)  # commands that draw the pictures
    arm: Arm = field(default_factory=Arm)


@dataclass
class Config:
    """What `run`, `prep`, `train`, `encode` and `compare` share: they read one run's settings."""

    name: str = "run"
    out: str = "outputs/${name}"
    images: str | None = None
    captions: str | None = None
    captions_share: float = 1.0  # of the training images, whose captions stages that read captions may use
    shards: str = "${out}/shards"
    latents: str = "${out}/latents"
    stage: str | None = None
    task: str = "image"  # of stage=paired: from captions to images, or caption: from images to captions
    experiment: str | None = None
    metric: str = "val/loss"  # what a sweep's jobs are judged by: of metrics.csv, or without a slash of metrics.json
    direction: str | None = None  # minimize or maximize; null: as its name says
    world: str | None = None
    prompts: list[str] = field(default_factory=list)
    seed: int = 0
    bank: int = 10_000  # embeddings kept in the model folder for bridge=knn
    replace: bool = False
    prep: Prep = field(default_factory=Prep)
    clip: Clip = field(default_factory=Clip)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    transformer: TransformerModel = field(default_factory=TransformerModel)
    paired: Paired = field(default_factory=Paired)
    encode: Encode = field(default_factory=Encode)
    executor: Executor = field(default_factory=Executor)
    sampling: Sampling = field(default_factory=Sampling)
    trainer: Trainer = field(default_factory=Trainer)
    compare: Comparison = field(default_factory=Comparison)


STAGES = ("vqgan", "transformer", "paired", "super", "clip")
WORLDS = ("shapes", "two")
LONGEST = 200  # bytes of a folder's name


def register() -> None:
    """Make the schemas and the resolvers known to Hydra; may be called more than once."""
    from clipgen.tools import SCHEMAS

    store = ConfigStore.instance()
    for name, schema in {"run_schema": Config, **SCHEMAS}.items():
        store.store(name=name, node=schema)
    OmegaConf.register_new_resolver("package_dir", _package_dir, replace=True)
    OmegaConf.register_new_resolver("flat", _flat, replace=True)


def _package_dir(package: str) -> str:
    from importlib.resources import files

    return str(files(package))


def _flat(text: str) -> str:
    """One folder's name, where a swept value holds a path; what is too long for one ends in a fingerprint."""
    name = text.replace("/", "_")
    return name if len(name.encode()) <= LONGEST else f"{name[: LONGEST // 4]}…{fingerprint(name)}"


def asdict_of(section: Any) -> dict[str, Any]:
    """A group of settings as a plain dict, whether it was composed or made in code."""
    from omegaconf import DictConfig

    return OmegaConf.to_container(section, resolve=True) if isinstance(section, DictConfig) else asdict(section)


def complete(cfg: Any) -> Config:
    """The composed config with every interpolation resolved, still open to choices; UserError for what is missing."""
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(cfg, DictConfig):
        return cfg
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as problem:
        raise UserError(str(problem).splitlines()[0]) from problem
    plain.pop("experiment", None)
    return OmegaConf.merge(OmegaConf.structured(Config), plain)
