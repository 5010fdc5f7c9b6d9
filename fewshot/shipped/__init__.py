"""Learned numbers that come with the library as files, and the models that they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewshot.episodic.unem.adaptive import UNEMAdaptive
from fewshot.storage import load_tensors, save_tensors

__all__ = ["adaptive_unem", "load_unem_adaptive", "save_unem_adaptive"]

_KIND = "unem-adaptive"
_ADAPTIVE = Path(__file__).with_name("unem_adaptive.safetensors")


def adaptive_unem() -> UNEMAdaptive:
    """Return adaptive UNEM with the numbers that ship with the library: good without any training.

    Examples
    --------
    >>> adaptive_unem().n_schedules
    4
    """
    return load_unem_adaptive(_ADAPTIVE)


def save_unem_adaptive(model: UNEMAdaptive, path: str | Path) -> None:
    """Write a model to a safetensors file, whole or not at all."""
    metadata = {"settings": model.settings(), "origin": model.origin}
    save_tensors(path, model.state_dict(), kind=_KIND, metadata=metadata)


def load_unem_adaptive(path: str | Path) -> UNEMAdaptive:
    """Read a model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no model of this kind.
    """
    tensors, metadata = load_tensors(path, kind=_KIND)
    found: Any = metadata
    try:
        model = UNEMAdaptive(**found["settings"])
        model.load_state_dict(tensors)
        model.origin = found["origin"]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole model of adaptive UNEM ({reason}): write it again") from error
    return model.requires_grad_(False).eval()
