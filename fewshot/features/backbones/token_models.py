"""Networks of timm that end in a grid of tokens, for inputs of several sizes: ViT, Swin, CNN."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fewshot.features.backbones.timm_models import import_timm, load_timm, timm_config

__all__ = [
    "as_tokens",
    "has_class_token",
    "is_channels_first",
    "is_windowed",
    "n_prefix_tokens",
    "token_model",
]

# By these options timm's models take inputs of any size; which of them depends on its version and the architecture.
_ANY_SIZE: tuple[dict[str, object], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
_NORM_EPS = "norm_eps"
# Xavier's. timm's default, a standard deviation of 0.02 for any width, leaves the class tokens of narrow networks
# almost the same for all images.
_RANDOM_WEIGHTS = "jax"


def token_model(
    name: str,
    options: Mapping[str, object],
    size: int,
    *,
    weights: str | os.PathLike[str] | None = "random",
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Build a network of timm without classifier, in evaluation mode, that takes inputs of other sizes too.

    Parameters
    ----------
    name
        Of an architecture, with a tag if published weights are wanted.
    options
        Of timm's ``create_model``, as JSON can say them; and ``norm_eps``, which every LayerNorm gets.
    size
        Side of its own input in pixels. Position embeddings are of its grid, and windows no larger than it, unless
        ``options`` have an ``img_size``.
    weights
        ``random`` (of ViTs and Swins after Xavier, unless ``options`` have a ``weight_init``), a file that fits timm's
        network, or None for the published ones.
    drop_path
        Rate of stochastic depth of the last block in training; it grows from 0 in the first.
    seed
        Of random weights.

    Raises
    ------
    ValueError
        If the name or an option is unknown, sizes do not go together, or the weights do not fit.
    """
    made = dict(options)
    eps = made.pop(_NORM_EPS, None)
    if drop_path:
        made["drop_path_rate"] = drop_path
    model = _created(name, weights, made, size, seed)
    _set_rates(model, drop_path, eps)
    return model


def _created(
    name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any], size: int, seed: int
) -> nn.Module:
    """Create a model with the first of the options for inputs of any size that it knows, if it has one size."""
    config = timm_config(name)
    if weights == "random" and _has_weight_init(name):
        options = {"weight_init": _RANDOM_WEIGHTS, **options}
    if not config.fixed_input_size:
        return _tried(name, weights, options, seed)
    options = {"img_size": size, **options}
    for any_size in _ANY_SIZE:
        try:
            return _tried(name, weights, {**options, **any_size}, seed)
        except _UnknownOptionError as error:
            if next(iter(any_size)) not in str(error.__cause__):
                raise
    return _tried(name, weights, options, seed)


class _UnknownOptionError(ValueError):
    """timm's model does not take an option."""


def _tried(name: str, weights: str | os.PathLike[str] | None, options: dict[str, Any], seed: int) -> nn.Module:
    try:
        return load_timm(name, weights, options, seed)
    except (TypeError, AssertionError) as error:
        kind = _UnknownOptionError if isinstance(error, TypeError) else ValueError
        raise kind(f"timm cannot make {name!r} with {options}: {error}: change the options") from error


def _set_rates(model: nn.Module, drop_path: float, eps: object) -> None:
    from timm.layers import DropPath

    for module in model.modules():
        if isinstance(module, DropPath) and not drop_path:
            module.drop_prob = 0.0
        if isinstance(module, nn.LayerNorm) and isinstance(eps, float):
            module.eps = eps


def is_windowed(name: str) -> bool:
    """Return whether a model of timm is a Swin Transformer, whose windows should stay those of training."""
    entry = import_timm().models.model_entrypoint(name.partition(".")[0])
    return "swin_transformer" in entry.__module__


def _has_weight_init(name: str) -> bool:
    """Return whether timm offers a choice of initialisations for a model: the plain ViTs and Swins."""
    entry = import_timm().models.model_entrypoint(name.partition(".")[0])
    return entry.__module__.rpartition(".")[2] in ("vision_transformer", "swin_transformer")


def n_prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens stand before the patches."""
    return int(getattr(model, "num_prefix_tokens", 0))


def has_class_token(model: nn.Module) -> bool:
    """Return whether the first token is a class token."""
    return n_prefix_tokens(model) > 0 and getattr(model, "cls_token", None) is not None


def as_tokens(output: Tensor, model: nn.Module) -> Tensor:
    """Return the output of ``forward_features`` as tokens (b, n_prefix + n, d), a map row by row.

    Raises
    ------
    ValueError
        If it is neither tokens nor a map.
    """
    if output.ndim == 3:
        return output
    if output.ndim != 4:
        raise ValueError(
            f"a backbone must end in tokens (b, n, d) or a map, {type(model).__name__} ends in "
            f"{tuple(output.shape)}: choose a ViT, a Swin or a CNN"
        )
    channels_last = output.permute(0, 2, 3, 1) if is_channels_first(output, model) else output
    return channels_last.flatten(1, 2)


def is_channels_first(output: Tensor, model: nn.Module) -> bool:
    """Whether the output of ``forward_features`` is a map (b, d, rows, columns)."""
    return output.ndim == 4 and getattr(model, "output_fmt", None) != "NHWC"
