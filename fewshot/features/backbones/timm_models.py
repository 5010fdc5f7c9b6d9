"""Frozen networks of timm: any of its architectures, with its own preprocessing, weights by tag or from a file."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.checks import did_you_mean
from fewshot.features.backbones.checkpoints import load_state_dict_file, strip_prefixes, unwrap
from fewshot.features.backbones.downloads import (
    fetch_from_hub,
    fetch_from_url,
    find_from_hub,
    find_from_url,
    unreachable,
    warn_of_licence,
)
from fewshot.features.backbones.layers import N_NEAREST, as_layers
from fewshot.features.backbones.pooling import check_readout
from fewshot.features.backbones.timm_layers import read_timm
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = [
    "build_timm",
    "check_size",
    "has_weights_here",
    "import_timm",
    "licence_of",
    "load_timm",
    "random_timm",
    "timm_config",
    "timm_preprocess",
]

_RESIZES = {"center": "short", "squash": "squash", "border": "border"}
# Of torch's list of the tensors that do not fit, as many characters are said.
_N_CHARACTERS = 400


def build_timm(
    name: str | None,
    weights: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    readout: str = "default",
    size: int = 0,
    use_test_size: bool = False,
    seed: int = 0,
) -> Built:
    """Build a network of timm as a feature extractor.

    Parameters
    ----------
    name
        An architecture, with its default weights, or ``architecture.tag``: ``resnet50`` or ``resnet50.tv_in1k``. The
        tag also says how images are preprocessed.
    weights
        - None: the published weights of the tag, from this machine if they are here, else from the network.
        - A ``.safetensors`` or ``.pth`` file for the architecture, with a classifier of any number of classes or none;
          every tensor must fit.
        - ``"random"``: drawn under ``seed``.
    layers
        Indices of timm's intermediate stages or blocks, negative from the end (``"3"``, ``"-1"``), or names of modules
        (``"layer3"``, ``"blocks.5.attn"``). Of an index, the final norm is not applied.
    readout
        How a layer becomes a vector (see `readout`). Without layers, ``default`` is the network's own pooled vector,
        with all that timm puts between pooling and classifier; any other reads ``forward_features``, where final norms
        within the trunk are applied.
    size
        Side of the input in pixels, to which a vision transformer's position embeddings are resized; 0 for the tag's.
    use_test_size
        Whether to use the size and crop that the tag recommends for testing, where it does.
    seed
        Of random weights.

    Returns
    -------
    Built
        Its ``about`` has the weights' file and licence. Licences that may not allow every use are warned of.

    Raises
    ------
    ConnectionError
        If the published weights are not here and cannot be fetched.
    ImportError
        If timm or torchvision is missing.
    ValueError
        If the name, a layer or the readout is unknown, the weights do not fit, or there are none.
    """
    layers = as_layers(layers)
    check_readout(readout)
    import_timm()
    config = timm_config(name)
    preprocess = timm_preprocess(config, size, use_test_size)
    options = {"img_size": preprocess.size} if config.fixed_input_size else {}
    model, origin = _model(config, weights, options, seed)
    check_size(model, preprocess.size)
    return Built(
        network=read_timm(model, layers, readout, preprocess.size),
        preprocess=preprocess,
        spec={"family": "timm", "name": _full_name(config), "layers": list(layers), "readout": readout},
        about={"weights": origin, "licence": _licence(config, weights), "timm": import_timm().__version__},
    )


def has_weights_here(name: str) -> bool:
    """Return whether a model's published weights are on this machine; no network is touched."""
    import_timm()
    config = timm_config(name)
    return bool(
        (config.hf_hub_id and find_from_hub(config.hf_hub_id)) or (config.url and find_from_url(_address(config)))
    )


def licence_of(name: str) -> str:
    """Return the licence of a model's published weights, as timm knows it."""
    return timm_config(name).license or "unknown"


def import_timm() -> Any:
    """Import timm, by way of the torchvision that it needs.

    Raises
    ------
    ImportError
        If either is missing.
    """
    require_torchvision("timm")
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ImportError(
            f"timm is missing: install it with `pip install timm torchvision torch=={torch.__version__}`"
        ) from None


# What timm knows of a name


def timm_config(name: str | None) -> Any:
    """Return timm's PretrainedCfg of a name.

    Raises
    ------
    ValueError
        If timm has no such model, or no such weights of it.
    """
    timm = import_timm()
    if not name:
        raise ValueError("expected the name of a timm model, such as 'resnet50', got none: timm.list_models() has all")
    known = timm.list_models() if timm.is_model(name) is False else None
    if known is None:
        known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        if "." not in name or name in known:
            return timm.get_pretrained_cfg(name)
    hint = did_you_mean(name, known, n_nearest=N_NEAREST)
    raise ValueError(f"unknown timm model {name!r}{hint} timm.list_models() lists them")


