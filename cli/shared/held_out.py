"""Test rows in a file of their own: the options that name them, their checks, and reading them."""

from __future__ import annotations

import click

from fewshot.evaluation.held_out import check_test_rows
from fewshot.features import FeatureSet

from .options import Decorator, bundle, default, load_pool, refuse_unused

__all__ = ["check_test_options", "load_test_rows", "test_options"]


def test_options(experiment: type, rows_help: str, share_help: str) -> Decorator:
    """Return the options that name test rows, or the share to hold out."""
    return bundle(
        click.option("--test", metavar="FILE", help=rows_help),
        click.option("--test-labels", metavar="FILE", help="Labels in place of those in --test."),
        click.option(
            "--test-fraction",
            type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
            metavar="X",
            default=default(experiment, "test_fraction"),
            help=share_help,
        ),
    )


def check_test_options(context: click.Context, features: str, test: str | None) -> None:
    """Refuse options of test rows that contradict each other."""
    rules = {
        "test_labels": (test is not None, "needs --test"),
        "test": (test != features, "names the training features: leave it out to hold out a part of them"),
        "test_fraction": (test is None, "holds out test rows: leave it out, --test names them"),
    }
    refuse_unused(context, rules)


def load_test_rows(
    test: str | None, labels: str | None, classes: str | None, pool: FeatureSet, features: str
) -> FeatureSet | None:
    """Read the test rows, of the chosen classes; None if none are named.

    Raises
    ------
    ValueError
        If they are of another width or extractor than the training rows, or none is of the classes chosen.
    """
    if test is None:
        return None
    rows = load_pool(test, labels, None)
    check_test_rows(pool, rows, (features, test))
    if classes is None:
        return rows
    kept = [position for position, name in enumerate(rows.class_names) if name in set(pool.class_names)]
    if not kept:
        raise ValueError(f"{test} has rows of none of the classes chosen with --classes")
    return rows.select_classes(kept)
