"""Tiny checkpoints in the layouts of EsViT and CMD, put together from modules as in the released code."""

from __future__ import annotations

import torch
from torch import nn

from tests.kits.vit import Block, dino_head, prefixed, random_state, training_state

WIDTH, DEPTHS, HEADS, WINDOW, PATCH, SIZE = 8, (2, 1, 2), (2, 1, 4), 4, 3, 24
GRIDS = tuple(SIZE // PATCH // 2**stage for stage in range(len(DEPTHS)))
# The last stage's map is smaller than the window of training.
WINDOWS = tuple(min(WINDOW, grid) for grid in GRIDS)
N_FEATURES = WIDTH * 4


class SwinBlock(Block):
    """The parameters of a Swin block and the buffers that the original keeps, whose values nobody should read."""

    def __init__(self, width, n_heads, window, is_shifted):
        super().__init__(width)
        self.attn.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, n_heads))
        self.attn.register_buffer("relative_position_index", torch.full((window**2, window**2), -1))
        if is_shifted:
            self.register_buffer("attn_mask", torch.full((4, window**2, window**2), torch.nan))


class Stage(nn.Module):
    """Blocks, then a merge of 2 x 2 tokens, but for the last."""

    def __init__(self, width, depth, n_heads, window, *, is_last, is_shifted):
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(width, n_heads, window, is_shifted and i % 2 == 1) for i in range(depth))
        if not is_last:
            layers = {"reduction": nn.Linear(4 * width, 2 * width, bias=False), "norm": nn.LayerNorm(4 * width)}
            self.downsample = nn.ModuleDict(layers)


class Swin(nn.Module):
    """The parameters of a Swin Transformer under its original names, with heads if wanted."""

    def __init__(self, width=WIDTH, depths=DEPTHS, heads=HEADS, windows=WINDOWS, patch=PATCH, **hanging):
        super().__init__()
        last = len(depths) - 1
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch), "norm": nn.LayerNorm(width)})
        self.layers = nn.ModuleList(
            Stage(width * 2**i, depth, heads[i], windows[i], is_last=i == last, is_shifted=i == 0)
            for i, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(width * 2**last)
        for name, head in hanging.items():
            setattr(self, name, head)


def swin_state(seed=0, **options):
    """The tensors of a Swin; buffers keep their values."""
    swin = Swin(**options)
    buffers = dict(swin.named_buffers())
    state = random_state(swin, seed)
    return {name: buffers.get(name, value) for name, value in state.items()}


def both_heads():
    return {"head": dino_head(N_FEATURES), "head_dense": dino_head(N_FEATURES)}


def esvit_training():
    loss = {"center": torch.zeros(1, 11), "center_grid": torch.zeros(1, 11)}
    return training_state(swin_state(1, **both_heads()), swin_state(2, **both_heads()), dino_loss=loss)


def views_training():
    head = {"head": dino_head(N_FEATURES)}
    return training_state(swin_state(3, **head), swin_state(4, **head), dino_loss={"center": torch.zeros(1, 11)})


# Checkpoint, key and the layout's name.
SWIN_LAYOUTS = {
    "teacher": (esvit_training, "teacher", "EsViT training"),
    "student": (esvit_training, "student", "EsViT training"),
    "views alone": (views_training, "teacher", "EsViT training, views alone"),
    "backbone": (lambda: {"state_dict": swin_state()}, "teacher", "EsViT backbone"),
    "as in a wrapper": (lambda: prefixed(swin_state(5), "module.backbone."), "teacher", "EsViT backbone"),
}


def own_swin(checkpoint, key):
    """The Swin's own parameters of a checkpoint, by the names that the modules above give them."""
    state = checkpoint.get(key, checkpoint.get("state_dict", checkpoint))
    own = dict(Swin().named_parameters())
    prefix = next(prefix for prefix in ("module.backbone.", "module.", "") if f"{prefix}norm.bias" in state)
    return {name: state[f"{prefix}{name}"] for name in own}