def _full_name(config: Any) -> str:
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


def timm_preprocess(config: Any, size: int, use_test_size: bool = False) -> Preprocess:
    """Return the preprocessing of a model's published weights, at another size unless it is 0."""
    data = import_module("timm.data").resolve_data_config(
        {"input_size": (3, size, size)} if size else {}, pretrained_cfg=config.to_dict(), use_test_size=use_test_size
    )
    return Preprocess(
        size=tuple(data["input_size"][1:]),
        resize=_RESIZES[data["crop_mode"]],
        crop_fraction=data["crop_pct"],
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def _licence(config: Any, weights: object) -> str | None:
    """Return the licence of published weights, warning of its restrictions; that of other weights is not known."""
    if weights is not None:
        return None
    warn_of_licence(_full_name(config), config.license)
    return config.license or "unknown"


# From weights to a model without its classifier


def _model(
    config: Any, weights: str | os.PathLike[str] | None, options: Mapping[str, object], seed: int
) -> tuple[nn.Module, str]:
    if weights == "random":
        return random_timm(_full_name(config), seed, options), f"random, seed {seed}"
    path = _published_file(config) if weights is None else weights
    return _loaded_model(config, path, options), str(path)


def random_timm(name: str, seed: int, options: Mapping[str, object] = MappingProxyType({})) -> nn.Module:
    """Return a model without classifier, in evaluation mode, its weights drawn under a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = import_timm().create_model(name, num_classes=0, **options)
    return model.eval()


def load_timm(
    name: str, weights: str | os.PathLike[str] | None, options: Mapping[str, object], seed: int = 0
) -> nn.Module:
    """Return a model without classifier, made with options of its own; no draw but its own is touched.

    Parameters
    ----------
    name, weights, seed
        See `build_timm`.
    options
        Of timm's ``create_model``.

    Raises
    ------
    ValueError
        If the name is unknown, the weights do not fit, or there are none.
    """
    config = timm_config(name)
    with torch.random.fork_rng(devices=[]):
        model, _ = _model(config, weights, options, seed)
    _licence(config, weights)
    return model


def check_size(model: Any, size: tuple[int, int]) -> None:
    """Refuse an input that is not made of whole patches.

    Raises
    ------
    ValueError
        Such as: size must be a multiple of the patch's 16 pixels, got 100.
    """
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if min(size) < 1 or size[0] % patch[0] or size[1] % patch[1]:
        raise ValueError(f"size must be a multiple of the patch's {patch[0]} pixels, got {size[0]}")


def _published_file(config: Any) -> Path:
    name = _full_name(config)
    if config.hf_hub_id:
        return fetch_from_hub(config.hf_hub_id, unreachable(name, f"the Hugging Face hub ({config.hf_hub_id})"))
    if config.url:
        return fetch_from_url(_address(config), name)
    raise ValueError(f"timm has no weights for {name!r}: give a file (weights=PATH), or weights='random'")


def _address(config: Any) -> str:
    return config.url if isinstance(config.url, str) else config.url[0]


def _loaded_model(config: Any, path: str | os.PathLike[str], options: Mapping[str, object]) -> nn.Module:
    """Load a file into the model with the classifier that the file has, where timm is strict; then drop it.

    A file in a layout that timm converts has its classifier under another name: so the tag's own number of classes is
    tried too.
    """
    state = strip_prefixes(unwrap(load_state_dict_file(path)), ("module.",))
    faults = []
    for n_classes in dict.fromkeys((_n_classes(state, config), config.num_classes)):
        try:
            return _strictly_loaded(config, state, n_classes, options)
        except (RuntimeError, LookupError, ValueError) as error:
            faults.append(textwrap.shorten(str(error), _N_CHARACTERS))
    raise ValueError(f"{path} does not fit timm's {_full_name(config)!r}: {faults[0]}")


def _strictly_loaded(
    config: Any, state: Mapping[str, Tensor], n_classes: int, options: Mapping[str, object]
) -> nn.Module:
    overlay = {"state_dict": dict(state), "num_classes": n_classes, "label_offset": 0, "source": None}
    model = import_timm().create_model(
        _full_name(config), pretrained=True, pretrained_cfg_overlay=overlay, num_classes=n_classes, **options
    )
    del model.pretrained_cfg["state_dict"]
    model.reset_classifier(0)
    frozen: nn.Module = model.eval()
    return frozen


def _n_classes(state: Mapping[str, Tensor], config: Any) -> int:
    names = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    heads = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    return len(heads[0]) if heads else 0
