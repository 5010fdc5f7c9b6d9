"""Trained models ⇄ disk: UNEM, incremental classifiers and category discoverers in safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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

Model = TypeVar("Model")
_CENTER = "setting.center"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class _Kind(NamedTuple):
    """A kind of model file: its key, noun and advice for error messages, and the key of the model's origin."""

    key: str
    noun: str
    advice: str
    origin: str


_UNEM = _Kind("unem", "UNEM model", "train it again with `fewshot train`", "training")
_CLASSIFIER = _Kind("classifier", "classifier", "learn it again with `fewshot learn`", "source")
_DISCOVERER = _Kind("discoverer", "discoverer", "fit and save it again", "source")


def save_unem(model: UNEM, path: str | Path, training: Mapping[str, object] | None = None) -> None:
    """Write a UNEM model to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : UNEM
    path : str or Path
    training : mapping, optional
        The training data and settings as JSON values, such as the names of the classes.
    """
    metadata = {"settings": model.settings(), "origin": model.origin, "training": dict(training or {})}
    save_tensors(path, model.state_dict(), kind=_UNEM.key, metadata=metadata)


def load_unem(path: str | Path) -> tuple[UNEM, dict[str, object]]:
    """Read a UNEM model and the facts of its training.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a UNEM model of this library.
    """
    model, training = _restored(path, _UNEM, _unem)
    model.origin = f"{model.origin} ({Path(path).name})"
    return model, training


def save_classifier(model: IncrementalClassifier, path: str | Path, source: Mapping[str, object] | None = None) -> None:
    """Write an incremental classifier, its whole state, to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : IncrementalClassifier
        Fitted; its labels are strings, numbers or booleans.
    path : str or Path
    source : mapping, optional
        The source of the features (`FeatureSet.source`).

    Raises
    ------
    TypeError
        If a label or a setting has no JSON form.
    """
    settings = model.get_params(deep=False)
    tensors = model.tensors()
    if isinstance(settings.get("center"), (Tensor, np.ndarray, list, tuple)):
        tensors |= {_CENTER: torch.as_tensor(settings.pop("center"))}
    metadata = _metadata(model, settings, source)
    save_tensors(path, tensors, kind=_CLASSIFIER.key, metadata=metadata)


def load_classifier(path: str | Path) -> tuple[IncrementalClassifier, dict[str, object]]:
    """Read an incremental classifier, and the source of its features.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a classifier of this library.
    """
    return _restored(path, _CLASSIFIER, _classifier)


def save_discoverer(model: CategoryDiscoverer, path: str | Path, source: Mapping[str, object] | None = None) -> None:
    """Write a fitted category discoverer to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : CategoryDiscoverer
        Fitted; its known labels are strings, numbers or booleans. Its trace is not kept.
    path : str or Path
    source : mapping, optional
        The source of the features (`FeatureSet.source`).

    Raises
    ------
    TypeError
        If a label or a setting has no JSON form.
    """
    settings = {name: value for name, value in model.get_params(deep=False).items() if name != "progress"}
    metadata = _metadata(model, settings, source) | {"n_known": model.n_known_}
    save_tensors(path, model.tensors(), kind=_DISCOVERER.key, metadata=metadata)


def load_discoverer(path: str | Path) -> tuple[CategoryDiscoverer, dict[str, object]]:
    """Read a category discoverer, to `predict` with, and the source of its features.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a discoverer of this library.
    """
    return _restored(path, _DISCOVERER, _discoverer)


def _restored(
    path: str | Path, kind: _Kind, build: Callable[[dict[str, Tensor], Any], Model]
) -> tuple[Model, dict[str, object]]:
    """Read a file, and build its model from tensors and metadata; return the model and its origin."""
    tensors, metadata = load_tensors(path, kind=kind.key)
    found: Any = metadata
    try:
        return build(tensors, found), dict(found[kind.origin])
    except (KeyError, TypeError, RuntimeError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole {kind.noun} ({reason}): {kind.advice}") from error


def _unem(tensors: dict[str, Tensor], metadata: Any) -> UNEM:
    model = UNEM(**metadata["settings"])
    model.load_state_dict(tensors)
    model.origin = metadata["origin"]
    return model


def _classifier(tensors: dict[str, Tensor], metadata: Any) -> IncrementalClassifier:
    center = {"center": tensors.pop(_CENTER)} if _CENTER in tensors else {}
    model: IncrementalClassifier = _estimator(_CLASSIFIER, incremental, metadata, **center)
    return model.restore(metadata["classes"], tensors, metadata["n_features"], _DTYPES[metadata["dtype"]])


def _discoverer(tensors: dict[str, Tensor], metadata: Any) -> CategoryDiscoverer:
    model: CategoryDiscoverer = _estimator(_DISCOVERER, discovery, metadata)
    dtype = _DTYPES[metadata["dtype"]]
    return model.restore(metadata["classes"], tensors, metadata["n_features"], dtype)


def _estimator(kind: _Kind, package: ModuleType, metadata: Any, **settings: object) -> Any:
    """Build an estimator of one of the public classes of a package, from its settings with JSON's lists as tuples."""
    classes = [name for name in package.__all__ if name[0].isupper()]
    name = check_choice(kind.noun, metadata["class"], classes)
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in metadata["settings"].items()}
    return getattr(package, name)(**stored, **settings)


def _metadata(
    model: IncrementalClassifier | CategoryDiscoverer,
    settings: Mapping[str, object],
    source: Mapping[str, object] | None,
) -> dict[str, object]:
    """Return everything that restores an estimator, except its tensors."""
    labels = model.classes_.tolist()
    unsupported = next((label for label in labels if not isinstance(label, (str, int, float))), None)
    if unsupported is not None:
        raise TypeError(f"labels must be strings or numbers to be saved, got {unsupported!r}")
    return {
        "class": type(model).__name__,
        "settings": dict(settings),
        "classes": labels,
        "n_features": model.n_features_in_,
        "dtype": str(model.dtype_).removeprefix("torch."),
        "source": dict(source or {}),
    }
