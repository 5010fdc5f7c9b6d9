"""Trained models ⇄ disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewshot import incremental
from fewshot.checks import check_choice
from fewshot.episodic.unem import UNEM
from fewshot.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from fewshot.incremental import IncrementalClassifier

__all__ = ["load_classifier", "load_unem", "save_classifier", "save_unem"]

_KIND = "unem"
_CLASSIFIER = "classifier"
_CENTER = "setting.center"


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


def save_classifier(model: IncrementalClassifier, path: str | Path, source: Mapping[str, object] | None = None) -> None:
    """Write an incremental classifier, its whole state, to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : IncrementalClassifier
        Fitted; its labels are strings, numbers or booleans.
    path : str or Path
    source : mapping, optional
        What made the features (`FeatureSet.source`).

    Raises
    ------
    TypeError
        If a label or a setting is of a kind that JSON cannot say.
    """
    labels = model.classes_.tolist()
    strange = next((label for label in labels if not isinstance(label, (str, int, float))), None)
    if strange is not None:
        raise TypeError(f"labels must be strings or numbers to be saved, got {strange!r}")
    settings = model.get_params(deep=False)
    tensors = model.tensors()
    if isinstance(settings.get("center"), (Tensor, np.ndarray, list, tuple)):
        tensors |= {_CENTER: torch.as_tensor(settings.pop("center"))}
    metadata = {
        "class": type(model).__name__,
        "settings": settings,
        "classes": labels,
        "n_features": model.n_features_in_,
        "dtype": str(model.dtype_).removeprefix("torch."),
        "source": dict(source or {}),
    }
    save_tensors(path, tensors, kind=_CLASSIFIER, metadata=metadata)


def load_classifier(path: str | Path) -> tuple[IncrementalClassifier, dict[str, object]]:
    """Read an incremental classifier, and what made its features.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a classifier of this library.
    """
    tensors, metadata = load_tensors(path, kind=_CLASSIFIER)
    found: Any = metadata
    try:
        settings = {
            option: tuple(value) if isinstance(value, list) else value for option, value in found["settings"].items()
        }
        if _CENTER in tensors:
            settings["center"] = tensors.pop(_CENTER)
        name = check_choice("classifier", found["class"], incremental.__all__)
        model: IncrementalClassifier = getattr(incremental, name)(**settings)
        dtype = {"float32": torch.float32, "float64": torch.float64}[found["dtype"]]
        return model.restore(found["classes"], tensors, found["n_features"], dtype), dict(found["source"])
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole classifier ({reason}): learn it again with `fewshot learn`") from error
