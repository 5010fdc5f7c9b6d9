"""Metadata of an extractor, without building it: no weights are read, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fewshot.checks import check_choice
from fewshot.features.backbones import (
    clip_sources,
    efficientnet_lite,
    swin_layouts,
    timm_models,
    torchvision_models,
    vit_layouts,
)
from fewshot.features.diffusion.config import PRESETS
from fewshot.features.families import FAMILIES, split_name

__all__ = ["OPTION_MEANINGS", "ExtractorFacts", "extractor_facts"]

OPTION_MEANINGS: Mapping[str, str] = {
    "checkpoint_key": "teacher or student, of a whole training state",
    "class_names": "the classes whose cosines with the image are the features",
    "config": "a JSON file with the network's sizes, for one without a name",
    "layers": "what to read in place of the output: names of modules; timm: indices of blocks too; diffusion: blocks "
    "counted from 1",
    "n_noise": "draws of noise over which features are averaged",
    "noise_seed": "seed of all noise",
    "output": "embedding, cosines or probabilities; auto: cosines if there are class names",
    "pool": "cells along a side of the pooled map",
    "position": "how position embeddings are resized where size is not that of training",
    "projected": "whether features are in the space joint with text",
    "readout": "how a layer becomes a vector",
    "recipe": "the tokens that are read: cls, last4-cls or cls+mean_patch; of esvit: mean or last4-mean",
    "seed": "of weights=random",
    "share_noise": "whether an image has the same noise at every timestep",
    "size": "side of the input in pixels; a default of 0 is the network's own",
    "snr": "the timestep by its signal-to-noise ratio, in place of t, if positive",
    "softmax_scale": "multiplies the cosines of output=probabilities",
    "t": "timestep of the diffusion, from 0",
    "tag": "which of the name's published weights a file is, or comes from",
    "templates": "sentences in which {} stands for the class name",
    "use_test_size": "whether to take the larger input that is recommended for testing",
}


class ExtractorFacts(NamedTuple):
    """Metadata of an extractor.

    Attributes
    ----------
    family : str
        A key of ``FAMILIES``.
    model : str or None
        Its name in the family.
    licence : str
        Of the published weights.
    are_weights_here : bool or None
        Whether they are on this machine; None where a file is to be given, or the name does not say which.
    """

    family: str
    model: str | None
    licence: str
    are_weights_here: bool | None


def extractor_facts(name: str) -> ExtractorFacts:
    """Return the metadata of an extractor: of its family only where no model is named, or a requirement is missing.

    Raises
    ------
    ValueError
        If there is no such family or model.
    """
    family, model = split_name(name)
    facts = ExtractorFacts(family, model, FAMILIES[family].licence, FAMILIES[family].are_weights_here)
    if model is None or not FAMILIES[family].is_installed:
        return facts
    try:
        licence, are_weights_here = _OF_MODEL.get(family, _nothing)(model)
    except ValueError as error:
        bare = "" if ":" in name else f"; families: {', '.join(FAMILIES)}"
        raise ValueError(f"{error}{bare}") from None
    return facts._replace(licence=licence or facts.licence, are_weights_here=are_weights_here)


_Found = tuple[str | None, bool | None]


def _nothing(_: str) -> _Found:
    return None, None


def _efficientnet_lite(model: str) -> _Found:
    return None, efficientnet_lite.has_weights_here(model)


def _timm(model: str) -> _Found:
    return timm_models.licence_of(model), timm_models.has_weights_here(model)


def _torchvision(model: str) -> _Found:
    return torchvision_models.licence_of(model), torchvision_models.has_weights_here(model)


def _vit(model: str) -> _Found:
    vit_layouts.named_architecture(model)
    return None, None


def _esvit(model: str) -> _Found:
    swin_layouts.named_swin(model)
    return None, None


def _open_clip(model: str) -> _Found:
    if not model.startswith(("local-dir:", "hf-hub:")):
        clip_sources.model_config(model.replace("/", "-"))
    return None, None


def _adm(model: str) -> _Found:
    check_choice("diffusion network", model, PRESETS)
    return None, None


_OF_MODEL: Mapping[str, Callable[[str], _Found]] = {
    "adm": _adm,
    "dino": _vit,
    "efficientnet_lite": _efficientnet_lite,
    "esvit": _esvit,
    "ibot": _vit,
    "mugs": _vit,
    "open_clip": _open_clip,
    "timm": _timm,
    "torchvision": _torchvision,
}
