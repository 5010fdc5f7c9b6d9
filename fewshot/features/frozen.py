"""`Extractor`: a frozen network with its preprocessing, from uint8 images to features, identified by one key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.images.preprocess import Preprocess

__all__ = ["PRECISIONS", "Built", "Extractor", "Recipe", "weights_hash"]

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
SPEC_VERSION = 1
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Recipe(NamedTuple):
    """Arguments from which `fewshot.features.extractor` builds the same extractor again, as in another process.

    Attributes
    ----------
    name : str
    weights : str, path or None
    precision : str
    options : mapping
    """

    name: str
    weights: str | os.PathLike[str] | None
    precision: str
    options: Mapping[str, object]


class Built(NamedTuple):
    """A network with its preprocessing and specification, as a family of extractors builds it.

    Attributes
    ----------
    network : nn.Module
        (b, 3, height, width) float32, normalised by ``preprocess``, to (b, n_features), or to a mapping from layer to
        (b, n_features of it).
    preprocess : Preprocess
        From a decoded image to the network's input.
    spec : dict
        Everything else that decides the numbers, JSON-serialisable: name, layers, readout ... (weights and precision
        are added by `Extractor`).
    about : dict
        For people, not part of the key: the weights' file, licence, versions.
    """

    network: nn.Module
    preprocess: Preprocess
    spec: Mapping[str, object]
    about: Mapping[str, object] = {}


class Extractor:
    """A frozen feature extractor.

    Parameters
    ----------
    built
        Network, preprocessing and specification. The network is put in evaluation mode, frozen and moved.
    precision
        - ``float32``: nothing is rounded to less.
        - ``tf32``: float32 whose products are rounded on GPUs that can, as torch's convolutions are by default; off by
          about 1e-3.
        - ``bfloat16``, ``float16``: by autocast; off by about 5e-3 and 1e-3.
    device
        Where to compute.
    recipe
        Name, weights and options that it was built from; None for a module or function of the user's own.

    Attributes
    ----------
    spec : dict
        Everything that decides the numbers, JSON-serialisable.
    key : str
        SHA-256 of the specification: features under one key belong together. Batch size, device, the order of the
        images and the weights' file format are not in it.
    about : dict
        For people: the weights' file, licence, versions.
    columns : dict
        The columns [start, stop) of each layer that was asked for; empty for one vector.
    n_features : int
        Taken from a dry run on one black image.

    Raises
    ------
    ValueError
        If the precision is not known, or the network does not return one vector per image.
    """

    def __init__(
        self,
        built: Built,
        *,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        self.recipe = recipe
        self.preprocess, self.about, self.precision = built.preprocess, dict(built.about), precision
        self.spec: dict[str, object] = {
            "spec_version": SPEC_VERSION,
            **built.spec,
            "weights": f"sha256:{weights_hash(built.network)}",
            "preprocess": built.preprocess.spec(),
            "precision": precision,
        }
        self.key = hashlib.sha256(_canonical_json(self.spec).encode()).hexdigest()
        self.network = built.network.eval().requires_grad_(False)
        self.to(device)
        self.columns, self.n_features = self._dry_run()

    def __repr__(self) -> str:
        name = self.spec.get("name") or type(self.network).__name__
        return f"Extractor({name}, {self.n_features} features, key {self.key[:12]})"

    def to(self, device: torch.device | str) -> Extractor:
        """Move the network; on a GPU its convolutions run on channels-last tensors."""
        self.device = torch.device(device)
        self.network.to(self.device)
        if self.device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of preprocessed images.

        Parameters
        ----------
        images
            (b, height, width, 3) uint8, as `Preprocess.apply` makes them, on any device.

        Returns
        -------
        Tensor
            (b, n_features) float32 on the extractor's device; several layers stand side by side in ``columns``.
        """
        outputs = self._outputs(images)
        # Outside of inference mode, so that what is returned is a tensor like any other.
        return outputs.clone() if isinstance(outputs, Tensor) else torch.cat(list(outputs.values()), dim=1)

    @torch.inference_mode()
    def _outputs(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        inputs = self.preprocess.normalise(images.to(self.device, non_blocking=True))
        with _arithmetic(self.precision, self.device):
            outputs = self.network(inputs)
        if isinstance(outputs, Tensor):
            return outputs.float()
        return {layer: output.float() for layer, output in outputs.items()}

    def _dry_run(self) -> tuple[dict[str, tuple[int, int]], int]:
        outputs = self._outputs(torch.zeros((1, *self.preprocess.size, 3), dtype=torch.uint8))
        layers = {"": outputs} if isinstance(outputs, Tensor) else outputs
        for layer, output in layers.items():
            if output.ndim != 2 or len(output) != 1:
                raise ValueError(
                    f"the network must return one vector per image, (b, n_features), but returned shape "
                    f"{tuple(output.shape)} for one image{f' at {layer}' if layer else ''}: choose a readout that pools"
                )
        ends = [0]
        for output in layers.values():
            ends.append(ends[-1] + output.shape[1])
        columns = dict(zip(layers, pairwise(ends), strict=True))
        return ({} if isinstance(outputs, Tensor) else columns), ends[-1]


@contextmanager
def _arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision, whatever the process's settings are, and leave them as they were."""
    dtype = _AUTOCAST.get(precision)
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=precision == "tf32"),
        _matmul_tf32(precision == "tf32"),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        yield


@contextmanager
def _matmul_tf32(is_allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors: names, dtypes, shapes and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
