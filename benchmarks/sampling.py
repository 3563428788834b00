"""Sampling of image tokens against the public implementation's way and cached loops of others.

`uncached` is the public implementation's `GPT.sample` (HFAiLab/clip-gen, models/gpt.py), written from its layout:
torch's TransformerEncoderLayer in eval mode (so its fused path), one prefix token, each step runs all tokens so far, a
head with a bias over every position, then top-k 500 and top-p 0.95, in float32. Before it is timed, its logits must be
those of the published layout's tensors, written out. Its steps are timed at every 16th length (batch 32, and 24 layers:
every 32nd), and their mean is taken. Ours samples with the same filters, in float32 with packed weights as
`clipgen sample` does on a CPU, and in bf16 with bf16 weights where that pays, without guidance; packing and casting are
in its time. "compiled" is compile=true: steps of fixed shapes in one graph, the first batch, which makes it, not timed.
"minGPT" is taming-transformers' copy of it with `sample_with_past`, "x-transformers" its AutoregressiveWrapper, both
with top-k 500 only; the latter needs X_TRANSFORMERS=FOLDER, made by `pip install --no-deps --target FOLDER
x-transformers==2.31.10 torch-einops-utils==0.2.0 einx==0.4.3 einops loguru`. No peer has the
prefix's second token, the level.

The limit is the larger of two times a step: the weights and the filled cache read once at the measured rate of reading,
and the products of the step at the measured ceiling of the type.

On a GPU the rows are others: 24 × 1024 in bf16, compiled against the same model with a growing cache, uncompiled; the
rate of reading is that of copying, both ways counted. Nobody has run them yet.

ONLY=TEXT runs just the rows that have TEXT in their name.
"""

import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from table import row, show
from torch import Tensor, nn

from clipgen.bf16 import bf16_pays
from clipgen.cli.machine import pick_device
from clipgen.transformer.fixed import FixedStep
from clipgen.transformer.model import Transformer
from clipgen.transformer.packed import PackedLinear, prepared
from clipgen.transformer.sampling import generate

L, EMBED = 256, 512
TOP_K, TOP_P = 500, 0.95
FILTERS = {"top_k": TOP_K, "top_p": TOP_P}
SMALL, LARGE = (8, 512, 8), (24, 1024, 16)  # layers, width, heads
ONLY = os.environ.get("ONLY", "")


class Uncached(nn.Module):
    """The published layout, key for key."""

    def __init__(self, layers: int, width: int, heads: int, codes: int):
        super().__init__()
        self.tok_emb = nn.Embedding(codes, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, L, width))
        self.cond_proj = nn.Linear(EMBED, width)
        layer = dict(dropout=0.1, activation=F.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"encoder": nn.TransformerEncoderLayer(width, heads, 4 * width, **layer)})
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        self.later = ~torch.ones(L, L, dtype=torch.bool).tril()

    def forward(self, token_BL: Tensor, condition_BE: Tensor) -> Tensor:
        x_BTD = torch.cat([self.cond_proj(condition_BE)[:, None], self.tok_emb(token_BL)], 1)
        T = x_BTD.shape[1]
        x_BTD = x_BTD + self.pos_emb[:, :T]
        for block in self.blocks:
            x_BTD = block["encoder"](x_BTD, self.later[:T, :T])
        return self.head(self.norm(x_BTD))

    @torch.no_grad()
    def step(self, token_BL: Tensor, condition_BE: Tensor) -> Tensor:
        logits_BV = self(token_BL, condition_BE)[:, -1]
        logits_BV[logits_BV < logits_BV.topk(TOP_K).values[:, [-1]]] = -torch.inf
        sorted_BV, order_BV = logits_BV.sort(descending=True)
        beyond_BV = sorted_BV.softmax(-1).cumsum(-1) > TOP_P
        beyond_BV[:, 1:] = beyond_BV[:, :-1].clone()
        beyond_BV[:, 0] = False
        logits_BV[beyond_BV.scatter(1, order_BV, beyond_BV)] = -torch.inf
        return torch.cat([token_BL, torch.multinomial(logits_BV.softmax(-1), 1)], 1)


