"""A Swin Transformer as loops over tokens, windows and heads, in float64: what checkpoints of EsViT and CMD must give.

Patches through a LayerNorm; blocks x + attention(norm1 x), then x + mlp(norm2 x), of which every second looks at
windows shifted by half their side where a stage has more than one window; a stage ends by merging 2 x 2 tokens, in the
order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column), through a LayerNorm and a linear layer; LayerNorm has eps 1e-6
(``shared/reference/distillation.md``, 1.2 to 1.4 and 3.1). It reads a state under the original names and imports
nothing of the library, nor timm.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference.vit_loop import gelu, layer_norm


def patch_map(state, image):
    """Each patch times the kernel, through the patch norm: (rows, columns, width)."""
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patch = kernel.shape[2]
    side = image.shape[1] // patch
    rows = []
    for row in range(side):
        cells = []
        for column in range(side):
            block = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            token = kernel.reshape(len(kernel), -1) @ block.reshape(-1) + bias
            cells.append(layer_norm(token, state["patch_embed.norm.weight"], state["patch_embed.norm.bias"]))
        rows.append(cells)
    return np.array(rows)


def place(position, side, window, shift):
    """Where a row (or column) stands once the map is rolled back by the shift: window, region, place in the window.

    Tokens that were rolled over the edge are in the same window as others from far away, and do not look at these: the
    region tells them apart.
    """
    rolled = (position - shift) % side
    region = 0 if shift == 0 or rolled < side - window else 1 if rolled < side - shift else 2
    return rolled // window, region, rolled % window


def attention(state, prefix, tokens, window, shift):
    """Every head of every token: softmax, over its window's tokens, of q k / sqrt(e) + bias, times v; projected."""
    side, width = tokens.shape[0], tokens.shape[2]
    table = state[f"{prefix}.relative_position_bias_table"]
    n_heads = table.shape[1]
    head = width // n_heads
    places = [place(position, side, window, shift) for position in range(side)]
    cells = [(row, column) for row in range(side) for column in range(side)]
    qkv = {cell: state[f"{prefix}.qkv.weight"] @ tokens[cell] + state[f"{prefix}.qkv.bias"] for cell in cells}
    output = np.zeros_like(tokens)
    for query in cells:
        seen = [key for key in cells if all(places[a][:2] == places[b][:2] for a, b in zip(query, key, strict=True))]
        mixed = []
        for index in range(n_heads):
            part = slice(index * head, (index + 1) * head)
            scores = []
            for key in seen:
                down, right = (places[a][2] - places[b][2] + window - 1 for a, b in zip(query, key, strict=True))
                product = qkv[query][:width][part] @ qkv[key][width : 2 * width][part] / math.sqrt(head)
                scores.append(product + table[down * (2 * window - 1) + right, index])
            weights = np.exp(np.array(scores) - max(scores))
            values = [qkv[key][2 * width :][part] for key in seen]
            mixed.append(sum(weight * value for weight, value in zip(weights / weights.sum(), values, strict=True)))
        output[query] = state[f"{prefix}.proj.weight"] @ np.concatenate(mixed) + state[f"{prefix}.proj.bias"]
    return output


def each(function, tokens):
    return np.array([[function(token) for token in row] for row in tokens])


def norm(state, prefix, tokens):
    return each(lambda token: layer_norm(token, state[f"{prefix}.weight"], state[f"{prefix}.bias"]), tokens)


def block(state, prefix, tokens, window, shift):
    """x + attention(norm1 x), then x + mlp(norm2 x)."""
    tokens = tokens + attention(state, f"{prefix}.attn", norm(state, f"{prefix}.norm1", tokens), window, shift)

    def mlp(token):
        hidden = gelu(state[f"{prefix}.mlp.fc1.weight"] @ token + state[f"{prefix}.mlp.fc1.bias"])
        return state[f"{prefix}.mlp.fc2.weight"] @ hidden + state[f"{prefix}.mlp.fc2.bias"]

    return tokens + each(mlp, norm(state, f"{prefix}.norm2", tokens))


def merge(state, prefix, tokens):
    """Four neighbours side by side, through a LayerNorm and a linear layer."""
    four = np.concatenate([tokens[row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))], axis=2)
    return each(lambda token: state[f"{prefix}.reduction.weight"] @ token, norm(state, f"{prefix}.norm", four))


def maps_of_blocks(state, image, window):
    """For every block its map (rows, columns, width), through the last LayerNorm if it is of the last stage.

    ``state`` maps original names to tensors or arrays; ``image`` is (3, size, size), normalised; ``window`` is that of
    training: a stage has no window larger than its map.
    """
    state = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
    places = sorted({tuple(map(int, name.split(".")[1:4:2])) for name in state if ".blocks." in name})
    tokens = patch_map(state, np.asarray(image, dtype=np.float64))
    last = places[-1][0]
    outputs = []
    for stage, index in places:
        if index == 0 and stage > 0:
            tokens = merge(state, f"layers.{stage - 1}.downsample", tokens)
        side = tokens.shape[0]
        shift = window // 2 if index % 2 and side > window else 0
        tokens = block(state, f"layers.{stage}.blocks.{index}", tokens, min(window, side), shift)
        outputs.append(norm(state, "norm", tokens) if stage == last else tokens)
    return outputs
