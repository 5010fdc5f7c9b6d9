"""Classes, and shots of known ones, added to an incremental classifier on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fewshot.checks import SettingError
from fewshot.features import FeatureSet
from fewshot.incremental import IncrementalClassifier
from fewshot.incremental_models.rows import check_fits, read_rows
from fewshot.models import load_classifier, save_classifier
from fewshot.registry.incremental import build_classifier

__all__ = ["DEFAULT_METHOD", "N_FOLDS", "LearnSettings", "Learned", "learn"]

DEFAULT_METHOD = "teen-auto"
"""How a new classifier learns."""
N_FOLDS = 5
"""Parts of the base session's rows from which rejection is calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """The settings of `learn`.

    Parameters
    ----------
    method : str, optional
        ``name`` or ``name:option=value,...`` as `fewshot.build_classifier` takes it. Default: that of the file, for a
        new one `DEFAULT_METHOD`.
    is_base : bool, optional
        Whether classes that the classifier does not know are base classes, of many items each, or new ones of few.
        Default: base classes for a new classifier.

    Raises
    ------
    ValueError
        If the method is not known.
    """

    method: str | None = None
    is_base: bool | None = None

    def __post_init__(self) -> None:
        build_classifier(self.method or DEFAULT_METHOD)


class Learned(NamedTuple):
    """The result of `learn`.

    Attributes
    ----------
    classifier : IncrementalClassifier
        As it was written.
    is_base : bool
        Whether the rows were taken as a base session.
    is_calibrated : bool
        Whether rejection was calibrated: on a base session with a class of `N_FOLDS` rows.
    new_classes, more_shots : dict of str to int
        The rows of each class that was learned, and of each that was known before.
    """

    classifier: IncrementalClassifier
    is_base: bool
    is_calibrated: bool
    new_classes: dict[str, int]
    more_shots: dict[str, int]

    @property
    def n_rows(self) -> int:
        """All rows."""
        return sum(self.new_classes.values()) + sum(self.more_shots.values())


class _Opened(NamedTuple):
    """A classifier, the source of the features that it has learned, and whether it is a new one."""

    classifier: IncrementalClassifier
    source: Mapping[str, object]
    is_new: bool


def learn(
    model: str | os.PathLike[str],
    rows: FeatureSet | Callable[[], FeatureSet],
    settings: LearnSettings | None = None,
    *,
    rows_name: str = "the pool",
) -> Learned:
    """Teach the classifier of a file classes, a few items of each; without the file, make it.

    The first call's classes are the base session. Rows of a class that is known are more shots of it. The file is
    replaced only when all is done.

    Parameters
    ----------
    model : str or path
        The .safetensors file.
    rows : FeatureSet or callable
        Those without a label are left out; a callable reads them once the file was found to be in order.
    settings : LearnSettings, optional
        Default: those of ``fewshot learn``.
    rows_name : str
        For messages, such as the file of the rows.

    Returns
    -------
    Learned

    Raises
    ------
    SettingError
        If the file is of another method.
    ValueError
        If the file is no classifier, or the rows are of another extractor or width than it has learned.

    Examples
    --------
    >>> import tempfile
    >>> birds = FeatureSet.from_arrays([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]], ["crow", "crow", "wren"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     learned = learn(f"{folder}/birds.safetensors", birds, LearnSettings(method="ncm"))
    >>> learned.new_classes, learned.is_base
    ({'crow': 2, 'wren': 1}, True)
    """
    settings, path = settings or LearnSettings(), os.fspath(model)
    opened = _open(path, settings.method)
    pool = read_rows(rows).labelled()
    classifier = opened.classifier
    if not opened.is_new:
        check_fits(classifier, opened.source, pool, (path, rows_name))
    known = set() if opened.is_new else set(classifier.classes_.tolist())
    is_base = opened.is_new if settings.is_base is None else settings.is_base
    names = np.array(pool.class_names)[pool.labels.cpu().numpy()]
    classifier.partial_fit(pool.features, names, base=is_base)
    is_calibrated = is_base and int(pool.class_counts().max()) >= N_FOLDS
    if is_calibrated:
        classifier.calibrate_rejection(pool.features, names, n_folds=N_FOLDS)
    save_classifier(classifier, path, opened.source or pool.source)
    return Learned(classifier, is_base, is_calibrated, *_counts(pool, known))


def _open(path: str, method: str | None) -> _Opened:
    """Read the classifier, or build a new one.

    Raises
    ------
    SettingError
        If it is of another method than the one asked for.
    """
    if not Path(path).exists():
        return _Opened(build_classifier(method or DEFAULT_METHOD), {}, is_new=True)
    classifier, source = load_classifier(path)
    wanted = repr(classifier) if method is None else repr(build_classifier(method))
    if wanted != repr(classifier):
        raise SettingError(
            "{0} is a {1}, {method} asks for a {2}: leave {method} out, or name another file", path, classifier, wanted
        )
    return _Opened(classifier, source, is_new=False)


def _counts(pool: FeatureSet, known: set[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the rows of each class that is new, and of each that is known."""
    counts = dict(zip(pool.class_names, torch.bincount(pool.labels, minlength=pool.n_classes).tolist(), strict=True))
    return (
        {name: count for name, count in counts.items() if name not in known},
        {name: count for name, count in counts.items() if name in known},
    )