@torch.no_grad()
def check_layout() -> None:
    """The loop's logits are those of its tensors, by the formulas of a pre-norm GPT-2 block."""
    model = Uncached(2, 64, 4, 50).eval()
    w = {key: torch.randn_like(tensor) * 0.1 for key, tensor in model.state_dict().items()}
    model.load_state_dict(w)
    token_BL, condition_BE = torch.randint(50, (2, 9)), torch.randn(2, EMBED)

    def norm(x: Tensor, key: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"])

    def linear(x: Tensor, key: str, weight: str = ".weight", bias: str = ".bias") -> Tensor:
        return x @ w[key + weight].T + w[key + bias]

    x = torch.cat([linear(condition_BE, "cond_proj")[:, None], w["tok_emb.weight"][token_BL]], 1) + w["pos_emb"][:, :10]
    for block in ("blocks.0.encoder.", "blocks.1.encoder."):
        q, k, v = linear(norm(x, block + "norm1"), block + "self_attn.in_proj", "_weight", "_bias").chunk(3, -1)
        q, k, v = (t.view(2, 10, 4, 16).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.mT / 4).masked_fill(~torch.ones(10, 10, dtype=torch.bool).tril(), -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 10, 64), block + "self_attn.out_proj")
        x = x + linear(F.gelu(linear(norm(x, block + "norm2"), block + "linear1")), block + "linear2")
    torch.testing.assert_close(model(token_BL, condition_BE), linear(norm(x, "norm"), "head"), atol=1e-5, rtol=1e-5)


