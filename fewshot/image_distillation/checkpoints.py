"""Initial weights of backbones: names of timm, and files whose tensors determine the architecture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fewshot.features.backbones.checkpoints import listed, load_state_dict_file, load_strictly, strip_prefixes, unwrap
from fewshot.features.backbones.distilled import read_distilled
from fewshot.features.backbones.esvit import NORM_EPS, load_original
from fewshot.features.backbones.position_embedding import resize_position_embedding
from fewshot.features.backbones.swin_layouts import is_original_swin, read_swin_layout, swin_architecture_of
from fewshot.features.backbones.timm_models import timm_config, timm_preprocess
from fewshot.features.backbones.token_models import is_windowed, n_prefix_tokens, token_model
from fewshot.features.backbones.vit_layouts import Architecture, architecture_of, split_layout
from fewshot.features.images.preprocess import Preprocess

__all__ = ["Source", "load_source", "named_source", "read_source"]

_RELATION = "relation_blocks.0."
_SWIN = "swin_tiny_patch4_window7_224"
_VIT = "vit_small_patch16_224"


@dataclass(frozen=True, slots=True)
class Source:
    """A network of timm and its weights.

    Attributes
    ----------
    name, options, size
        See `token_model`.
    preprocess : Preprocess
        Of images at evaluation, but for its size.
    origin : str
        Where the weights come from.
    weights : path or None
        What timm itself is to load: ``random`` where it is not to; None for the published ones.
    state : dict or None
        Tensors to load afterwards.
    is_original_swin : bool
        Whether they have EsViT's names, not timm's.
    relation : dict or None
        Mugs' relation block.
    """

    name: str
    options: dict[str, object]
    size: int
    preprocess: Preprocess
    origin: str
    weights: str | os.PathLike[str] | None = "random"
    state: dict[str, Tensor] | None = None
    is_original_swin: bool = False
    relation: dict[str, Tensor] | None = None


def named_source(name: str | None, init: str, size: int | None, options: Mapping[str, object]) -> Source:
    """Return the source of a name with random or published weights; see `build_backbone`.

    Raises
    ------
    ValueError
        If there is no name, or timm does not know it.
    """
    if name is None:
        raise ValueError(f"init={init!r} needs the name of a timm model such as vit_small_patch16_224, got none")
    config = timm_config(name)
    preprocess, made = timm_preprocess(config, 0), dict(options)
    if init == "published" and is_windowed(name):
        made = {"img_size": preprocess.size[0], **made}
    return Source(
        name=name,
        options=made,
        size=size or preprocess.size[0],
        preprocess=preprocess if init == "published" else Preprocess(),
        origin=init if init == "random" else f"published: {config.architecture}.{config.tag}",
        weights="random" if init == "random" else None,
    )


def read_source(
    path: str | os.PathLike[str], name: str | None, options: Mapping[str, object], checkpoint_key: str
) -> Source:
    """Read a file of any layout that a backbone can start from; see `build_backbone`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of none of the layouts, or not of the name; the message begins with the path.
    """
    if name is None and options:
        raise ValueError(f"{path}: options ({listed(options)}) need a name: leave them out, or give both")
    if _is_ours(path):
        return _distilled(path, name, options)
    checkpoint = load_state_dict_file(path)
    try:
        state = strip_prefixes(unwrap(checkpoint, checkpoint_key))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if is_original_swin(state):
        return _swin(checkpoint, checkpoint_key, path, name, options)
    if name is None or _is_published_vit(state):
        return _vit(state, path, name, options)
    return _timm(path, name, options)


def _is_ours(path: str | os.PathLike[str]) -> bool:
    """Return whether a file has this library's header."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "fewshot" in (file.metadata() or {})
    except SafetensorError:
        return False


