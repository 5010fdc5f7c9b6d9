"""``fewshot probe``: what frozen features are worth to a linear classifier, to neighbours, and for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import torch
from click.core import ParameterSource

from fewshot.checks import check_choice
from fewshot.features import FeatureSet
from fewshot.probing import parse_steps, stratified_split
from fewshot.probing.linear import LOSSES, MULTI_CLASS

from ..shared import output
from ..shared.held_out import load_test_rows, matched_labels, test_options
from ..shared.options import (
    bundle,
    choice,
    describe_pool,
    document_head,
    load_pool,
    pool_options,
    resolve_device,
    run_options_with,
    whole_numbers,
)
from .methods import LEAVE_ONE_OUT, PROBES, ProbeData
from .table import probe_report

__all__ = ["probe"]

_ONLY_FOR = {
    "c": "svm",
    "loss": "svm",
    "multi_class": "svm",
    "logistic_c": "logistic",
    "k": "knn",
    "temperature": "knn",
    "retrieval_mode": "retrieval",
}
_POSITIVE = click.FloatRange(min=0, min_open=True)


_data_options = bundle(
    test_options(
        "Features to test on, of the same extractor; their classes are matched by name. Without it, a part of "
        "--features is held out.",
        "Share of each class to hold out, at random by --seed, where there is no --test.",
    ),
    click.option(
        "--post",
        default="l2",
        metavar="STEPS",
        help="Steps on the features, fitted on the training rows: l2, power:P, standardise, pca:N (whitened; pca:N:raw "
        "is not, pca:N:EPS is damped), or a chain of its own name: none, cnnaug, retrieval-2014.",
    ),
)

_method_options = bundle(
    click.option(
        "--method",
        "methods",
        multiple=True,
        default=("svm",),
        metavar="NAME",
        help="svm, logistic, knn or retrieval. Give it several times to compare on the same rows.",
    ),
    click.option("--c", type=_POSITIVE, metavar="X", default=1.0, help="C of svm, for features of unit norm."),
    click.option("--loss", default="squared-hinge", **choice(LOSSES), help="What svm minimises."),
    click.option("--multi-class", default="one-vs-rest", **choice(MULTI_CLASS), help="How svm tells classes apart."),
    click.option(
        "--logistic-c",
        type=_POSITIVE,
        metavar="X",
        show_default="chosen on a tenth of the training rows",
        help="C of logistic.",
    ),
    click.option(
        "--k",
        default="10,20,100,200",
        callback=whole_numbers(),
        metavar="LIST",
        help="Neighbours of knn; a row for each.",
    ),
    click.option("--temperature", type=_POSITIVE, metavar="X", default=0.07, help="Divides the cosines of knn."),
    click.option(
        "--retrieval-mode",
        default=LEAVE_ONE_OUT,
        **choice((LEAVE_ONE_OUT, "gallery")),
        help="leave-one-out: each test row among the other test rows. gallery: among the training rows.",
    ),
)


@click.command(short_help="Judge features by linear classifiers, neighbours and retrieval.")
@pool_options
@_data_options
@_method_options
@run_options_with("Decides what is held out, for the test and to choose C of logistic.")
@click.pass_context
def probe(context: click.Context, /, **settings: Any) -> None:
    """Say what frozen features are worth, by the standard ways to find out.

    \b
    svm        linear support vector machine: accuracy over all rows, and mean over the classes
    logistic   logistic regression, C chosen on a tenth of the training rows, never on test rows
    knn        neighbours among the training rows, weighted by exp(cosine / temperature)
    retrieval  Rank-1, Rank-5, mAP and recall@4 by Euclidean distance

    \b
    Example:
      fewshot probe --features digits --method svm --method knn
      fewshot probe --features F.npz:train --test F.npz:test --method retrieval --post retrieval-2014
    """  # noqa: D301 (click's own mark)
    _check_applicable(context, settings)
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _probe(settings | {"device": str(resolve_device(settings["device"]))})
    document["warnings"] = document["warnings"] + noticed
    output.publish(document, probe_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Refuse unknown words, and options that were given and would do nothing."""
    _check_words(settings)
    for name in context.params:
        needed = _ONLY_FOR.get(name)
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and needed is not None and needed not in settings["methods"]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --method {needed}", context)
        if is_given and name == "test_fraction" and settings["test"] is not None:
            raise click.UsageError("--test-fraction holds out test rows: leave it out, --test names them", context)
    if settings["test_labels"] is not None and settings["test"] is None:
        raise click.UsageError("--test-labels needs --test", context)
    if settings["test"] == settings["features"]:
        raise click.UsageError("--test names the training features: leave it out to hold out a part of them", context)


def _check_words(settings: Mapping[str, Any]) -> None:
    methods = settings["methods"]
    try:
        parse_steps(settings["post"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--post'") from None
    for name in methods:
        try:
            check_choice("method", name, PROBES)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'--method'") from None
        if methods.count(name) > 1:
            raise click.UsageError(f"--method {name} is given twice")


def _probe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document, less its head and what Python warned of."""
    train, test, protocol = _train_and_test(settings)
    is_matched = settings["methods"] != ("retrieval",) or settings["retrieval_mode"] != LEAVE_ONE_OUT
    test_labels = matched_labels(settings, train, test) if is_matched else test.labels
    steps = parse_steps(settings["post"])
    rows, test_rows = (pool.features.to(settings["device"]) for pool in (train, test))
    fitted = steps.fit(rows)
    data = ProbeData(
        fitted(rows),
        train.labels.to(settings["device"]),
        fitted(test_rows),
        test_labels.to(settings["device"]),
        train.n_classes,
    )
    results = [row for name in settings["methods"] for row in PROBES[name](settings, data)]
    return {
        "settings": dict(settings),
        "features": describe_pool(settings["features"], train),
        "test_features": describe_pool(settings["test"] or settings["features"], test),
        "protocol": protocol,
        "post": steps.describe(),
        "results": results,
        "warnings": _notes(train, test, results, is_matched=is_matched),
    }


def _train_and_test(settings: Mapping[str, Any]) -> tuple[FeatureSet, FeatureSet, str]:
    """Return training and test rows of one extractor, and how they came about."""
    pool = load_pool(settings["features"], settings["labels"], settings["classes"])
    if settings["test"] is None:
        generator = torch.Generator().manual_seed(settings["seed"])
        held_out = stratified_split(pool.labels, settings["test_fraction"], generator=generator)
        share = f"{100 * settings['test_fraction']:g} % of the rows of each class"
        protocol = f"{share} held out at random (seed {settings['seed']})"
        return pool.select_rows(~held_out), pool.select_rows(held_out), protocol
    test = load_test_rows(settings, pool)
    return pool, test, f"trained on {settings['features']}, tested on {settings['test']}"


def _notes(train: FeatureSet, test: FeatureSet, results: list[dict[str, Any]], *, is_matched: bool) -> list[str]:
    """Say what does not count."""
    missing = sorted(set(train.class_names) - set(test.class_names)) if is_matched else []
    notes = []
    if missing:
        notes.append(
            f"{len(missing)} of the {train.n_classes} training classes have no test rows, such as {missing[0]!r}: they "
            "do not count in the mean per class"
        )
    n_unanswerable = sum(row.get("n_unanswerable", 0) for row in results)
    if n_unanswerable:
        notes.append(
            f"{n_unanswerable:,} test rows have no other row of their class to find: they do not count in retrieval"
        )
    return notes