def timed(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def uncached_rate(size: tuple[int, int, int], codes: int, batch: int) -> float:
    model, condition_BE = Uncached(*size, codes).eval(), torch.randn(batch, EMBED)
    every = 32 if batch == 32 or size == LARGE else 16
    model.step(torch.randint(codes, (batch, every)), condition_BE)
    lengths = range(every // 2, L, every)
    took = [timed(lambda n=n: model.step(torch.randint(codes, (batch, n)), condition_BE), 1) for n in lengths]
    return batch / statistics.mean(took)


def our_rate(model: Transformer, batch: int, precision: str) -> float:
    asked = conditions(model, batch)
    return batch * L / timed(lambda: generate(prepared(model, precision), *asked, **FILTERS), 2)


def conditions(model: Transformer, batch: int) -> tuple[Tensor, Tensor, range]:
    device = model.place_LD.device
    condition_BE = F.normalize(torch.randn(batch, EMBED, device=device), dim=-1)
    return condition_BE, torch.full((batch,), 0.9, device=device), range(batch)


def steady_rate(model: Transformer, batch: int, **how) -> float:
    """Of a prepared model, a first batch not timed."""
    asked = conditions(model, batch)

    def work() -> None:
        generate(model, *asked, **FILTERS, **how).cpu()

    work()
    return batch * L / timed(work, 3)


def compiled_rate(model: Transformer, batch: int) -> float:
    made = {}

    def fixed(*how) -> FixedStep:
        made[how[:3]] = made.get(how[:3]) or FixedStep(model, *how)
        return made[how[:3]]

    return steady_rate(model, batch, fixed=fixed)


def top_k_only(logits_BV: Tensor, top_k: int, top_p: float | None) -> Tensor:
    return logits_BV.masked_fill(logits_BV < logits_BV.topk(top_k).values[:, -1:], -torch.inf)


def minGPT(size: tuple[int, int, int], codes: int) -> nn.Module:
    sys.modules.setdefault("transformers", types.SimpleNamespace(top_k_top_p_filtering=top_k_only))  # gone from there
    from taming.modules.transformer.mingpt import GPT

    layers, width, heads = size
    return GPT(codes, L, n_layer=layers, n_head=heads, n_embd=width)


def mingpt_rate(size: tuple[int, int, int], codes: int, batch: int) -> float:
    model = minGPT(size, codes).eval()
    from taming.modules.transformer.mingpt import sample_with_past

    def work(steps: int) -> None:
        sample_with_past(torch.zeros(batch, 1, dtype=torch.long), model, steps, top_k=TOP_K)

    work(4)
    return batch * L / timed(lambda: work(L), 1)


def x_transformers_rate(size: tuple[int, int, int], codes: int, batch: int) -> float:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    layers, width, heads = size
    decoder = Decoder(dim=width, depth=layers, heads=heads, attn_dim_head=width // heads, rotary_pos_emb=True)
    model = AutoregressiveWrapper(TransformerWrapper(num_tokens=codes, max_seq_len=L + 1, attn_layers=decoder)).eval()

    def work(steps: int) -> None:
        with torch.inference_mode():
            model.generate(torch.zeros(batch, 1, dtype=torch.long), steps, filter_kwargs={"k": TOP_K}, cache_kv=True)

    work(4)
    return batch * L / timed(lambda: work(L), 1)


def rates_of_the_machine() -> tuple[float, dict[str, float]]:
    """Bytes/s of reading 256 MB; FLOP/s of 2048³ in float32 (packed) and bf16. Each the best of five."""
    long = torch.ones(1 << 26)
    reading = 4 * len(long) / min(timed(long.sum, 1) for _ in range(5))
    linear, x = nn.Linear(2048, 2048, bias=False), torch.randn(2048, 2048)
    pack, half, x_half = PackedLinear(linear), linear.weight.detach().bfloat16(), x.bfloat16()
    products = {"fp32": lambda: pack(x)} | ({"bf16": lambda: x_half @ half} if bf16_pays("cpu") else {})
    return reading, {kind: 2 * 2048**3 / min(timed(work, 1) for _ in range(5)) for kind, work in products.items()}


def limit(model: Transformer, batch: int, precision: str, reading: float, ceilings: dict) -> float:
    """Tokens/s that neither reading nor computing lets one pass."""
    weights = sum(p.numel() for p in (*model.blocks.parameters(), *model.head.parameters()))
    cached = 2 * len(model.blocks) * batch * L / 2 * model.place_LD.shape[1]
    seconds_reading = (weights + cached) * (4 if precision == "fp32" else 2) / reading
    return batch / max(seconds_reading, 2 * batch * weights / ceilings[precision])


def rates_of_a_gpu(device: torch.device) -> tuple[float, dict[str, float]]:
    """Bytes/s of copying 1 GB, read and written; FLOP/s of 8192³ in bf16. Each the best of five."""
    long, other = (torch.zeros(1 << 28, device=device) for _ in range(2))
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)

    def best(work: Callable[[], object]) -> float:
        work()
        return min(timed(lambda: (work(), torch.cuda.synchronize()), 1) for _ in range(5))

    return 8 * len(long) / best(lambda: other.copy_(long)), {"bf16": 2 * 8192**3 / best(lambda: x @ x)}


def rows_of_a_gpu_s_model(device: torch.device) -> Iterator[dict]:
    machine, (layers, width, heads), codes = rates_of_a_gpu(device), LARGE, 16_384
    network = Transformer((16, 16), codes, EMBED, width, layers, heads, n_prefix=1).eval().to(device)
    nn.init.normal_(network.head.weight, std=0.02)
    model = prepared(network, "bf16")
    for batch in (1, 8, 64, 256):
        name = f"sample {layers}×{width}, B={batch} V={codes} bf16, compiled"
        if ONLY in name:
            rates = compiled_rate(model, batch), steady_rate(model, batch)
            yield row(name, "tok/s", *rates, "growing cache", limit(model, batch, "bf16", *machine))


def rows() -> Iterator[dict]:
    check_layout()
    if folder := os.environ.get("X_TRANSFORMERS"):
        sys.path.append(folder)  # behind what clipgen needs
    machine = rates_of_the_machine()
    for size, codes, batches in ((SMALL, 1024, (1, 8, 32)), (SMALL, 16_384, (1, 8, 32)), (LARGE, 16_384, (1, 8))):
        place = "" if size == SMALL else "24×1024, "
        names = {b: f"sample {place}B={b} V={codes}" for b in batches}
        if not any(ONLY in name for name in names.values()):
            continue
        layers, width, heads = size
        model = Transformer((16, 16), codes, EMBED, width, layers, heads, n_prefix=1).eval()
        nn.init.normal_(model.head.weight, std=0.02)
        for batch, name in names.items():
            if ONLY not in name:
                continue
            ours = {kind: our_rate(model, batch, kind) for kind in machine[1]}
            limits = {kind: limit(model, batch, kind, *machine) for kind in ours}
            slow = uncached_rate(size, codes, batch)
            for kind, rate in ours.items():
                yield row(f"{name} {kind}", "tok/s", rate, slow, "uncached, fp32", limits[kind])
                one_graph = compiled_rate(prepared(model, kind), batch)
                yield row(f"{name} {kind}, compiled", "tok/s", one_graph, slow, "uncached, fp32", limits[kind])
            peers = {"minGPT with past": mingpt_rate}
            peers |= {"x-transformers": x_transformers_rate} if folder else {}
            for peer, rate_of in peers.items():
                rate = rate_of(size, codes, batch)
                yield row(f"{name} fp32, {peer}", "tok/s", ours["fp32"], rate, peer, limits["fp32"])
    if not folder:
        print("x-transformers was not measured: X_TRANSFORMERS is not set")


def rows_here() -> Iterator[dict]:
    torch.manual_seed(0)
    device = pick_device("auto")
    return rows_of_a_gpu_s_model(device) if device.type == "cuda" else rows()


if __name__ == "__main__":
    show(rows_here, "Sampling image tokens, 256 a picture, no guidance")
