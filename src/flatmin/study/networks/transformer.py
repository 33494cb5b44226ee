"""Transformers: for small images, and for text by characters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PATCH, WIDTH, DEPTH, HEADS = 4, 192, 6, 3


def small_vit(channels: int, classes: int, image_size: int) -> nn.Module:
    """Patches of 4x4 pixels, 6 blocks of width 192 with 3 heads: 2,693,194 parameters for 32x32 RGB and 10 classes.

    As in Dosovitskiy et al., 2021, arXiv 2010.11929, with the mean over patches instead of a class token, and without
    dropout. Linear layers and position embeddings are initialised from a normal distribution of deviation 0.02,
    truncated at two deviations; biases from 0.

    Raises:
        ValueError: `image_size` is not a multiple of 4.
    """
    if image_size % PATCH:
        up = image_size + -image_size % PATCH
        raise ValueError(f"model: small-vit needs an image_size that {PATCH} divides, got {image_size}; set it to {up}")
    return _initialised(Transformer(channels, classes, image_size))


def character_transformer(characters: int, context: int, width: int, depth: int) -> nn.Module:
    """A transformer that predicts the next character: 12 depth width² weights in its blocks, and few besides.

    Pre-norm, with learnt positions, a head of attention for each 32 of the width, a causal mask, no dropout: as GPT-2
    (Radford et al., 2019), with an output layer of its own. It is initialised as `small_vit`.

    Args:
        characters: of the alphabet.
        context: the longest input.
        width: a multiple of 32.
        depth: number of blocks.
    """
    return _initialised(CharacterTransformer(characters, context, width, depth))


def _initialised(net: nn.Module) -> nn.Module:
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return net


class Transformer(nn.Module):
    """Patch embedding, position embedding, blocks, the mean over patches, a linear layer."""

    def __init__(self, channels: int, classes: int, image_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.empty(1, (image_size // PATCH) ** 2, WIDTH))
        blocks = (TransformerBlock(WIDTH, HEADS) for _ in range(DEPTH))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, size, size) -> (n, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (n, patches, width)
        logits: Tensor = self.head(self.blocks(tokens + self.positions).mean(1))
        return logits


class CharacterTransformer(nn.Module):
    """Embedding of characters and positions, causal blocks, a linear layer."""

    def __init__(self, characters: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        blocks = (TransformerBlock(width, width // 32, causal=True) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length) int64 -> logits of each next character, (n, length, characters); length <= context."""
        logits: Tensor = self.head(self.blocks(self.characters(x) + self.positions[: x.shape[1]]))
        return logits


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads, causal=causal))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width), in and out."""
        x = x + self.attention(x)
        x = x + self.mlp(x)
        return x


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v, unfused: torch's fused kernels have no second derivative, which a Hessian needs."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width), in and out."""
        n, length, width = x.shape
        qkv = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, length, width / heads)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        mixed: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed
