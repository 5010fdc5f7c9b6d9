"""A diffusion network small enough for tests, its files, and images for it."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from fewshot.features.diffusion.config import UNetConfig
from fewshot.features.diffusion.network import build_adm
from fewshot.features.diffusion.unet import UNet

TINY = UNetConfig(
    image_size=8,
    num_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_head_channels=16,
    learn_sigma=False,
)  # blocks: 1 conv, 2 res, 3 down, 4 res + attention, 5 middle, 6, 7 (up), 8, 9


def write_tiny(folder):
    """Write the config, ``tiny.json``, and the same weights as ``tiny.pt`` and ``tiny.safetensors``."""
    (folder / "tiny.json").write_text(json.dumps(TINY.spec()))
    weights = fresh_network(TINY).state_dict()
    torch.save(weights, folder / "tiny.pt")
    save_file(weights, folder / "tiny.safetensors")
    return folder


def fresh_network(config, seed=0):
    """The same network each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(config)


def images(n=5, side=8, seed=0):
    """8-bit images, (n, 3, side, side) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, side, side), generator=generator).float() / 127.5 - 1


def tiny(folder, weights="tiny.safetensors", **options):
    """The features of block 7, unless the options say otherwise."""
    path = "random" if weights == "random" else folder / weights
    return build_adm(None, path, config=str(folder / "tiny.json"), **{"layers": ("7",), **options})


def features(built, inputs):
    """What the network of an extractor makes of normalised images."""
    with torch.inference_mode():
        return built.network(inputs)
