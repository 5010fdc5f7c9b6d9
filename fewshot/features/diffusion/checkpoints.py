"""Weights into a network laid out on the meta device: checked whole, cut, then read as far as they are used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fewshot.features.backbones.checkpoints import load_state_dict_file, load_strictly

__all__ = ["fill", "fill_at_random", "read_weights"]


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read names and tensors of a ``.safetensors`` file or of one written by ``torch.save``, without running any code.

    Tensors are mapped from the file where its format allows, and so cost memory only once they are used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, or holds anything but tensors.
    """
    weights: dict[str, Tensor] = {}
    for name, value in load_state_dict_file(path).items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path}: expected names and tensors, got {name!r} of type {type(value).__name__}: "
                "save the network's state_dict alone"
            )
        weights[name] = value
    return weights


def fill(network: nn.Module, weights: Mapping[str, Tensor], what: str, cut: Callable[[], None]) -> None:
    """Check that weights are exactly those of a whole network, cut the network, and load the rest.

    Parameters
    ----------
    network
        On the meta device; changed in place.
    weights
        Of the whole network, in any floating dtype. What is kept is copied, in float32.
    what
        What the weights are, for the message.
    cut
        Removes from the network what will not be used.

    Raises
    ------
    ValueError
        If a tensor is missing, left over or of another shape; nothing is loaded then.
    """
    load_strictly(network, {name: tensor.to("meta") for name, tensor in weights.items()}, what)
    cut()
    kept = {name: weights[name].to(torch.float32, copy=True) for name in network.state_dict()}
    network.load_state_dict(kept, assign=True)


def fill_at_random(network: nn.Module, seed: int, cut: Callable[[], None]) -> None:
    """Cut a network on the meta device, and give each layer that is left torch's own random initialisation.

    A layer's weights depend on ``seed`` and on its name, so not on where the network is cut. No global random state
    changes.
    """
    cut()
    network.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        for name, layer in network.named_modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                torch.default_generator.manual_seed(_layer_seed(seed, name))
                reset()


def _layer_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed};{name}".encode(), digest_size=8).digest(), "little") >> 1
