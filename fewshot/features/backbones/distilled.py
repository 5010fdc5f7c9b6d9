"""Extractor of a file of `fewshot distill`: network, readout, size and preprocessing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.backbones.checkpoints import load_strictly
from fewshot.features.backbones.pooling import check_readout
from fewshot.features.backbones.timm_layers import read_timm
from fewshot.features.backbones.token_models import as_tokens, n_prefix_tokens, token_model
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess
from fewshot.storage import load_tensors

__all__ = ["DISTILLED", "DISTILLED_RECIPES", "DistilledFeatures", "DistilledFile", "build_distilled", "read_distilled"]

# The kind of the file.
DISTILLED = "distilled"
DISTILLED_RECIPES = ("token", "mean")


class DistilledFile(NamedTuple):
    """Contents of a distilled file.

    Attributes
    ----------
    tensors : dict
        Of timm's network, by its names.
    name : str
        timm's architecture.
    options : dict
        Of its making; see `token_model`.
    size : int
        Side of its input in pixels.
    recipe : str
        ``token``: the feature is the class token; ``mean``: the mean of the others; after the final norm.
    preprocess : Preprocess
    training : dict
        What the trainer had to say.
    """

    tensors: dict[str, Tensor]
    name: str
    options: dict[str, object]
    size: int
    recipe: str
    preprocess: Preprocess
    training: dict[str, object]


def read_distilled(path: str | os.PathLike[str]) -> DistilledFile:
    """Read a distilled file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another file, or not a whole one.
    """
    tensors, metadata = load_tensors(path, kind=DISTILLED)
    found: Any = metadata
    try:
        return DistilledFile(
            tensors,
            str(found["name"]),
            dict(found["options"]),
            int(found["size"]),
            check_choice("recipe", found["recipe"], DISTILLED_RECIPES),
            Preprocess.from_spec(found["preprocess"]),
            dict(found["training"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a whole distilled network ({error}): write it again") from error


class DistilledFeatures(nn.Module):
    """A network of timm whose feature is its class token or the mean of the other tokens, after its final norm."""

    def __init__(self, network: nn.Module, recipe: str) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.n_prefix = n_prefix_tokens(network)

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, n_features) of normalised images (b, 3, size, size)."""
        network: Any = self.network
        tokens = as_tokens(network.forward_features(images), network)
        return tokens[:, 0] if self.recipe == "token" else tokens[:, self.n_prefix :].mean(1)


def build_distilled(
    name: str | None, weights: str | os.PathLike[str] | None = None, *, readout: str = "default"
) -> Built:
    """Build the network of a distilled file as a feature extractor, at the file's size and preprocessing.

    Parameters
    ----------
    name
        The architecture, which must be the file's; None takes it from there.
    weights
        The file.
    readout
        ``default``: what was trained, the file's recipe. Others are those of `build_timm`, of the last tokens.

    Returns
    -------
    Built

    Raises
    ------
    ValueError
        If there are no weights, or they are no distilled file, or of another architecture.
    FileNotFoundError
        If there is no such file.
    ImportError
        If timm or torchvision is missing.
    """
    check_readout(readout)
    if weights is None:
        raise ValueError("distilled needs weights: give a file that fewshot distill wrote")
    file = read_distilled(weights)
    if name not in (None, file.name):
        raise ValueError(f"{weights}: expected {name}, got {file.name}: leave the name out, or choose another file")
    network = token_model(file.name, file.options, file.size)
    load_strictly(network, file.tensors, f"{weights}")
    size = file.preprocess.size
    return Built(
        DistilledFeatures(network, file.recipe)
        if readout == "default"
        else read_timm(network.eval(), (), readout, size),
        file.preprocess,
        {"family": DISTILLED, "name": f"{DISTILLED}:{file.name}", "readout": readout, **_geometry(file)},
        {"weights": f"{weights}", "training": file.training},
    )


def _geometry(file: DistilledFile) -> Mapping[str, object]:
    return {"recipe": file.recipe, "options": file.options, "size": file.size}
