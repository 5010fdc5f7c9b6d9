"""Frozen networks of torchvision: its classifiers without their last layer, with the preprocessing of their weights."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from fewshot.checks import did_you_mean
from fewshot.features.backbones.checkpoints import load_state_dict_file, load_strictly, strip_prefixes, unwrap
from fewshot.features.backbones.downloads import fetch_from_url, find_from_url, warn_of_licence
from fewshot.features.backbones.layers import N_NEAREST, as_layers, read_network
from fewshot.features.backbones.pooling import Known, check_readout
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["build_torchvision", "has_weights_here", "licence_of"]

# Classifiers that only training uses, by architecture: children, and how their tensors' names begin.
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Published DenseNets call a layer "norm.1" that has since been "norm1".
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")


def build_torchvision(
    name: str | None,
    weights: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    readout: str = "default",
    seed: int = 0,
) -> Built:
    """Build a classifier of torchvision as a feature extractor.

    Parameters
    ----------
    name
        An architecture, with its default weights, or ``architecture.WEIGHTS``: ``resnet50`` or
        ``resnet50.IMAGENET1K_V1``. The weights' name also says how images are preprocessed.
    weights
        - None: the published weights, from this machine if they are here, else from the network.
        - A ``.safetensors`` or ``.pth`` file with the whole model, classifier included; every tensor must fit.
        - ``"random"``: drawn under ``seed``.
    layers
        Names of modules (``"layer3"``, ``"features.4"``); none for what the classifier's last layer takes.
    readout
        How a layer becomes a vector (see `readout`). The default output is a vector already.
    seed
        Of random weights.

    Returns
    -------
    Built
        The last linear or convolutional layer of the model, which gives the classes, is left out, and nothing else: so
        a ResNet gives 512 or 2048 averages, a VGG its 4096 units before the last.

    Raises
    ------
    ConnectionError
        If the published weights are not here and cannot be fetched.
    ImportError
        If torchvision is missing.
    ValueError
        If the name, a layer or the readout is unknown, or the weights do not fit.
    """
    layers = as_layers(layers)
    check_readout(readout)
    status = require_torchvision("the torchvision family")
    choice = _weights_choice(name)
    preprocess = _preprocess(choice)
    architecture = str(name).partition(".")[0]
    model, origin = _model(architecture, choice, weights, preprocess.size, seed)
    _drop_classifier(model, len(choice.meta["categories"]))
    return Built(
        network=read_network(model.eval(), layers, readout, _known(model), preprocess.size),
        preprocess=preprocess,
        spec={"family": "torchvision", "name": architecture, "layers": list(layers), "readout": readout},
        about={"weights": origin, "licence": _licence(choice, weights), "torchvision": status},
    )


def has_weights_here(name: str) -> bool:
    """Return whether a model's published weights are on this machine; no network is touched."""
    require_torchvision("the torchvision family")
    return find_from_url(_weights_choice(name).url) is not None


def licence_of(name: str) -> str | None:
    """Return the licence that torchvision names for a model's published weights; None for most."""
    require_torchvision("the torchvision family")
    licence: str | None = _weights_choice(name).meta.get("license")
    return licence


def _weights_choice(name: str | None) -> Any:
    """Return the member of torchvision's enumeration of weights that a name means."""
    models = import_module("torchvision.models")
    architecture, _, tag = (name or "").partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        hint = did_you_mean(architecture, known, n_nearest=N_NEAREST)
        raise ValueError(f"unknown torchvision model {name!r}{hint} torchvision.models.list_models() lists them")
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        raise ValueError(f"unknown weights {tag!r} of {architecture}: expected one of {', '.join(choices.__members__)}")
    return choices[tag] if tag else choices.DEFAULT


def _preprocess(choice: Any) -> Preprocess:
    transform = choice.transforms()
    (size,), (resized,) = transform.crop_size, transform.resize_size
    return Preprocess(
        size=(size, size),
        crop_fraction=size / resized,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _licence(choice: Any, weights: object) -> str | None:
    """Return the licence of published weights, warning of its restrictions; that of other weights is not known."""
    if weights is not None:
        return None
    licence = str(choice.meta.get("license", "bsd-3-clause"))
    warn_of_licence(str(choice), licence)
    return licence


# From weights to a model


def _model(
    architecture: str, choice: Any, weights: str | os.PathLike[str] | None, size: tuple[int, int], seed: int
) -> tuple[nn.Module, str]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = import_module("torchvision.models").get_model(architecture, **_options(architecture, size))
    if weights == "random":
        origin = f"random, seed {seed}"
    else:
        path = fetch_from_url(choice.url, str(choice)) if weights is None else weights
        origin = str(path)
        _load(model, architecture, path)
    for auxiliary in _AUXILIARY.get(architecture, ()):
        setattr(model, auxiliary, None)
        model.aux_logits = False
    return model, origin


def _options(architecture: str, size: tuple[int, int]) -> dict[str, object]:
    """Return the settings of torchvision for published weights."""
    if architecture in _AUXILIARY:
        return {"transform_input": True, "init_weights": True, "aux_logits": True}
    return {"image_size": size[0]} if architecture.startswith("vit_") else {}


def _load(model: nn.Module, architecture: str, path: str | os.PathLike[str]) -> None:
    state = strip_prefixes(unwrap(load_state_dict_file(path)), ("module.",))
    own = model.state_dict()
    # A file has the training classifiers or not, and the state dict's version (MNASNet's is asked for) or not.
    prefixes = tuple(f"{auxiliary}." for auxiliary in _AUXILIARY.get(architecture, ()))
    whole = OrderedDict((name, tensor) for name, tensor in own.items() if name.startswith(prefixes))
    whole.update((_OLD_NAME.sub(r"\1\2", name), tensor) for name, tensor in state.items())
    whole._metadata = own._metadata  # type: ignore[attr-defined]
    load_strictly(model, whole, f"{path} for {architecture}")


# From a model to vectors


def _drop_classifier(model: nn.Module, n_classes: int) -> None:
    """Replace the last linear or convolutional layer by the identity, if it is the one that gives the classes."""
    name, layer = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    n_outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if n_outputs != n_classes:
        raise ValueError(f"expected the last layer {name!r} to give {n_classes} classes, got {n_outputs}")
    model.set_submodule(name, nn.Identity())


def _known(model: Any) -> Known:
    """Return the token layout of torchvision's vision transformer; its other networks have none."""
    if not hasattr(model, "class_token"):
        return Known()
    return Known(n_prefix_tokens=1, n_patches=(model.image_size // model.patch_size) ** 2)
