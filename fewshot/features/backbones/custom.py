"""The user's own networks, as frozen extractors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fewshot.features.backbones.layers import as_layers, read_network
from fewshot.features.backbones.pooling import Known, check_readout
from fewshot.features.frozen import Built
from fewshot.features.images.preprocess import Preprocess

__all__ = ["build_module"]


def build_module(
    module: nn.Module | Callable[[Tensor], Tensor],
    *,
    preprocess: Preprocess | None = None,
    layers: Sequence[str] = (),
    readout: str = "default",
    name: str = "",
    n_prefix_tokens: int = 0,
    channels_last: bool = False,
) -> Built:
    """Make a feature extractor of any module or function from images to features.

    Parameters
    ----------
    module
        From (b, 3, height, width) float32, normalised by ``preprocess``, to (b, d), (b, tokens, channels) or
        (b, channels, height, width). A module is copied, and the copy set to evaluation mode: the user's own stays as
        it is, in training too. A function is called as it is, and no layers can be read of it.
    preprocess
        What the network expects of an image; None for 224 pixels with ImageNet's mean and deviation.
    layers
        Names of modules inside, as in ``module.named_modules()``, each of which must run once in a forward pass; none
        for the module's own output.
    readout
        How the output of the module or a layer becomes a vector (see `readout`); by default the mean over a map or
        over the tokens, and a vector is left as it is.
    name
        Tells apart networks of one class whose state dict does not: with other constants in the code, for one. A
        function must have one.
    n_prefix_tokens
        Class and register tokens that stand before the patches of an output (b, tokens, channels).
    channels_last
        Whether an output (b, h, w, c) whose shape does not tell has its channels last.

    Returns
    -------
    Built
        Its ``spec`` has the class or function's qualified name and ``name``; the weights are identified by their hash.

    Raises
    ------
    TypeError
        If ``module`` is not callable.
    ValueError
        If a function has no ``name`` or is asked for layers, a layer is unknown or does not run exactly once, or the
        readout is unknown.

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 5, kernel_size=3), nn.ReLU())
    >>> built = build_module(network, preprocess=Preprocess(size=(8, 8)), layers=("0",), name="five filters")
    >>> built.spec["module"], built.spec["name"], built.spec["layers"]
    ('torch.nn.modules.container.Sequential', 'five filters', ['0'])
    """
    layers = as_layers(layers)
    check_readout(readout)
    preprocess = preprocess or Preprocess()
    network = _frozen_copy(module, layers, name)
    known = Known(n_prefix_tokens=n_prefix_tokens, channels_last=channels_last)
    return Built(
        network=read_network(network, layers, readout, known, preprocess.size),
        preprocess=preprocess,
        spec={
            "family": "module",
            "module": _qualified_name(module),
            "name": name,
            "layers": list(layers),
            "readout": readout,
            "n_prefix_tokens": n_prefix_tokens,
            "channels_last": channels_last,
        },
    )


class _Function(nn.Module):
    """A function as a module, without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def _frozen_copy(module: nn.Module | Callable[[Tensor], Tensor], layers: Sequence[str], name: str) -> nn.Module:
    if isinstance(module, nn.Module):
        return copy.deepcopy(module).eval().requires_grad_(False)
    if not callable(module):
        raise TypeError(f"expected a module or a function, got a {type(module).__name__}")
    if layers:
        raise ValueError(
            f"layers are read of modules, got a function and layers {', '.join(layers)}: pass an nn.Module"
        )
    if not name:
        raise ValueError("expected a name for the function, since it has no weights to tell it apart, got none")
    return _Function(module)


def _qualified_name(module: object) -> str:
    kind = module if hasattr(module, "__qualname__") else type(module)
    return f"{kind.__module__}.{kind.__qualname__}"
