"""Backbones that a distillation starts from, and the files that it writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.distillation.backbone import IMAGE_EMBEDDINGS, TokenBackbone
from fewshot.distillation.training.state import TrainingState
from fewshot.features.backbones.distilled import DISTILLED
from fewshot.features.backbones.token_models import token_model
from fewshot.features.families import extractor
from fewshot.features.frozen import Extractor
from fewshot.features.images.preprocess import Preprocess
from fewshot.image_distillation.checkpoints import Source, load_source, named_source, read_source
from fewshot.image_distillation.timm_backbone import TokenTrunk, backbone_of
from fewshot.storage import load_tensors, save_tensors

__all__ = [
    "BackboneBuilt",
    "BackboneDescription",
    "build_backbone",
    "image_extractor",
    "load_training",
    "rebuild_backbone",
    "save_distilled",
    "save_training",
]

_STATE = "distillation-state"


class BackboneDescription(NamedTuple):
    """Description of a backbone, from which `rebuild_backbone` builds the same network; JSON-serialisable.

    Attributes
    ----------
    name, options, size
        Of timm's network, see `build_backbone`.
    recipe : str
        The embedding of images: ``token`` or ``mean``.
    init : str
        Origin of the weights.
    """

    name: str
    options: dict[str, object]
    size: int
    recipe: str
    init: str


class BackboneBuilt(NamedTuple):
    """A backbone with its description and preprocessing.

    Attributes
    ----------
    backbone : TokenBackbone
    description : BackboneDescription
    preprocess : Preprocess
        Of images at evaluation, at that size.
    relation : dict or None
        The tensors of a Mugs file's relation block, by their names within it.
    """

    backbone: TokenBackbone
    description: BackboneDescription
    preprocess: Preprocess
    relation: dict[str, Tensor] | None


# Building


def build_backbone(
    name: str | None,
    init: str | os.PathLike[str] = "random",
    *,
    size: int | None = None,
    options: Mapping[str, object] = MappingProxyType({}),
    drop_path: float = 0.0,
    seed: int = 0,
    image: str = "token",
    checkpoint_key: str = "teacher",
) -> BackboneBuilt:
    """Build a backbone whose tokens a distillation can read.

    Parameters
    ----------
    name : str or None
        Any ViT, Swin or CNN of timm: ``vit_small_patch16_224``, ``swin_tiny_patch4_window7_224``, ``resnet50``. None
        takes what a file says of itself.
    init : str or path
        - ``random``: drawn under ``seed``; no other draw is touched. Of ViTs and Swins after Xavier, timm's
          ``weight_init="jax"``, unless ``options`` say otherwise: its default, a standard deviation of 0.02 for any
          width, leaves the class tokens of narrow networks almost the same for all images.
        - ``published``: timm's weights of that name.
        - A file: Mugs, DINO or iBOT (ViT), EsViT or CMD (Swin), backbone or whole training state; what `save_distilled`
          wrote; or timm's own, which needs the name unless it is a plain ViT. Every tensor must fit.
    size : int, optional
        Side of the global views in pixels; None for the network's own. Position embeddings of a file are resized to it
        by the rule ``dino`` (see `resize_position_embedding`), timm's own as timm does; a Swin keeps the windows that
        it was trained with. Views of other sizes pass too, if they are multiples of the patch.
    options : mapping
        Of timm's ``create_model``, such as ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``.
    drop_path : float
        Rate of stochastic depth of the last block, in [0, 1). Default 0; the authors: 0.1 for the student.
    seed : int
        Of random weights.
    image : str
        ``token`` or ``mean``, see `TokenBackbone`; without a class token it is ``mean`` in any case.
    checkpoint_key : str
        ``teacher`` or ``student`` of a whole training state.

    Returns
    -------
    BackboneBuilt

    Raises
    ------
    ValueError
        If name, options and file do not go together, or there is nothing to take the architecture from.
    TypeError
        If the options are not JSON-serialisable.
    FileNotFoundError
        If there is no such file.
    ConnectionError
        If published weights are not here and cannot be fetched.
    ImportError
        If timm or torchvision is missing.

    Notes
    -----
    Local views have the position embedding resized at each pass as timm does it, bicubic with antialiasing; the
    originals resize without it, about 7 % apart at 96 of 224 pixels. A ViT's file without classifier is taken for one
    of DINO's kin, whose images have ImageNet's mean and deviation.
    """
    check_choice("embedding of images", image, IMAGE_EMBEDDINGS)
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path must lie in [0, 1), got {drop_path}")
    options = _as_json(options)
    if init in ("random", "published"):
        source = named_source(name, f"{init}", size, options)
    else:
        source = read_source(init, name, options, checkpoint_key)
    side = size or source.size
    model = load_source(source, side, drop_path, seed)
    backbone = backbone_of(model, side, image)
    preprocess = _resized(source.preprocess, side)
    return BackboneBuilt(backbone, _described(source, side, backbone.image), preprocess, source.relation)


def rebuild_backbone(description: BackboneDescription, *, drop_path: float = 0.0, seed: int = 0) -> TokenBackbone:
    """Build the network of a description, with random weights.

    Parameters
    ----------
    description : BackboneDescription
    drop_path, seed
        See `build_backbone`.

    Raises
    ------
    ValueError
        If timm has no such network.
    """
    name, options, size, recipe, _ = description
    return backbone_of(token_model(name, options, size, drop_path=drop_path, seed=seed), size, recipe)


def _as_json(options: Mapping[str, object]) -> dict[str, object]:
    """Return options as they come back from a file."""
    try:
        plain: dict[str, object] = json.loads(json.dumps(dict(options)))
    except TypeError as error:
        raise TypeError(f"options must be what JSON can say, got {dict(options)} ({error})") from None
    return plain


def _resized(preprocess: Preprocess, size: int) -> Preprocess:
    return Preprocess.from_spec({**preprocess.spec(), "size": (size, size)})


def _described(source: Source, size: int, recipe: str) -> BackboneDescription:
    return BackboneDescription(source.name.partition(".")[0], source.options, size, recipe, source.origin)


# Writing


def save_distilled(
    path: str | os.PathLike[str],
    backbone: TokenBackbone,
    description: BackboneDescription,
    *,
    recipe: str,
    preprocess: Preprocess,
    training: Mapping[str, object],
) -> None:
    """Write a backbone to a file that ``fewshot extract --extractor distilled --weights FILE`` reads.

    Parameters
    ----------
    path : str or path
    backbone : TokenBackbone
        Of `build_backbone`.
    description : BackboneDescription
        Of that backbone.
    recipe : str
        The feature: ``token`` or ``mean``.
    preprocess : Preprocess
        Of images at evaluation.
    training : mapping
        Method, settings and data of its training, JSON-serialisable.

    Raises
    ------
    ValueError
        If the recipe is unknown, or needs a class token that the backbone has not.
    """
    check_choice("embedding of images", recipe, IMAGE_EMBEDDINGS)
    if recipe == "token" and backbone.n_prefix == 0:
        raise ValueError("recipe 'token' needs a class token, and this backbone has none: use 'mean'")
    metadata = {
        "name": description.name,
        "options": description.options,
        "size": description.size,
        "init": description.init,
        "recipe": recipe,
        "preprocess": preprocess.spec(),
        "training": dict(training),
    }
    save_tensors(path, _timm_tensors(backbone), kind=DISTILLED, metadata=metadata)


def image_extractor(
    backbone: TokenBackbone, preprocess: Preprocess, *, device: torch.device | str = "cpu"
) -> Extractor:
    """Return an extractor of a backbone's embeddings of images as they are now: the backbone is copied.

    Parameters
    ----------
    backbone : TokenBackbone
    preprocess : Preprocess
        As it came with the backbone.
    device
        Where to compute.
    """
    return extractor(_ImageEmbedding(backbone), preprocess=preprocess, device=device)


class _ImageEmbedding(nn.Module):
    """A backbone's embedding of images alone."""

    def __init__(self, backbone: TokenBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.backbone(images).image
        return embedded


def _timm_tensors(backbone: TokenBackbone) -> dict[str, Tensor]:
    """Return a backbone's tensors under timm's names, the norm back in its place."""
    trunk = backbone.trunk
    if not isinstance(trunk, TokenTrunk):
        raise TypeError(f"a backbone of build_backbone can be saved, got a trunk of type {type(trunk).__name__}")
    norm = {f"norm.{name}": tensor for name, tensor in backbone.norm.state_dict().items()}
    return {**trunk.network.state_dict(), **norm}


# State of a run


def save_training(path: str | os.PathLike[str], state: TrainingState) -> None:
    """Write everything that a run needs to be resumed, whole or not at all.

    Raises
    ------
    TypeError
        If its metadata are not JSON-serialisable.
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_training(f"{folder}/run.safetensors", TrainingState(7, {"center": torch.zeros(2)}, {"seed": 1}))
    ...     load_training(f"{folder}/run.safetensors")
    TrainingState(step=7, tensors={'center': tensor([0., 0.])}, metadata={'seed': 1})
    """
    save_tensors(path, state.tensors, kind=_STATE, metadata={"step": state.step, "metadata": dict(state.metadata)})


def load_training(path: str | os.PathLike[str]) -> TrainingState:
    """Read a file of `save_training`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another file.
    """
    tensors, header = load_tensors(path, kind=_STATE)
    fields: Any = header
    return TrainingState(int(fields["step"]), tensors, dict(fields["metadata"]))
