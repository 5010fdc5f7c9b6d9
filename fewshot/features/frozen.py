"""`Extractor`: a frozen network with its preprocessing, from uint8 images to features, identified by one key."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewshot.checks import check_choice
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.runtimes.cache import NetworkName
from fewshot.features.runtimes.choice import AUTO, EAGER, RUNTIMES, Prepared, is_cached, prepare
from fewshot.features.runtimes.forward import ForwardPass, in_chunks

__all__ = ["PRECISIONS", "Built", "Extractor", "Recipe", "weights_hash"]

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
SPEC_VERSION = 1
# Below so many images, compiling a network, or loading a compiled one, takes longer than it saves.
_N_WORTH_COMPILING, _N_WORTH_LOADING = 256, 32
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Recipe(NamedTuple):
    """Arguments from which `fewshot.features.extractor` builds the same extractor again, as in another process.

    Attributes
    ----------
    name : str
    weights : str, path or None
    precision : str
    options : mapping
    runtime : str
    """

    name: str
    weights: str | os.PathLike[str] | None
    precision: str
    options: Mapping[str, object]
    runtime: str = AUTO


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
        - ``bfloat16``, ``float16``: by autocast; off by about 5e-3 and 1e-3. bfloat16 on a CPU is the runtime's own.
    device
        Where to compute.
    runtime
        How the network runs on a CPU; see `fewshot.features.runtimes.prepare`. ``auto`` (default) compiles a network
        that was built by name, by the fastest runtime that is installed and agrees with torch, once `expect` says that
        it is worth the seconds. Any other is prepared at once. A GPU runs eager torch.
    recipe
        Name, weights and options that it was built from; None for a module or function of the user's own.

    Attributes
    ----------
    spec : dict
        Everything that decides the numbers, JSON-serialisable.
    key : str
        SHA-256 of the specification: features under one key belong together. Batch size, device, the order of the
        images, the weights' file format and, in float32, the runtime are not in it: all runtimes agree to 1e-5.
    about : dict
        For people: the weights' file, licence, versions.
    columns : dict
        The columns [start, stop) of each layer that was asked for; empty for one vector.
    n_features : int
        Taken from a dry run on one black image.
    runtime : str
        The runtime of the next call: ``eager`` until another one is prepared.

    Raises
    ------
    ValueError
        If the precision or runtime is not known, the network does not return one vector per image, or the runtime that
        is named cannot run it.
    ImportError
        If the runtime that is named is not installed.
    """

    def __init__(
        self,
        built: Built,
        *,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        recipe: Recipe | None = None,
        runtime: str = AUTO,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        check_choice("runtime", runtime, RUNTIMES)
        self.recipe = recipe
        self.preprocess, self.about, self.precision = built.preprocess, dict(built.about), precision
        self.spec: dict[str, object] = {
            "spec_version": SPEC_VERSION,
            **built.spec,
            "weights": f"sha256:{weights_hash(built.network)}",
            "preprocess": built.preprocess.spec(),
            "precision": precision,
        }
        self.key = _key(self.spec)
        self.network = built.network.eval().requires_grad_(False)
        self._prepared = Prepared(EAGER, self._eager)
        self._is_undecided = runtime == AUTO
        self.to(device)
        self.columns, self.n_features = self._dry_run()
        if runtime not in (AUTO, EAGER):
            self._prepare(runtime)
        elif runtime == AUTO and precision == "bfloat16":
            self._prepare(AUTO)  # now: it decides the numbers, and so the key

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

    @property
    def runtime(self) -> str:
        """The runtime of the next call."""
        return self._prepared.runtime

    def expect(self, n_images: int) -> None:
        """Prepare the fastest runtime if none was named and so many images are worth it.

        That is from 256 images on, or 32 of a network that was compiled before. A warning says why an installed runtime
        is not used.
        """
        if self._is_undecided and (n_images >= _N_WORTH_COMPILING or self._is_worth_loading(n_images)):
            self._prepare(AUTO)

    def _is_worth_loading(self, n_images: int) -> bool:
        return (
            n_images >= _N_WORTH_LOADING
            and self._is_compilable(AUTO)
            and is_cached(self._network_name(), self.precision)
        )

    def _network_name(self) -> NetworkName:
        return NetworkName(self.recipe.name if self.recipe else "", self.key)

    def _prepare(self, runtime: str) -> None:
        self._is_undecided = False
        if not self._is_compilable(runtime):
            return
        network = None if self.recipe is None else self._network_name()
        forward = ForwardPass(self.network, self.preprocess).eval()
        self._prepared = prepare(forward, self._eager, runtime=runtime, precision=self.precision, network=network)
        for reason in self._prepared.refusals.values():
            warnings.warn(reason, stacklevel=4)
        if self.precision != "float32" and self.runtime != EAGER:
            self.spec["precision"] = f"{self.precision}, {self.runtime}"
            self.key = _key(self.spec)

    def _is_compilable(self, runtime: str) -> bool:
        """Whether a runtime may be tried; one that is named and cannot compute so is an error."""
        is_possible = self.device.type == "cpu" and self.precision in ("float32", "bfloat16")
        if runtime != AUTO and not is_possible:
            raise ValueError(
                f"runtime {runtime!r} is for float32 or bfloat16 on a CPU, got {self.precision} on {self.device}: use "
                "eager"
            )
        # A tracer would miss what a network, or a user's own function, computes from the values that it gets.
        is_traceable = self.recipe is not None and getattr(self.network, "is_traceable", True)
        return is_possible and (is_traceable or runtime != AUTO)

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
        if self.device.type == "cpu":
            return torch.cat(list(self._prepared.run(images.cpu())), dim=1)
        # Outside of inference mode, so that what is returned is a tensor like any other.
        return torch.cat(list(self._outputs(images).values()), dim=1)

    def _eager(self, images: Tensor) -> Sequence[Tensor]:
        """Return the outputs of each layer by eager torch, a few images at a time: activations stay in the cache."""
        return in_chunks(lambda chunk: list(self._outputs(chunk).values()), images, is_padded=False)

    @torch.inference_mode()
    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by layer; of one vector per image, under the name of nothing."""
        inputs = self.preprocess.normalise(images.to(self.device, non_blocking=True))
        with _arithmetic(self.precision, self.device):
            outputs = self.network(inputs)
        layers = {"": outputs} if isinstance(outputs, Tensor) else outputs
        return {layer: output.float() for layer, output in layers.items()}

    def _dry_run(self) -> tuple[dict[str, tuple[int, int]], int]:
        layers = self._outputs(torch.zeros((1, *self.preprocess.size, 3), dtype=torch.uint8))
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
        return ({} if list(layers) == [""] else columns), ends[-1]


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


def _key(spec: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical_json(spec).encode()).hexdigest()


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
