"""Vectors of a timm model: its own, those of its stages or blocks by index, or of its modules by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.features.backbones.layers import OutputNetwork, in_order, read_network
from fewshot.features.backbones.pooling import Known, read_output

__all__ = ["read_timm"]

_INDEX = re.compile(r"-?\d+")


def read_timm(model: nn.Module, layers: Sequence[str], kind: str, size: tuple[int, int]) -> nn.Module:
    """Make a timm model without classifier give vectors (see `build_timm`'s ``layers`` and ``readout``).

    Raises
    ------
    ValueError
        If the model cannot give what is asked for.
    """
    are_indices = {bool(_INDEX.fullmatch(layer)) for layer in layers}
    if len(are_indices) == 2:
        raise ValueError(f"layers must be all indices or all names of modules, got {', '.join(layers)}")
    if True in are_indices:
        return _StageNetwork(model, layers, kind)
    if not layers and kind != "default":
        return _FeatureNetwork(model, kind, _known(model))
    return read_network(model, layers, kind, _known(model), size)


def _known(model: nn.Module) -> Known:
    return Known(
        n_prefix_tokens=getattr(model, "num_prefix_tokens", None),
        n_patches=getattr(getattr(model, "patch_embed", None), "num_patches", None),
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
    )


class _FeatureNetwork(OutputNetwork):
    """A timm model read before its own pooling."""

    def forward(self, images: Tensor) -> Tensor:
        return self._read(self.network.forward_features(images), images)  # type: ignore[operator]


class _StageNetwork(nn.Module):
    """Vectors of timm's intermediate stages or blocks, in one pass that ends with the deepest."""

    def __init__(self, network: Any, layers: Sequence[str], kind: str) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.kind = kind
        self.indices = [_stage(layer, len(network.feature_info)) for layer in layers]
        takes_prefix = "return_prefix_tokens" in inspect.signature(network.forward_intermediates).parameters
        self.has_prefix = takes_prefix and bool(getattr(network, "num_prefix_tokens", 0))

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        stages = sorted(set(self.indices))
        options = {"return_prefix_tokens": True} if self.has_prefix else {}
        outputs = self.network.forward_intermediates(
            images, indices=stages, stop_early=True, intermediates_only=True, **options
        )
        vectors = {stage: self._read(output, images) for stage, output in zip(stages, outputs, strict=True)}
        return in_order(self.layers, [vectors[stage] for stage in self.indices])

    def _read(self, output: Any, images: Tensor) -> Tensor:
        if not self.has_prefix:
            return read_output(output, self.kind, images, Known(), "timm's stage")
        patches, prefix = output
        tokens = torch.cat([prefix, patches.flatten(2).mT], dim=1)
        return read_output(tokens, self.kind, images, Known(n_prefix_tokens=prefix.shape[1]), "timm's block")


def _stage(layer: str, n_stages: int) -> int:
    index = int(layer)
    if not -n_stages <= index < n_stages:
        raise ValueError(
            f"layer {layer} of a model with {n_stages} stages or blocks: "
            f"expected 0 to {n_stages - 1}, or {-n_stages} to -1"
        )
    return index % n_stages
