"""The Transformer of HFAiLab's clip-gen, small: written from the layout of its checkpoint, as the reference."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedBlock(nn.Module):
    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.1, activation=F.gelu, batch_first=True, norm_first=True
        )
        self.register_buffer("mask", ~torch.ones(length, length, dtype=torch.bool).tril())

    def forward(self, x_BTD: Tensor) -> Tensor:
        T = x_BTD.shape[1]
        return self.encoder(x_BTD, self.mask[:T, :T])


class PublishedGPT(nn.Module):
    """Codes (B, T) before the one to come, embeddings (B, E) → logits (B, T + 1, V)."""

    def __init__(self, vocabulary: int, depth: int, width: int, heads: int, length: int, embed_dim: int):
        super().__init__()
        self.tok_emb = nn.Embedding(vocabulary, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, length, width))
        self.cond_proj = nn.Linear(embed_dim, width)
        self.blocks = nn.Sequential(*(PublishedBlock(width, heads, length) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens_BT: Tensor, embedding_BE: Tensor) -> Tensor:
        x_BTD = torch.cat([self.cond_proj(embedding_BE)[:, None], self.tok_emb(tokens_BT)], 1)
        return self.head(self.norm(self.blocks(x_BTD + self.pos_emb[:, : x_BTD.shape[1]])))


def published_gpt(vocabulary=30, depth=2, width=128, length=16, embed_dim=8) -> PublishedGPT:
    """Every weight random, those that begin at 0 or 1 too; heads of 64 as in both published sizes."""
    torch.manual_seed(0)
    model = PublishedGPT(vocabulary, depth, width, width // 64, length, embed_dim).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
