"""Methods that find a class's column by its number: what must hold for them of the features."""

from __future__ import annotations

from collections.abc import Mapping

import click

from fewshot.episodic.method import Method, check_class_columns, n_class_columns
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
        if not n_class_columns(method, pool.features.shape[1]):
            continue
        if classes is not None:
            raise click.UsageError(
                f"--classes numbers the classes anew, but the columns that {name} takes belong to all of them: "
                "leave out --classes, or import the features of these classes alone"
            )
        _check_pool(name, method, pool)


def _check_pool(name: str, method: Method, pool: FeatureSet) -> None:
    try:
        check_class_columns(method, pool.features.shape[1], pool.n_classes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    spec = pool.source.get("extractor")
    texts = spec.get("class_names") if isinstance(spec, Mapping) else None
    own = list(pool.class_names)
    if texts is not None and list(texts) != own and sorted(texts) == sorted(own):
        place, text, own_name = next(
            (i, *pair) for i, pair in enumerate(zip(texts, own, strict=True)) if len({*pair}) > 1
        )
        raise ValueError(
            f"{name}: column {place} of the cosines was made for {text!r}, but class {place} of the features is "
            f"{own_name!r}: extract them again with class_names in the order of the classes"
        )
