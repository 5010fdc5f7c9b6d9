"""``fewshot episode``: methods on the same few-shot episodes, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from fewshot_episodes.sampler import PROTOCOLS, QUERY_DISTRIBUTIONS

from fewshot.storage import write_text_atomic

from ..shared import output
from ..shared.options import (
    bundle,
    check_folder,
    choice,
    dirichlet_option,
    document_head,
    episode_limits,
    pool_options,
    refuse_together,
    refuse_unused,
    resolve_device,
    run_options,
    whole_numbers,
)
from ..shared.tuned_option import tuned_option
from .arguments import listed_words, optional_numbers, split_methods
from .run import DRAWN_BY_META_DATASET, META_DATASET, evaluated, regimes, resolved
from .table import episode_report

__all__ = ["episode"]

_COUNT = click.IntRange(min=1)

_method_options = bundle(
    click.option(
        "--method",
        "methods",
        multiple=True,
        default=("unem",),
        metavar="LIST",
        help="Methods to compare on the same episodes, see fewshot methods: NAME or NAME:OPTION=VALUE,... separated by "
        "commas, or the option several times; all: every method.",
    ),
    tuned_option(is_repeatable=True),
    click.option(
        "--weights", metavar="FILE", help="Trained numbers for the method unem, as fewshot train writes them."
    ),
    click.option(
        "--base-features",
        metavar="FILE",
        help="Features of other (base) classes, whose mean simpleshot subtracts before it normalises.",
    ),
    click.option(
        "--allow-seen-classes",
        is_flag=True,
        help="Evaluate even if classes carry the names of classes that weights were trained on or settings tuned on: "
        "for names that mean other classes.",
    ),
)

_protocol_options = bundle(
    click.option("--n-way", type=_COUNT, metavar="N", default=5, help="Classes per episode."),
    click.option(
        "--n-shot",
        default="1,5,10",
        callback=whole_numbers(),
        metavar="LIST",
        help="Support items per class; a run for each.",
    ),
    click.option(
        "--n-query",
        type=_COUNT,
        metavar="N",
        show_default="15 when balanced",
        help="Queries per class, for the balanced distribution.",
    ),
    click.option(
        "--n-query-total",
        type=_COUNT,
        metavar="N",
        show_default="75 unless balanced",
        help="Queries per episode in all, for the distributions that draw the counts per class.",
    ),
    click.option(
        "--query-distribution",
        default="balanced",
        **listed_words(QUERY_DISTRIBUTIONS),
        help="balanced: the same number for each class. uniform: drawn from the pooled items. dirichlet: class shares "
        "drawn from a Dirichlet distribution. A run for each.",
    ),
    click.option(
        "--n-effective-way",
        callback=optional_numbers,
        metavar="LIST",
        show_default="n-way",
        help="Classes of an episode that have queries at all; a run for each number and distribution.",
    ),
    dirichlet_option,
    click.option(
        "--protocol",
        default="disjoint",
        **choice([*PROTOCOLS, META_DATASET]),
        help="disjoint: no query is a support item. unem-official: they may overlap, as in the released code of UNEM, "
        "to reproduce its tables only. meta-dataset: ways and shots vary, the counts above do not apply.",
    ),
    click.option("--n-episodes", type=_COUNT, metavar="N", default=1000, help="Episodes per run."),
    episode_limits,
)


@click.command(short_help="Compare methods on few-shot episodes.")
@pool_options
@_method_options
@_protocol_options
@run_options
@click.option("--out", metavar="FILE", help="Write the JSON document to a file as well, which fewshot report reads.")
@click.option(
    "--keep-episodes",
    is_flag=True,
    help="Keep each episode's accuracy in the document: fewshot report then pairs methods that ran apart.",
)
@click.pass_context
def episode(context: click.Context, /, **settings: Any) -> None:
    """Run methods on the same few-shot episodes and print their accuracy.

    Each episode draws --n-way classes, --n-shot labelled items of each, and queries to classify. The table shows the
    mean accuracy over the episodes with its 95 % interval, a block for each query distribution. With several methods,
    the best of a column is marked *, what cannot be told from it by the paired differences †, and the paired
    differences to the first method follow.

    \b
    Example:
      fewshot episode --features digits --method nearest-prototype,unem --n-shot 1,5
      fewshot episode --features digits --method all --query-distribution balanced,dirichlet
      fewshot episode --features FILE --n-way 20 --query-distribution uniform --n-effective-way 1,5
    """  # noqa: D301 (click's own mark)
    _check_applicable(context)
    settings["methods"] = _methods(settings, context)
    if settings["out"] is not None:
        check_folder(settings["out"])
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _evaluated(settings)
    document["warnings"] = noticed
    if settings["out"] is not None:
        write_text_atomic(settings["out"], output.json_text(document) + "\n")
    output.publish(document, episode_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context) -> None:
    """Refuse options that were given and would do nothing."""
    if context.params["protocol"] == META_DATASET:
        why = "--protocol meta-dataset draws ways, shots and queries as the class sizes"
        refuse_together(context, why, DRAWN_BY_META_DATASET)
    is_dirichlet = "dirichlet" in context.params["query_distribution"]
    refuse_unused(context, {"dirichlet_concentration": (is_dirichlet, "needs --query-distribution dirichlet")})


def _methods(settings: Mapping[str, Any], context: click.Context) -> list[str]:
    """Return the methods' texts, and refuse options that no method takes."""
    try:
        methods = split_methods(settings["methods"])
    except ValueError as error:
        raise click.UsageError(f"--method {error}", context) from None
    if settings["weights"] is not None and "unem" not in methods:
        raise click.UsageError("--weights gives trained numbers to the method unem: add --method unem")
    if settings["base_features"] is not None and "simpleshot" not in methods:
        raise click.UsageError("--base-features gives a mean to the method simpleshot: add --method simpleshot")
    return methods


def _evaluated(settings: Mapping[str, Any]) -> dict[str, Any]:
    told = resolved(settings, resolve_device(settings["device"]))
    return evaluated(told, regimes(settings), told["n_shot"])