def _distilled(path: str | os.PathLike[str], name: str | None, options: Mapping[str, object]) -> Source:
    file = read_distilled(path)
    asked = ((name or file.name).partition(".")[0], dict(options) or file.options)
    found = (file.name, file.options)
    if asked != found:
        raise ValueError(
            f"{path}: expected {asked[0]} with options {asked[1]}, got {found[0]} with {found[1]}: "
            "leave name and options out, or choose another file"
        )
    made = {"img_size": file.size, **file.options} if is_windowed(file.name) else file.options
    return Source(file.name, made, file.size, file.preprocess, f"{path}", state=file.tensors)


def _is_published_vit(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are those of a layout of Mugs, DINO or iBOT."""
    try:
        _, _, layout = split_layout(state, None, "")
    except ValueError:
        return False
    return "cls_token" in state and layout.family != "timm"


def _vit(
    state: Mapping[str, Tensor], path: str | os.PathLike[str], name: str | None, options: Mapping[str, object]
) -> Source:
    if name is None and "cls_token" not in state:
        raise ValueError(
            f"{path}: expected a checkpoint of Mugs, DINO, iBOT, EsViT or CMD, or what fewshot distill wrote, got one "
            f"with {listed(state)}: give the name of the timm model that it belongs to"
        )
    own, extras, _ = split_layout(state, None, f"{path}")
    relation = {key.removeprefix(_RELATION): value for key, value in extras.items() if key.startswith(_RELATION)}
    found = architecture_of(own, f"{path}")
    side = round((own["pos_embed"].shape[1] - 1) ** 0.5) * found.patch
    plain, made = (_VIT, _vit_options(found)) if name is None else (name, dict(options))
    return Source(plain, made, side, Preprocess(), f"{path}", state=own, relation=relation or None)


def _vit_options(found: Architecture) -> dict[str, object]:
    return {
        "patch_size": found.patch,
        "embed_dim": found.width,
        "depth": found.depth,
        "num_heads": found.n_heads,
    }


def _swin(
    checkpoint: Mapping[str, object],
    checkpoint_key: str,
    path: str | os.PathLike[str],
    name: str | None,
    options: Mapping[str, object],
) -> Source:
    state, _ = read_swin_layout(checkpoint, checkpoint_key, f"{path}")
    found = swin_architecture_of(state, f"{path}")
    sizes = {
        "patch_size": found.patch,
        "embed_dim": found.width,
        "depths": list(found.depths),
        "num_heads": list(found.heads),
        "window_size": found.windows[0],
    }
    made = {**(sizes if name is None else options), "img_size": found.size, "norm_eps": NORM_EPS}
    return Source(name or _SWIN, made, found.size, Preprocess(), f"{path}", state=state, is_original_swin=True)


def _timm(path: str | os.PathLike[str], name: str, options: Mapping[str, object]) -> Source:
    preprocess, made = timm_preprocess(timm_config(name), 0), dict(options)
    if is_windowed(name):
        made = {"img_size": preprocess.size[0], **made}
    return Source(name, made, preprocess.size[0], preprocess, f"{path}", weights=path)


def load_source(source: Source, size: int, drop_path: float, seed: int) -> nn.Module:
    """Build a source's network and give it the source's weights, all of them.

    Raises
    ------
    ValueError
        If the network cannot be built, or the weights do not fit; the message begins with where they come from.
    """
    model = token_model(source.name, source.options, size, weights=source.weights, drop_path=drop_path, seed=seed)
    if source.state is None:
        return model
    if source.is_original_swin:
        load_original(model, source.state, source.origin)
    else:
        load_strictly(model, _fitted(source.state, model), source.origin)
    return model


def _fitted(state: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return a ViT's tensors with their position embedding on the model's grid."""
    embedding, wanted = state.get("pos_embed"), getattr(model, "pos_embed", None)
    n_prefix = n_prefix_tokens(model)
    if embedding is None or wanted is None or embedding.shape[1] == wanted.shape[1] or n_prefix > 1:
        return dict(state)
    # A class token that is not there, put in front and taken away again.
    whole = torch.cat([embedding.new_zeros(1, 1 - n_prefix, embedding.shape[2]), embedding], dim=1)
    resized = resize_position_embedding(whole, model.patch_embed.grid_size)
    return {**state, "pos_embed": resized[:, 1 - n_prefix :]}
