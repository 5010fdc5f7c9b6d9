"""Tiny CLIP networks as folders that open_clip itself writes and reads."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from fewshot.features.backbones.torchvision_gate import ensure_torchvision

ensure_torchvision()
open_clip = pytest.importorskip("open_clip", reason="the networks are open_clip's")

MEAN, STD, SIZE, WIDTH, JOINT = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 24, 64, 20
CLASSES = ("cat", "golden retriever", "{odd} name")
CONFIG = {
    "embed_dim": JOINT,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": WIDTH, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 13, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "shortest"}


def write_folder(folder, config=CONFIG, preprocess=PREPROCESS, seed=0):
    """A folder as open_clip writes them, with random weights."""
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    kind = open_clip.CustomTextCLIP if "custom_text" in config else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(**{key: value for key, value in copy.deepcopy(config).items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def images(n=3, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def run(built, inputs):
    with torch.inference_mode():
        return built.network.eval()(inputs)


def raises(kind, message, call, *arguments, **options):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call(*arguments, **options)
