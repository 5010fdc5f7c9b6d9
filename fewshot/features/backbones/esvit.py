"""Self-supervised Swin Transformers from the published checkpoints of EsViT and CMD, on timm's network.

The sizes are read off the weights, every tensor of the file must be known, and the network takes all of its own or
none. At the size of training the outputs are those of the original code to float32 rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import check_fits, load_state_dict_file, load_strictly
from fewshot.features.backbones.swin_layouts import (
    SwinArchitecture,
    named_swin,
    original_name,
    read_swin_layout,
    swin_architecture_of,
)
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["NORM_EPS", "SWIN_RECIPES", "SwinFeatures", "build_esvit", "load_original"]

# Of every LayerNorm in EsViT; timm's Swin has 1e-5.
NORM_EPS = 1e-6
_N_LAST = 4


def _mean(swin: Any, images: Tensor) -> Tensor:
    tokens: Tensor = swin.forward_features(images)
    return tokens.mean((1, 2))


def _last4_mean(swin: Any, images: Tensor) -> Tensor:
    maps, last = swin.patch_embed(images), len(swin.layers) - 1
    means = []
    for index, stage in enumerate(swin.layers):
        maps = stage.downsample(maps)
        for block in stage.blocks:
            maps = block(maps)
            means.append((swin.norm(maps) if index == last else maps).mean((1, 2)))
    return torch.cat(means[-_N_LAST:], dim=1)


SWIN_RECIPES: dict[str, Callable[[Any, Tensor], Tensor]] = {"mean": _mean, "last4-mean": _last4_mean}


class SwinFeatures(nn.Module):
    """A Swin Transformer of timm's, read by a recipe; see `build_esvit`."""

    def __init__(self, swin: nn.Module, recipe: str) -> None:
        super().__init__()
        self.swin = swin
        self.recipe = recipe

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, n_features) of normalised images (b, 3, size, size)."""
        return SWIN_RECIPES[self.recipe](self.swin, images)


def build_esvit(
    name: str | None,
    weights: str | os.PathLike[str] | None,
    *,
    recipe: str = "mean",
    size: int = 0,
    checkpoint_key: str = "teacher",
    seed: int = 0,
) -> Built:
    """Build a Swin Transformer of EsViT or CMD.

    Parameters
    ----------
    name
        ``swin_tiny``, ``swin_base_window14`` or their like; None takes what the weights say, which must agree with a
        name that is given.
    weights
        A file: a whole training state, with or without the region head, or the backbone alone. ``random``
        initialises the network of that name.
    recipe
        - ``mean``: the mean of the last stage's tokens after the last LayerNorm, 768 numbers of Swin-T. Published k-NN
          and retrieval results.
        - ``last4-mean``: the means of the last four blocks' tokens, in their order, of which the last stage's go
          through the LayerNorm: 384 + 384 + 768 + 768 numbers of Swin-T. Published linear results.
    size
        Height and width of the input in pixels; 0 for the one of which the last stage makes a single window, 224 for
        every published checkpoint. Images are resized, bicubic, to 8/7 of it and their center is cut out.
    checkpoint_key
        ``teacher`` or ``student`` of a whole training state; other files do not have a choice.
    seed
        Of the random initialisation.

    Returns
    -------
    Built

    Raises
    ------
    ValueError
        If an option is unknown, or the weights are no Swin of EsViT or CMD, or not of this name.
    FileNotFoundError
        If there is no such file.
    ImportError
        If timm or torchvision is missing.

    Notes
    -----
    The windows are those of training at every size. Where a map is no multiple of its window, which at the size of
    training it is, EsViT pads and then shifts, timm shifts and then pads: features differ.

    Source
    ------
    [ESVIT] [CMD] Released codes (``forward_return_n_last_blocks``, ``eval_knn.py``); EsViT's under MIT, CMD's without
    a licence.
    """
    check_choice("recipe", recipe, SWIN_RECIPES)
    state, architecture, layout = _weights(name, weights, checkpoint_key)
    side = size or architecture.size
    _check_fits(architecture, recipe, side)
    swin = _new_swin(architecture, seed)
    if weights != "random":
        load_original(swin, state, f"{weights}")
    return Built(
        SwinFeatures(swin, recipe),
        Preprocess(size=(side, side)),
        {"family": "esvit", "name": f"esvit:{architecture}", "recipe": recipe},
        {"architecture": f"{architecture}", "layout": layout, "weights": f"{weights}", "licence": "MIT (EsViT's code)"},
    )


def _weights(
    name: str | None, weights: str | os.PathLike[str] | None, checkpoint_key: str
) -> tuple[dict[str, Tensor], SwinArchitecture, str]:
    """Return the Swin's tensors (none if they are random), its sizes, and the kind of file they come from."""
    if weights is None:
        raise ValueError("esvit needs weights: give a published checkpoint, or 'random' with a name like swin_tiny")
    if weights == "random":
        if name is None:
            raise ValueError("random weights need a name such as esvit:swin_tiny, got none: nothing else says it")
        return {}, named_swin(name), "random initialisation"
    state, layout = read_swin_layout(load_state_dict_file(weights), checkpoint_key, f"{weights}")
    architecture = swin_architecture_of(state, f"{weights}")
    if name is not None:
        _check_name(name, architecture, f"{weights}")
    return state, architecture, layout


def _new_swin(architecture: SwinArchitecture, seed: int) -> nn.Module:
    """Build timm's Swin Transformer, initialised under a seed that touches no other draw."""
    require_torchvision("timm")
    try:
        from timm.models.swin_transformer import SwinTransformer
    except ModuleNotFoundError as error:
        raise ImportError('published Swin Transformers need timm: pip install "fewshot[images]"') from error

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        swin: nn.Module = SwinTransformer(
            img_size=architecture.size,
            patch_size=architecture.patch,
            embed_dim=architecture.width,
            depths=architecture.depths,
            num_heads=architecture.heads,
            window_size=architecture.windows[0],
            num_classes=0,
            drop_path_rate=0.0,
            norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
            strict_img_size=False,
        )
    return swin


def load_original(swin: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy a Swin's tensors under their original names into timm's network, all of them or none.

    Raises
    ------
    ValueError
        If a tensor is missing, left over or of another shape; the message has the original names.
    """
    convert = import_module("timm.models.swin_transformer").checkpoint_filter_fn
    check_fits({original_name(name): tensor for name, tensor in swin.state_dict().items()}, state, what)
    load_strictly(swin, convert(dict(state), swin), what)


def _check_name(name: str, found: SwinArchitecture, what: str) -> None:
    named = named_swin(name)
    agrees = named == found if "_window" in name else named[:3] == found[:3]
    if not agrees:
        raise ValueError(f"{what}: expected {name}, got {found}: leave the name out, or choose another file")


def _check_fits(architecture: SwinArchitecture, recipe: str, size: int) -> None:
    n_blocks = sum(architecture.depths)
    if recipe == "last4-mean" and n_blocks < _N_LAST:
        raise ValueError(f"recipe 'last4-mean' needs at least {_N_LAST} blocks, got {n_blocks}: use 'mean'")
    if size < 1 or size % architecture.patch:
        raise ValueError(f"size must be a multiple of the patch's {architecture.patch} pixels, got {size}")
