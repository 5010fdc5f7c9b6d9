"""Checks of features for methods that find a class's column by its number."""

from __future__ import annotations

from collections.abc import Mapping

import click

from fewshot.episodic.method import Method, n_class_columns
from fewshot.evaluation import fitted_methods
from fewshot.features import FeatureSet

__all__ = ["check_columns"]


def check_columns(methods: Mapping[str, Method], pool: FeatureSet, classes: str | None = None) -> None:
    """Check that each class has the column of its number, for methods that take such columns.

    Parameters
    ----------
    methods
        By what the user calls them.
    pool
    classes
        The words of ``--classes``, which numbers classes anew while columns keep their places.

    Raises
    ------
    click.UsageError
        If ``classes`` is given.
    ValueError
        If the columns are not as many as the classes, or were made in another order of their names.
    """
    for name, method in methods.items():
        if classes is not None and n_class_columns(method, pool.features.shape[1]):
            raise click.UsageError(
                f"--classes numbers the classes anew, but the columns that {name} takes belong to all of them: "
                "leave out --classes, or import the features of these classes alone"
            )
    fitted_methods.check_columns(methods, pool)
