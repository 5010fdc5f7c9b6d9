"""Self-supervised ViTs from the published checkpoints of Mugs, DINO and iBOT, on timm's network.

The sizes are read off the weights, every tensor of the file must be known, and the network takes all of its own or
none. At 224 pixels the outputs are those of the original code to float32 rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import load_state_dict_file, load_strictly
from fewshot.features.backbones.position_embedding import POSITION_RULES, resize_position_embedding
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.backbones.vit_layouts import Architecture, architecture_of, named_architecture, read_layout
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["RECIPES", "VitFeatures", "build_dino", "build_ibot", "build_mugs", "build_vit"]

_N_LAST = 4


def _cls(vit: Any, images: Tensor) -> Tensor:
    tokens: Tensor = vit.forward_features(images)
    return tokens[:, 0]


def _last4_cls(vit: Any, images: Tensor) -> Tensor:
    blocks = vit.forward_intermediates(
        images, _N_LAST, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    return torch.cat([prefix[:, 0] for _, prefix in blocks], dim=1)


def _cls_and_mean_patch(vit: Any, images: Tensor) -> Tensor:
    tokens: Tensor = vit.forward_features(images)
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)


RECIPES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "cls": _cls,
    "last4-cls": _last4_cls,
    "cls+mean_patch": _cls_and_mean_patch,
}


class VitFeatures(nn.Module):
    """A ViT of timm's, read by a recipe; see `build_vit`."""

    def __init__(self, vit: nn.Module, recipe: str) -> None:
        super().__init__()
        self.vit = vit
        self.recipe = recipe

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, n_features) of normalised images (b, 3, size, size)."""
        return RECIPES[self.recipe](self.vit, images)


def build_vit(
    family: str,
    name: str | None,
    weights: str | os.PathLike[str] | None,
    *,
    recipe: str = "cls",
    size: int = 224,
    position: str = "dino",
    checkpoint_key: str = "teacher",
    seed: int = 0,
) -> Built:
    """Build a ViT of a family.

    Parameters
    ----------
    family
        ``mugs``, ``dino`` or ``ibot``: whose files are accepted.
    name
        ``vit_small``, ``vit_base_patch8`` or their like; None takes what the weights say, which must agree with a
        name that is given.
    weights
        A file: backbone or whole training state, ``.pth`` or ``.safetensors``. ``random`` initialises the network
        of that name.
    recipe
        After the last LayerNorm:

        - ``cls``: the class token. Published k-NN results.
        - ``last4-cls``: the class tokens of the last four blocks, in their order. Linear results of ViT-S.
        - ``cls+mean_patch``: the class token, then the mean of the patch tokens. Linear results of ViT-B and L;
          DINO and Mugs interleave the two for ViT-B, which is the same up to the order of the columns.
    size
        Height and width of the network's input in pixels. Images are resized, bicubic, to 8/7 of it and their center
        is cut out, as those repositories evaluate.
    position
        How position embeddings are resized if ``size`` is not that of training; see `resize_position_embedding`.
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
        If an option is unknown, or the weights are not a ViT of this family and name.
    FileNotFoundError
        If there is no such file.
    ImportError
        If timm or torchvision is missing.

    Source
    ------
    [MUGS] [DINO] [IBOT] Evaluation scripts and readmes; checkpoints under Apache-2.0.
    """
    check_choice("recipe", recipe, RECIPES)
    check_choice("rule of position embeddings", position, POSITION_RULES)
    state, architecture, layout = _weights(family, name, weights, checkpoint_key)
    _check_fits(architecture, recipe, size)
    vit = _new_vit(architecture, size, seed)
    if weights != "random":
        grid = (size // architecture.patch, size // architecture.patch)
        embedding = resize_position_embedding(state["pos_embed"], grid, position)
        load_strictly(vit, {**state, "pos_embed": embedding}, f"{weights}")
    return Built(
        VitFeatures(vit, recipe),
        Preprocess(size=(size, size)),
        {"family": family, "name": f"{family}:{architecture}", "recipe": recipe},
        {"architecture": f"{architecture}", "layout": layout, "weights": f"{weights}", "licence": "Apache-2.0"},
    )


# Each takes its own family's checkpoints only, published or one's own.
build_mugs = partial(build_vit, "mugs")
build_dino = partial(build_vit, "dino")
build_ibot = partial(build_vit, "ibot")


def _weights(
    family: str, name: str | None, weights: str | os.PathLike[str] | None, checkpoint_key: str
) -> tuple[dict[str, Tensor], Architecture, str]:
    """Return the ViT's tensors (none if they are random), its sizes, and the kind of file they come from."""
    if weights is None:
        raise ValueError(f"{family} needs weights: give a published checkpoint, or 'random' with a name like vit_small")
    if weights == "random":
        if name is None:
            raise ValueError(f"random weights need a name such as {family}:vit_small, got none: nothing else says it")
        return {}, named_architecture(name), "random initialisation"
    state, layout = read_layout(load_state_dict_file(weights), family, checkpoint_key, f"{weights}")
    architecture = architecture_of(state, f"{weights}")
    if name is not None:
        _check_name(name, architecture, f"{weights}")
    return state, architecture, layout.name


def _new_vit(architecture: Architecture, size: int, seed: int) -> nn.Module:
    """Build timm's ViT, initialised under a seed that touches no other draw."""
    require_torchvision("timm")
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError as error:
        raise ImportError('published ViTs need timm: pip install "fewshot[images]"') from error

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        vit: nn.Module = VisionTransformer(
            img_size=size,
            patch_size=architecture.patch,
            embed_dim=architecture.width,
            depth=architecture.depth,
            num_heads=architecture.n_heads,
            num_classes=0,
        )
    return vit


def _check_name(name: str, found: Architecture, what: str) -> None:
    named = named_architecture(name)
    agrees = named == found if "_patch" in name else named[:2] == found[:2]
    if not agrees:
        raise ValueError(
            f"{what}: expected {name}, got a ViT of width {found.width}, depth {found.depth} and patches of "
            f"{found.patch} pixels: leave the name out, or choose another file"
        )


def _check_fits(architecture: Architecture, recipe: str, size: int) -> None:
    if recipe == "last4-cls" and architecture.depth < _N_LAST:
        raise ValueError(f"recipe 'last4-cls' needs at least {_N_LAST} blocks, got {architecture.depth}: use 'cls'")
    if size < architecture.patch:
        raise ValueError(f"size must be at least a patch of {architecture.patch} pixels, got {size}")
