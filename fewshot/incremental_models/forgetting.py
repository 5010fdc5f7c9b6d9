"""Classes taken out of an incremental classifier on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable

from fewshot.checks import did_you_mean
from fewshot.incremental import IncrementalClassifier
from fewshot.models import load_classifier, save_classifier

__all__ = ["forget"]


def forget(model: str | os.PathLike[str], names: Iterable[str]) -> IncrementalClassifier:
    """Make the classifier of a file forget classes, as if they had never come.

    Parameters
    ----------
    model : str or path
        The .safetensors file of `learn`; replaced only when all is done.
    names : iterable of str
        Classes that it knows.

    Returns
    -------
    IncrementalClassifier
        As it was written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a class is not known; nothing is forgotten.
    """
    path = os.fspath(model)
    classifier, source = load_classifier(path)
    for name in names:
        known = classifier.classes_.tolist()
        if name not in known:
            raise ValueError(f"{path} knows no class {name!r}{did_you_mean(name, known)}")
        classifier.remove_class(name)
    save_classifier(classifier, path, source)
    return classifier
