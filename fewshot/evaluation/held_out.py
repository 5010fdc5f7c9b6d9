"""Test rows in a file of their own, matched to the training rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.features import FeatureSet, check_same_extractor

__all__ = ["check_test_rows", "matched_labels"]


def check_test_rows(pool: FeatureSet, test: FeatureSet, names: tuple[str, str] = ("pool", "test")) -> None:
    """Check that training and test rows are from one extractor and of one width.

    Parameters
    ----------
    pool, test : FeatureSet
    names : tuple of str
        Names of the two for messages.

    Raises
    ------
    ValueError
        Otherwise.
    """
    n_features, n_train_features = test.features.shape[1], pool.features.shape[1]
    if n_features != n_train_features:
        raise ValueError(
            f"{names[1]} has {n_features} features a row, {names[0]} {n_train_features}: take both from one extractor"
        )
    check_same_extractor(pool, test, names)


def matched_labels(pool: FeatureSet, test: FeatureSet) -> Tensor:
    """Match the classes of the test rows to the training classes of the same names.

    Returns
    -------
    Tensor (n_test,), int64
        The labels of the test rows, as positions in ``pool.class_names``.

    Raises
    ------
    SettingError
        If a class has no training rows.
    """
    positions = {name: position for position, name in enumerate(pool.class_names)}
    unknown = [name for name in test.class_names if name not in positions]
    if unknown:
        raise SettingError(
            "{0} of the {1} classes of {test} are not among the {2} training classes, such as {3!r}: choose shared "
            "ones with {classes}",
            len(unknown),
            test.n_classes,
            pool.n_classes,
            unknown[0],
        )
    return torch.tensor([positions[name] for name in test.class_names], device=test.labels.device)[test.labels]
