"""Test rows that a user names, matched to the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click
import torch
from torch import Tensor

from fewshot.features import FeatureSet, check_same_extractor

from .options import Decorator, bundle, load_pool

__all__ = ["load_test_rows", "matched_labels", "test_options"]


def test_options(rows_help: str, share_help: str) -> Decorator:
    """Return the options that name test rows, or say how many to hold out."""
    return bundle(
        click.option("--test", metavar="FILE", help=rows_help),
        click.option("--test-labels", metavar="FILE", help="Labels in place of those in --test."),
        click.option(
            "--test-fraction",
            type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
            metavar="X",
            default=0.5,
            help=share_help,
        ),
    )


def load_test_rows(settings: Mapping[str, Any], train: FeatureSet) -> FeatureSet:
    """Read --test, and refuse what another extractor made.

    Raises
    ------
    ValueError
        If the rows are of another length or extractor, or none is of the classes chosen.
    """
    test = load_pool(settings["test"], settings["test_labels"], None)
    n_features, n_train_features = test.features.shape[1], train.features.shape[1]
    if n_features != n_train_features:
        raise ValueError(
            f"{settings['test']} has {n_features} features a row, {settings['features']} {n_train_features}: take both "
            "from one extractor"
        )
    check_same_extractor(train, test, (settings["features"], settings["test"]))
    return test if settings["classes"] is None else _only_classes(settings, test, train.class_names)


def matched_labels(settings: Mapping[str, Any], train: FeatureSet, test: FeatureSet) -> Tensor:
    """Return the test labels as numbers of the training classes of the same names.

    Raises
    ------
    ValueError
        If a class has no training rows.
    """
    positions = {name: position for position, name in enumerate(train.class_names)}
    unknown = [name for name in test.class_names if name not in positions]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the {test.n_classes} classes of {settings['test']} are not among the "
            f"{train.n_classes} training classes, such as {unknown[0]!r}: choose shared ones with --classes"
        )
    return torch.tensor([positions[name] for name in test.class_names])[test.labels]


def _only_classes(settings: Mapping[str, Any], test: FeatureSet, names: Iterable[str]) -> FeatureSet:
    kept = [position for position, name in enumerate(test.class_names) if name in set(names)]
    if not kept:
        raise ValueError(f"{settings['test']} has rows of none of the classes chosen with --classes")
    return test.select_classes(kept)
