"""Published checkpoints to tensors and networks: nothing in a file is executed, and nothing is loaded in part.

The order of use: `load_state_dict_file` reads, `unwrap` finds the weights, `strip_prefixes` gives them their plain
names, `load_strictly` puts them into a network.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["PREFIXES", "check_fits", "listed", "load_state_dict_file", "load_strictly", "strip_prefixes", "unwrap"]

PREFIXES = ("module.", "backbone.", "encoder.")
# How many names a message gives before it only counts.
_N_NAMED = 3


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read a checkpoint as it is, on the CPU, without running any code in it.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or anything written by ``torch.save``, which is mapped into memory where its format
        allows: the optimiser's state of a training checkpoint is then never read.

    Returns
    -------
    dict
        Names to tensors, or to whatever a training checkpoint holds beside them. Of objects, only the
        ``argparse.Namespace`` of its arguments and NumPy scalars (learning rates) may be among it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is cut short, is no checkpoint, is not a mapping, or holds an object of another kind; the message
        names that object's global.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    contents = _read_safetensors(path) if Path(path).suffix == ".safetensors" else _read_torch(path)
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path}: expected a checkpoint with names and tensors, got one {type(contents).__name__}")
    return {str(name): value for name, value in contents.items()}


def unwrap(checkpoint: Mapping[str, object], key: str = "teacher") -> dict[str, Tensor]:
    """Find the weights in a checkpoint: under ``key``, else ``state_dict``, else ``model``, else at its top level.

    Raises
    ------
    ValueError
        If none of these is a mapping of names to tensors; the message lists what is there.

    Examples
    --------
    >>> weight = torch.zeros(2)
    >>> list(unwrap({"student": {"a": weight}, "teacher": {"b": weight}, "epoch": 7}))
    ['b']
    >>> list(unwrap({"a": weight}))
    ['a']
    """
    keys = dict.fromkeys((key, "state_dict", "model"))
    state = next((checkpoint[name] for name in keys if name in checkpoint), checkpoint)
    entries: Mapping[str, object] = state if isinstance(state, Mapping) else {}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(entries):
        raise ValueError(
            f"expected weights under {', '.join(map(repr, keys))} or at the top level of the checkpoint, "
            f"got {listed(checkpoint)}: name the key that holds them"
        )
    return tensors


def strip_prefixes(state: Mapping[str, Tensor], prefixes: Sequence[str] = PREFIXES) -> dict[str, Tensor]:
    """Remove prefixes from the front of names, as often as they come, and leave the rest of every name alone.

    Raises
    ------
    ValueError
        If two names become one.

    Examples
    --------
    >>> list(strip_prefixes({"module.backbone.norm.weight": torch.ones(2), "neck.encoder.bias": torch.ones(2)}))
    ['norm.weight', 'neck.encoder.bias']
    """
    stripped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = _without_prefixes(name, tuple(prefixes))
        if short in stripped:
            raise ValueError(f"two tensors of the checkpoint are called {short!r} without their prefixes")
        stripped[short] = tensor
    return stripped


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy weights into a network if they are exactly its own, by name and shape; otherwise copy nothing.

    Parameters
    ----------
    network
        Changed in place.
    state
        Its ``state_dict``, in any floating dtype.
    what
        What the weights are, for the message: a file's name, or a file's and a network's.

    Raises
    ------
    ValueError
        If a tensor is missing, left over or of another shape; one line counts them and names the first few.
    """
    check_fits(network.state_dict(), state, what)
    network.load_state_dict(state)


def check_fits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not exactly the ones expected, by name and shape.

    Raises
    ------
    ValueError
        As `load_strictly` says.
    """
    faults = {
        "missing": [name for name in expected if name not in state],
        "left over": [name for name in state if name not in expected],
        "mis-shaped": _misshapen(expected, state),
    }
    said = "; ".join(f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names)
    if said:
        raise ValueError(f"{what}: expected the network's {len(expected)} tensors, got {said}")


def _misshapen(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors whose shapes differ, with both shapes."""
    pairs = [(name, state[name].shape, tensor.shape) for name, tensor in expected.items() if name in state]
    return [f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in pairs if found != wanted]


def _read_safetensors(path: str | os.PathLike[str]) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got something else or a part of one ({error})"
        ) from error


def _read_torch(path: str | os.PathLike[str]) -> object:
    is_archive = zipfile.is_zipfile(path)
    with Path(path).open("rb") as file:
        begins_archive = file.read(4) == b"PK\x03\x04"
    if begins_archive and not is_archive:
        raise ValueError(f"{path}: expected a whole checkpoint, got the beginning of one: download it again")
    try:
        with _harmless_globals(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch announces the files that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: {_reason(str(error))}") from error


def _harmless_globals() -> AbstractContextManager[None]:
    """Let weights-only loading build a training run's arguments and NumPy scalars; neither runs code."""
    scalar: Callable[..., object] = type(np.float64(0)).__reduce__(np.float64(0))[0]  # type: ignore[assignment]
    return torch.serialization.safe_globals(
        [
            argparse.Namespace,
            np.dtype,
            *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "?")),
            *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        ]
    )


def _reason(message: str) -> str:
    """Explain in one line the refusal of a file by ``torch.load``."""
    refused = re.search(r"GLOBAL ([\w.]+)", message)
    if refused:
        return (
            f"refused, since it holds a {refused[1]}, and only tensors, plain values and argparse.Namespace are read: "
            "save its state_dict alone"
        )
    if "TorchScript" in message:
        return "refused, since it is a TorchScript program, and nothing is run: save its state_dict alone"
    return "expected a checkpoint written by torch.save, got something else or a part of one"


def _without_prefixes(name: str, prefixes: tuple[str, ...]) -> str:
    found = next((prefix for prefix in prefixes if prefix and name.startswith(prefix)), None)
    return name if found is None else _without_prefixes(name.removeprefix(found), prefixes)


def listed(names: Iterable[str]) -> str:
    """Name the first few, and count the others.

    Examples
    --------
    >>> listed("abcde"), listed(())
    ('a, b, c and 2 more', 'nothing')
    """
    known = list(names)
    more = f" and {len(known) - _N_NAMED} more" if len(known) > _N_NAMED else ""
    return f"{', '.join(known[:_N_NAMED]) or 'nothing'}{more}"
