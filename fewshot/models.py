"""Trained models ⇄ disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewshot import discovery, incremental
from fewshot.checks import check_choice
from fewshot.episodic.unem.model import UNEM
from fewshot.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from fewshot.discovery import CategoryDiscoverer
    from fewshot.incremental import IncrementalClassifier

__all__ = ["load_classifier", "load_discoverer", "load_unem", "save_classifier", "save_discoverer", "save_unem"]

_KIND = "unem"
_CLASSIFIER = "classifier"
_DISCOVERER = "discoverer"
_CENTER = "setting.center"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
    settings = model.get_params(deep=False)
    tensors = model.tensors()
    if isinstance(settings.get("center"), (Tensor, np.ndarray, list, tuple)):
        tensors |= {_CENTER: torch.as_tensor(settings.pop("center"))}
    metadata = _metadata(model, settings, source)
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
        settings = _read_settings(found["settings"])
        if _CENTER in tensors:
            settings["center"] = tensors.pop(_CENTER)
        name = check_choice("classifier", found["class"], incremental.__all__)
        model: IncrementalClassifier = getattr(incremental, name)(**settings)
        return model.restore(found["classes"], tensors, found["n_features"], _DTYPES[found["dtype"]]), dict(
            found["source"]
        )
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole classifier ({reason}): learn it again with `fewshot learn`") from error


def save_discoverer(model: CategoryDiscoverer, path: str | Path, source: Mapping[str, object] | None = None) -> None:
    """Write a fitted category discoverer to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : CategoryDiscoverer
        Fitted; its known labels are strings, numbers or booleans. Its trace is not kept.
    path : str or Path
    source : mapping, optional
        What made the features (`FeatureSet.source`).

    Raises
    ------
    TypeError
        If a label or a setting is of a kind that JSON cannot say.
    """
    settings = {name: value for name, value in model.get_params(deep=False).items() if name != "progress"}
    metadata = _metadata(model, settings, source) | {"n_known": model.n_known_}
    save_tensors(path, model.tensors(), kind=_DISCOVERER, metadata=metadata)


def load_discoverer(path: str | Path) -> tuple[CategoryDiscoverer, dict[str, object]]:
    """Read a category discoverer, to `predict` with, and what made its features.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a discoverer of this library.
    """
    tensors, metadata = load_tensors(path, kind=_DISCOVERER)
    found: Any = metadata
    try:
        name = check_choice("discoverer", found["class"], discovery.__all__)
        model: CategoryDiscoverer = getattr(discovery, name)(**_read_settings(found["settings"]))
        dtype = _DTYPES[found["dtype"]]
        model.restore(found["classes"], tensors, found["n_known"], found["n_features"], dtype)
        return model, dict(found["source"])
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole discoverer ({reason}): fit and save it again") from error


def _metadata(
    model: IncrementalClassifier | CategoryDiscoverer,
    settings: Mapping[str, Any],
    source: Mapping[str, object] | None,
) -> dict[str, Any]:
    """Return what makes an estimator again, but for its tensors."""
    labels = model.classes_.tolist()
    strange = next((label for label in labels if not isinstance(label, (str, int, float))), None)
    if strange is not None:
        raise TypeError(f"labels must be strings or numbers to be saved, got {strange!r}")
    return {
        "class": type(model).__name__,
        "settings": dict(settings),
        "classes": labels,
        "n_features": model.n_features_in_,
        "dtype": str(model.dtype_).removeprefix("torch."),
        "source": dict(source or {}),
    }


def _read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with JSON's lists as tuples."""
    return {option: tuple(value) if isinstance(value, list) else value for option, value in settings.items()}
