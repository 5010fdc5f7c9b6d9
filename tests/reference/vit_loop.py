"""A plain ViT as loops over tokens and heads, in float64: what published checkpoints must give.

Pre-norm blocks, learned positions, one class token, heads of 64 channels, GELU by the error function, LayerNorm with
eps 1e-6 (``shared/reference/distillation.md``, 3.1). It reads a state under timm's names and imports nothing of the
library, nor timm.
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-6
HEAD_WIDTH = 64


def layer_norm(x, weight, bias):
    """(x - mean) / sqrt(var + eps) of one token, scaled and shifted."""
    centered = x - x.mean()
    return centered / math.sqrt((centered**2).mean() + EPS) * weight + bias


def gelu(x):
    """x Phi(x), Phi the normal distribution's."""
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def patch_tokens(state, image):
    """Each patch, row by row, times the kernel."""
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patch = kernel.shape[2]
    n_rows, n_columns = image.shape[1] // patch, image.shape[2] // patch
    tokens = []
    for row in range(n_rows):
        for column in range(n_columns):
            block = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append(kernel.reshape(len(kernel), -1) @ block.reshape(-1) + bias)
    return tokens


def attention(state, prefix, tokens):
    """Every head of every token: softmax over tokens of q k / sqrt(64), times v; then the projection."""
    width = len(tokens[0])
    qkv = [state[f"{prefix}.qkv.weight"] @ token + state[f"{prefix}.qkv.bias"] for token in tokens]
    mixed = []
    for query in qkv:
        parts = []
        for start in range(0, width, HEAD_WIDTH):
            q = query[start : start + HEAD_WIDTH]
            keys = [other[width + start : width + start + HEAD_WIDTH] for other in qkv]
            values = [other[2 * width + start : 2 * width + start + HEAD_WIDTH] for other in qkv]
            scores = np.array([q @ key / math.sqrt(HEAD_WIDTH) for key in keys])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            parts.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        mixed.append(np.concatenate(parts))
    return [state[f"{prefix}.proj.weight"] @ token + state[f"{prefix}.proj.bias"] for token in mixed]


def block(state, prefix, tokens):
    """x + attention(norm1 x), then x + mlp(norm2 x)."""
    normed = [layer_norm(token, state[f"{prefix}.norm1.weight"], state[f"{prefix}.norm1.bias"]) for token in tokens]
    tokens = [token + update for token, update in zip(tokens, attention(state, f"{prefix}.attn", normed), strict=True)]
    result = []
    for token in tokens:
        hidden = layer_norm(token, state[f"{prefix}.norm2.weight"], state[f"{prefix}.norm2.bias"])
        hidden = gelu(state[f"{prefix}.mlp.fc1.weight"] @ hidden + state[f"{prefix}.mlp.fc1.bias"])
        result.append(token + state[f"{prefix}.mlp.fc2.weight"] @ hidden + state[f"{prefix}.mlp.fc2.bias"])
    return result


def normed_tokens_of_blocks(state, image):
    """For every block, its tokens (1 + n_patches, width) after the network's last LayerNorm.

    ``state`` maps names to tensors or arrays; ``image`` is (3, height, width), normalised.
    """
    state = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
    tokens = [state["cls_token"][0, 0], *patch_tokens(state, np.asarray(image, dtype=np.float64))]
    tokens = [token + position for token, position in zip(tokens, state["pos_embed"][0], strict=True)]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    outputs = []
    for index in range(depth):
        tokens = block(state, f"blocks.{index}", tokens)
        outputs.append(np.stack([layer_norm(t, state["norm.weight"], state["norm.bias"]) for t in tokens]))
    return outputs
