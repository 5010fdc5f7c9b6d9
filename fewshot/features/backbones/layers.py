"""Outputs of named layers: read by hooks where they leave the module, in one pass that ends with the last of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fewshot.checks import did_you_mean
from fewshot.features.backbones.pooling import Known, read_output

__all__ = [
    "LayerNetwork",
    "OutputNetwork",
    "as_layers",
    "check_layers",
    "in_order",
    "layer_outputs",
    "read_network",
]

# The nearest names of many that a message lists.
N_NEAREST = 3


def as_layers(layers: Iterable[str | int]) -> tuple[str, ...]:
    """Return the names as a tuple of text.

    Raises
    ------
    TypeError
        If ``layers`` is one text: its letters are not layers.
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a sequence of names, got the text {layers!r}: write ({layers!r},)")
    return tuple(str(layer) for layer in layers)


def layer_outputs(
    network: nn.Module, layers: Sequence[str], images: Tensor, read: Callable[[str, Tensor], Tensor]
) -> list[Tensor]:
    """Run a network until every named module has run, and return their outputs.

    Parameters
    ----------
    network
        Left as it was found: its hooks are gone when this returns or raises.
    layers
        Names as in ``network.named_modules()``; of a module that runs more than once, the first run counts.
    images
        The network's input.
    read
        From a layer's name and output to what is kept of it, called as the layer ends, before later layers could
        change the output in place.

    Returns
    -------
    list of Tensor
        What ``read`` gave, in the order of ``layers``, one for each even if a name comes twice.

    Raises
    ------
    ValueError
        If a name is unknown, a module does not run, or its output is not one tensor.
    """
    wanted = {name: _submodule(network, name) for name in dict.fromkeys(layers)}
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if name not in kept:
            tensor = _one_tensor(f"the output of layer {name!r}", output)
            kept[name] = _own(read(name, tensor), tensor)
        if len(kept) == len(wanted):
            raise _AllRead

    _run_hooked(network, wanted, images, keep)
    for name in wanted:
        if name not in kept:
            raise ValueError(f"layer {name!r} does not run when the network does: choose another")
    return [kept[name] for name in layers]


def check_layers(network: nn.Module, layers: Sequence[str], images: Tensor) -> None:
    """Check by one whole run that every named module runs exactly once.

    Raises
    ------
    ValueError
        If a name is unknown, or the module runs not at all or several times: its name then says nothing of which
        output is meant.
    """
    n_runs: Counter[str] = Counter()
    wanted = {name: _submodule(network, name) for name in layers}
    with torch.no_grad():
        _run_hooked(network, wanted, images, lambda name, _: n_runs.update([name]))
    for name in wanted:
        if n_runs[name] != 1:
            raise ValueError(
                f"layer {name!r} runs {n_runs[name]} times in one forward pass: choose a module that runs once, "
                "such as the block it is in"
            )


class _AllRead(BaseException):
    """Leaves a network whose remaining layers nobody asked for; not an Exception, lest the network catch it."""


def _run_hooked(
    network: nn.Module, wanted: Mapping[str, nn.Module], images: Tensor, act: Callable[[str, object], None]
) -> None:
    def hook_of(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: act(name, output)

    handles = [module.register_forward_hook(hook_of(name)) for name, module in wanted.items()]
    try:
        network(images)
    except _AllRead:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _submodule(network: nn.Module, name: str) -> nn.Module:
    names = [known for known, _ in network.named_modules(remove_duplicate=False) if known]
    if name in names:
        return network.get_submodule(name)
    hint = did_you_mean(name, names, n_nearest=N_NEAREST)
    raise ValueError(f"unknown layer {name!r}{hint} named_modules() of the network lists them")


def _one_tensor(what: str, output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"{what} is a {type(output).__name__}, not one tensor: choose a layer that gives one")
    return output


def _own(value: Tensor, output: Tensor) -> Tensor:
    """Copy outputs that share memory with the layer, where a later layer could write."""
    shares = value.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
    return value.clone() if shares else value


# From images to vectors


def read_network(
    network: nn.Module, layers: Sequence[str], kind: str, known: Known, size: tuple[int, int]
) -> OutputNetwork | LayerNetwork:
    """Make a network give vectors: of its layers, checked by one run on an empty image, or of its own output.

    Parameters
    ----------
    network
        In evaluation mode.
    layers
        Names as in ``network.named_modules()``; none for its own output.
    kind
        One of `READOUTS`.
    known
        What the shapes of the outputs do not tell.
    size
        (height, width) of the images.

    Raises
    ------
    ValueError
        If a layer is unknown or does not run exactly once.
    """
    if not layers:
        return OutputNetwork(network, kind, known)
    check_layers(network, layers, torch.zeros(1, 3, *size))
    return LayerNetwork(network, layers, kind, known)


class OutputNetwork(nn.Module):
    """A network whose own output is read as a vector per image.

    Parameters
    ----------
    network
        Any module from images to a tensor.
    kind
        One of `READOUTS`.
    known
        What the shape of the output does not tell.
    """

    def __init__(self, network: nn.Module, kind: str, known: Known) -> None:
        super().__init__()
        self.network = network
        self.kind = kind
        self.known = known

    def forward(self, images: Tensor) -> Tensor:
        """Return (b, d)."""
        return self._read(self.network(images), images)

    def _read(self, output: object, images: Tensor) -> Tensor:
        return read_output(
            _one_tensor("the network's output", output), self.kind, images, self.known, "the network's output"
        )


class LayerNetwork(nn.Module):
    """A network that gives a vector per image for each of some layers, in one pass that ends with the last of them.

    Parameters
    ----------
    network
        Any module that takes images.
    layers
        Names as in its ``named_modules()``.
    kind
        One of `READOUTS`.
    known
        What the shapes of the outputs do not tell.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], kind: str, known: Known) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.kind = kind
        self.known = known

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return (b, d) for one layer; for several, one such by name, in the order asked for."""

        def read(name: str, output: Tensor) -> Tensor:
            return read_output(output, self.kind, images, self.known, f"layer {name!r}")

        return in_order(self.layers, layer_outputs(self.network, self.layers, images, read))


def in_order(layers: Sequence[str], outputs: Sequence[Tensor]) -> Tensor | dict[str, Tensor]:
    """Return the only output as it is, several by name."""
    return outputs[0] if len(layers) == 1 else dict(zip(layers, outputs, strict=True))
