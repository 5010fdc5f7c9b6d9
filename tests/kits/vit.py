"""Tiny checkpoints in the layouts of Mugs, DINO and iBOT, put together from modules as in the released code."""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np
import torch
from torch import nn

WIDTH, DEPTH, PATCH, SIDE = 64, 2, 8, 3
SIZE = PATCH * SIDE


class Block(nn.Module):
    """The parameters of a transformer block."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})


class Backbone(nn.Module):
    """The parameters of a ViT, with a relation block (Mugs) or a mask token (iBOT's student) if wanted."""

    def __init__(self, width, depth, patch, side, *, relation=False, mask=False):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if relation:
            self.relation_blocks = nn.ModuleList([Block(width)])
        if mask:
            self.masked_embed = nn.Parameter(torch.zeros(1, width))


class WeightNorm(nn.Module):
    """A weight-normalised linear layer under its old names."""

    def __init__(self):
        super().__init__()
        self.weight_g, self.weight_v = nn.Parameter(torch.ones(11, 1)), nn.Parameter(torch.zeros(11, 6))


def mlp(width, n_layers, bias):
    """Linear and GELU in turn; GELU has no parameters but counts."""
    sizes = [width, *[10] * (n_layers - 1), 6]
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out, bias=bias), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def dino_head(width, *, ibot=False):
    head = nn.ModuleDict({"mlp": mlp(width, 3, bias=True), "last_layer": WeightNorm()})
    if ibot:
        head["last_layer2"] = head["last_layer"]
    return head


def mugs_heads(width, *, student):
    def instance():
        head = nn.ModuleDict({"projector": mlp(width, 3, bias=False)})
        return head if not student else nn.ModuleDict({**head, "predictor": mlp(6, 2, bias=False)})

    group = nn.ModuleDict({"projector": mlp(width, 3, bias=True), "last_layer": WeightNorm()})
    return {"instance_head": instance(), "local_group_head": instance(), "group_head": group}


def random_state(module, seed):
    """The module's state with numbers of about the size of a trained network's, distinct for every name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.15 * torch.randn(value.shape, generator=generator) + ("norm" in name and name.endswith("weight"))
        for name, value in module.state_dict().items()
    }


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def training_state(teacher, student, **others):
    """A whole training state: student under DataParallel, optimiser with a NumPy learning rate, arguments."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": np.float64(1e-3)}]}
    args = argparse.Namespace(arch="vit_small", patch_size=PATCH, local_crops_scale=(0.05, 0.4))
    return {
        "student": prefixed(student, "module."),
        "teacher": teacher,
        "optimizer": optimizer,
        "epoch": 7,
        "args": args,
        **others,
    }


def backbone_state(seed=0, width=WIDTH, depth=DEPTH, patch=PATCH, side=SIDE, **extras):
    return random_state(Backbone(width, depth, patch, side, **extras), seed)


def wrapped_state(seed, heads, **extras):
    return random_state(nn.ModuleDict({"backbone": Backbone(WIDTH, DEPTH, PATCH, SIDE, **extras), **heads}), seed)


def mugs_training():
    memory = {"block.queue_q": torch.zeros(5, WIDTH), "block.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return training_state(
        wrapped_state(1, mugs_heads(WIDTH, student=False), relation=True),
        wrapped_state(2, mugs_heads(WIDTH, student=True), relation=True),
        **{"student_mem": memory, "teacher_mem": memory, "group-sup.": {"center": torch.zeros(1, 11)}},
    )


def dino_training():
    head = {"head": dino_head(WIDTH)}
    return training_state(wrapped_state(1, head), wrapped_state(2, head), dino_loss={"center": torch.zeros(1, 11)})


def ibot_training():
    head = {"head": dino_head(WIDTH, ibot=True)}
    loss = {"center": torch.zeros(1, 11), "center2": torch.zeros(1, 1, 11)}
    return training_state(wrapped_state(1, head), wrapped_state(2, head, mask=True), ibot_loss=loss)


# Family, checkpoint, key and the layout's name.
LAYOUTS = {
    "mugs backbone": ("mugs", lambda: {"state_dict": backbone_state(relation=True)}, "teacher", "Mugs backbone"),
    "mugs extracted": ("mugs", lambda: backbone_state(relation=True), "teacher", "Mugs backbone"),
    "mugs teacher": ("mugs", mugs_training, "teacher", "Mugs training, teacher"),
    "mugs student": ("mugs", mugs_training, "student", "Mugs training, student"),
    "dino backbone": ("dino", backbone_state, "teacher", "DINO backbone"),
    "dino teacher": ("dino", dino_training, "teacher", "DINO training"),
    "dino student": ("dino", dino_training, "student", "DINO training"),
    "ibot backbone": ("ibot", lambda: {"state_dict": backbone_state()}, "teacher", "iBOT backbone"),
    "ibot student backbone": (
        "ibot",
        lambda: {"state_dict": backbone_state(mask=True)},
        "teacher",
        "iBOT backbone, student",
    ),
    "ibot teacher": ("ibot", ibot_training, "teacher", "iBOT training, teacher"),
    "ibot student": ("ibot", ibot_training, "student", "iBOT training, student"),
}


def own_state(checkpoint, key):
    """The ViT's own tensors of a checkpoint, by the names that the modules above give them."""
    state = checkpoint.get(key, checkpoint.get("state_dict", checkpoint))
    own = Backbone(WIDTH, DEPTH, PATCH, SIDE).state_dict()
    for prefix in ("module.backbone.", "backbone.", ""):
        if f"{prefix}cls_token" in state:
            return {name: state[f"{prefix}{name}"] for name in own}
    raise AssertionError("no ViT in the checkpoint")
