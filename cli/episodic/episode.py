"""``fewshot episode``: methods on the same few-shot episodes, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from fewshot_episodes.sampler import PROTOCOLS

from fewshot.episodic.method import Method
from fewshot.evaluation.episode_experiment import (
    DRAWN_BY_META_DATASET,
    META_DATASET,
    N_QUERY,
    N_QUERY_TOTAL,
    EpisodeExperiment,
)
from fewshot.evaluation.episode_runs import EpisodeResults, EpisodeRun, run_episodes
from fewshot.evaluation.fitted_methods import FittedMethod, trained_unem
from fewshot.features import FeatureSet, load_features
from fewshot.registry.episodic import build_method
from fewshot.storage import write_text_atomic
from fewshot.tuning.files import tuned_method

from ..shared import output
from ..shared.class_columns import check_columns
from ..shared.options import (
    COUNT,
    NUMBERS,
    PoolFiles,
    bundle,
    check_folder,
    document_head,
    pool_options,
    refuse_together,
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    settings_object,
    settings_of,
    tuned_option,
)
from ..shared.tables import pool_words
from .arguments import dirichlet_option, distribution_option, effective_way_option, limit_options, split_methods
from .table import episode_report, fitted_words

__all__ = ["episode"]

_MOST_NAMED = 3
_LABELS = {"trained": "weights", "tuned": "tuned"}

_option = partial(setting_option, EpisodeExperiment)

_method_options = bundle(
    _option(
        "methods",
        "LIST",
        "Methods to compare on the same episodes, see fewshot methods: NAME or NAME:OPTION=VALUE,... separated by "
        "commas, or the option several times; all: every method.",
        multiple=True,
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
    _option(
        "allow_seen_classes",
        {"is_flag": True},
        "Evaluate even if classes carry the names of classes that weights were trained on or settings tuned on: for "
        "names that mean other classes.",
    ),
)

_protocol_options = bundle(
    _option("n_way", COUNT, "Classes per episode."),
    _option("n_shot", NUMBERS, "Support items per class; a run for each."),
    _option(
        "n_query", COUNT, "Queries per class, for the balanced distribution.", show_default=f"{N_QUERY} when balanced"
    ),
    _option(
        "n_query_total",
        COUNT,
        "Queries per episode in all, for the distributions that draw the counts per class.",
        show_default=f"{N_QUERY_TOTAL} unless balanced",
    ),
    distribution_option(
        EpisodeExperiment,
        "balanced: the same number for each class. uniform: drawn from the pooled items. dirichlet: class shares "
        "drawn from a Dirichlet distribution. A run for each.",
    ),
    effective_way_option(
        EpisodeExperiment,
        "Classes of an episode that have queries at all; a run for each number and distribution.",
    ),
    dirichlet_option(EpisodeExperiment),
    _option(
        "protocol",
        [*PROTOCOLS, META_DATASET],
        "disjoint: no query is a support item. unem-official: they may overlap, as in the released code of UNEM, to "
        "reproduce its tables only. meta-dataset: ways and shots vary, the counts above do not apply.",
    ),
    _option("n_episodes", COUNT, "Episodes per run."),
    limit_options(EpisodeExperiment),
)


@click.command()
@pool_options
@_method_options
@_protocol_options
@run_options(EpisodeExperiment)
@click.option("--out", metavar="FILE", help="Write the JSON document to a file as well, which fewshot report reads.")
@click.option(
    "--keep-episodes",
    is_flag=True,
    help="Keep each episode's accuracy in the document: fewshot report then pairs methods that ran apart.",
)
@click.pass_context
def episode(context: click.Context, /, methods: tuple[str, ...], **words: Any) -> None:
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
    built = _built(context, methods)
    _check_applicable(context, built)
    words["methods"] = tuple(built)
    experiment = settings_object(context, EpisodeExperiment, words)
    files = EpisodeFiles(**words)
    if files.out is not None:
        check_folder(files.out)
    with output.gathered_warnings() as noticed:
        pool = files.load().to(resolve_device(files.device))
        fitted = _fitted(files)
        check_columns({**built, **{each.text: each.method for each in fitted}}, pool, files.classes)
        results = _run(files, experiment, pool, built, fitted)
    document = document_head(context) | _document(files, experiment, pool, fitted, results) | {"warnings": noticed}
    if files.out is not None:
        write_text_atomic(files.out, output.json_text(document) + "\n")
    facts = [(_LABELS[each.kind], fitted_words(each, pool.class_names)) for each in fitted]
    report = episode_report(results.records(), results.differences(), pool_words(files.features, pool), facts)
    output.publish(document, report, is_json=files.is_json)


@dataclass(frozen=True, kw_only=True)
class EpisodeFiles(PoolFiles):
    """Where the command reads and writes, and how it runs."""

    tuned: tuple[str, ...]
    weights: str | None
    base_features: str | None
    out: str | None
    keep_episodes: bool


def _built(context: click.Context, texts: Sequence[str]) -> dict[str, Method]:
    """Build the methods of the command line."""
    try:
        return {text: build_method(text) for text in split_methods(texts)}
    except ValueError as error:
        raise click.UsageError(f"--method {error}", context) from None


def _check_applicable(context: click.Context, methods: Mapping[str, Method]) -> None:
    """Refuse options that were given and would do nothing."""
    if context.params["protocol"] == META_DATASET:
        why = "--protocol meta-dataset draws ways, shots and queries as the class sizes"
        refuse_together(context, why, DRAWN_BY_META_DATASET)
    is_dirichlet = "dirichlet" in context.params["query_distribution"]
    rules = {
        "dirichlet_concentration": (is_dirichlet, "needs --query-distribution dirichlet"),
        "weights": ("unem" in methods, "gives trained numbers to the method unem: add --method unem"),
        "base_features": ("simpleshot" in methods, "gives a mean to the method simpleshot: add --method simpleshot"),
    }
    refuse_unused(context, rules)


def _fitted(files: EpisodeFiles) -> list[FittedMethod]:
    """Read the methods with trained numbers or tuned options."""
    trained = [] if files.weights is None else [trained_unem(files.weights)]
    return [*trained, *(tuned_method(path) for path in files.tuned)]


def _run(
    files: EpisodeFiles,
    experiment: EpisodeExperiment,
    pool: FeatureSet,
    built: Mapping[str, Method],
    fitted: Sequence[FittedMethod],
) -> EpisodeResults:
    base = None if files.base_features is None else load_features(files.base_features)
    with output.Progress("episodes", is_quiet=files.is_quiet) as progress:
        return run_episodes(
            pool,
            experiment,
            methods=built,
            fitted=fitted,
            base_features=base,
            progress=lambda run, n_done, means: progress.stage(run, experiment.n_episodes).update(
                n_done, _running(means)
            ),
        )


def _document(
    files: EpisodeFiles,
    experiment: EpisodeExperiment,
    pool: FeatureSet,
    fitted: Sequence[FittedMethod],
    results: EpisodeResults,
) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    weights = [_weights(each, pool.class_names) for each in fitted if each.kind == "trained"]
    resolved = {"methods": list(results.methods), "device": f"{resolve_device(files.device)}"}
    return {
        "settings": settings_of(files) | settings_of(experiment) | _resolved(experiment) | resolved,
        "features": pool.describe(files.features),
        "weights": weights[0] if weights else None,
        "tuned": [each.describe(pool.class_names) for each in fitted if each.kind == "tuned"],
        "protocol": "; ".join(run.protocol for run in results.runs),
        "results": [row for run in results.runs for row in _rows(run, results.methods, is_kept=files.keep_episodes)],
        "differences": [difference._asdict() for difference in results.differences()],
    }


def _resolved(experiment: EpisodeExperiment) -> dict[str, Any]:
    """Fill in the defaults that depend on other settings; a list of one distribution or of one way is that one."""
    if experiment.protocol == META_DATASET:
        return dict.fromkeys(DRAWN_BY_META_DATASET)
    regimes = experiment.regimes()
    counts = {
        name: next((value for regime in regimes if (value := getattr(regime, name)) is not None), None)
        for name in ("n_query", "n_query_total")
    }
    lists = {
        name: values[0] if len(values) == 1 else values
        for name in ("query_distribution", "n_effective_way")
        for values in [list(dict.fromkeys(getattr(regime, name) for regime in regimes))]
    }
    return counts | lists


def _weights(trained: FittedMethod, class_names: Sequence[str]) -> dict[str, Any]:
    return {"file": trained.file, "training": trained.facts, "seen_classes": list(trained.seen_classes(class_names))}


def _rows(run: EpisodeRun, methods: Mapping[str, Method], *, is_kept: bool) -> list[dict[str, Any]]:
    """Return a run's records, with each episode's accuracy if it is to be kept."""
    rows = []
    for record in run.records(methods):
        behind = {**record.behind_best._asdict(), "is_tie": record.behind_best.is_tie}
        row = settings_of(record) | {"behind_best": behind}
        row["episodes_per_second"] = record.n_episodes / record.seconds
        if is_kept:
            accuracy = run.evaluation.scores[record.method].accuracy.tolist()
            row["episode_accuracy"] = [round(value, 6) for value in accuracy]
        rows.append(row)
    return rows


def _running(means: Mapping[str, float]) -> str:
    """Write each method's running mean; of many methods, those of the highest."""
    highest = sorted(means, key=lambda name: means[name], reverse=True)[:_MOST_NAMED]
    shown = list(means) if len(means) <= _MOST_NAMED else highest
    words = ", ".join(f"{name} {100 * means[name]:.1f} %" for name in shown)
    return words if len(shown) == len(means) else f"best of {len(means)}: {words}"
