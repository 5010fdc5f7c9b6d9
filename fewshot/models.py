"""Trained models ⇄ disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewshot.episodic.unem import UNEM
from fewshot.storage import load_tensors, save_tensors

__all__ = ["load_unem", "save_unem"]

_KIND = "unem"


def save_unem(model: UNEM, path: str | Path, training: Mapping[str, object] | None = None) -> None:
    """Write a UNEM model to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : UNEM
    path : str or Path
    training : mapping, optional
        What the model was trained on (JSON values), such as the names of its classes.
    """
    metadata = {"settings": model.settings(), "origin": model.origin, "training": dict(training or {})}
    save_tensors(path, model.state_dict(), kind=_KIND, metadata=metadata)


def load_unem(path: str | Path) -> tuple[UNEM, dict[str, object]]:
    """Read a UNEM model and what it was trained on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a UNEM model of this library.
    """
    tensors, metadata = load_tensors(path, kind=_KIND)
    try:
        model = UNEM(**metadata["settings"])  # type: ignore[arg-type]
        model.load_state_dict(tensors)
        model.origin = f"{metadata['origin']} ({Path(path).name})"
        return model, dict(metadata["training"])  # type: ignore[call-overload]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole UNEM model ({reason}): train it again with `fewshot train`") from error
