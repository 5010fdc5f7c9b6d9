"""``fewshot episode``: methods on the same few-shot episodes, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import click
import torch
from click.core import ParameterSource

from cli import output
from cli.options import (
    bundle,
    check_folder,
    choice,
    describe_pool,
    document_head,
    load_pool,
    pool_options,
    resolve_device,
    run_options,
    whole_numbers,
)
from cli.tables import episode_report
from episodes import EpisodeSampler, MetaDatasetSampler
from episodes.sampler import PROTOCOLS, QUERY_DISTRIBUTIONS
from fewshot.episodic.method import Method
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.evaluation import Evaluation, evaluate_episodes
from fewshot.features import FeatureSet, load_features
from fewshot.models import load_unem
from fewshot.registry import build_method
from fewshot.storage import write_text_atomic

__all__ = ["episode"]

META_DATASET = "meta-dataset"
_DRAWN_BY_META_DATASET = (
    "n_way",
    "n_shot",
    "n_query",
    "n_query_total",
    "query_distribution",
    "n_effective_way",
    "dirichlet_concentration",
)
_COUNT = click.IntRange(min=1)


class Run(NamedTuple):
    """The outcome at one number of shots; None for a protocol that draws it."""

    n_shot: int | None
    sampler: EpisodeSampler | MetaDatasetSampler
    evaluation: Evaluation


_method_options = bundle(
    click.option(
        "--method",
        "methods",
        multiple=True,
        default=("unem",),
        metavar="NAME[:OPTION=VALUE,...]",
        help="A method to run, see fewshot methods. Give it several times to compare methods on the same episodes.",
    ),
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
        help="Evaluate even if classes carry the names of classes that the weights were trained on: for names that "
        "mean other classes.",
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
        **choice(QUERY_DISTRIBUTIONS),
        help="balanced: the same number for each class. uniform: drawn from the pooled items. dirichlet: class shares "
        "drawn from a Dirichlet distribution.",
    ),
    click.option(
        "--n-effective-way",
        type=_COUNT,
        metavar="N",
        show_default="n-way",
        help="Classes of an episode that have queries at all.",
    ),
    click.option(
        "--dirichlet-concentration",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        default=2.0,
        help="The smaller, the more skewed the class shares.",
    ),
    click.option(
        "--protocol",
        default="disjoint",
        **choice([*PROTOCOLS, META_DATASET]),
        help="disjoint: no query is a support item. unem-official: they may overlap, as in the released code of UNEM, "
        "to reproduce its tables only. meta-dataset: ways and shots vary, the counts above do not apply.",
    ),
    click.option("--n-episodes", type=_COUNT, metavar="N", default=1000, help="Episodes per number of shots."),
    click.option(
        "--batch-size",
        type=_COUNT,
        metavar="N",
        default=64,
        help="Episodes at once: sets the memory used and changes no result.",
    ),
    click.option(
        "--on-small-class",
        default="error",
        **choice(("error", "skip")),
        help="What to do about a class with too few items.",
    ),
)


@click.command(short_help="Compare methods on few-shot episodes.")
@pool_options
@_method_options
@_protocol_options
@run_options
@click.option("--out", metavar="FILE", help="Write the JSON document to a file as well.")
@click.pass_context
def episode(context: click.Context, /, **settings: Any) -> None:
    """Run methods on the same few-shot episodes and print their accuracy.

    Each episode draws --n-way classes, --n-shot labelled items of each, and queries to classify. The table shows the
    mean accuracy over the episodes with its 95 % interval; with several methods, also the paired differences to the
    first.

    \b
    Example:
      fewshot episode --features digits --method nearest-prototype --method unem --n-shot 1,5
      fewshot episode --features FILE --n-way 20 --query-distribution uniform --n-effective-way 5
    """  # noqa: D301 (click's own mark)
    _check_applicable(context)
    _check_methods(settings)
    if settings["out"] is not None:
        check_folder(settings["out"])
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _evaluate(_resolved(settings))
    document["warnings"] = noticed
    if settings["out"] is not None:
        write_text_atomic(settings["out"], output.json_text(document) + "\n")
    output.publish(document, episode_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context) -> None:
    """Refuse options that were given and would do nothing."""
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if context.params["protocol"] == META_DATASET:
        useless = [f"--{name.replace('_', '-')}" for name in _DRAWN_BY_META_DATASET if name in given]
        if useless:
            raise click.UsageError(
                "--protocol meta-dataset draws ways, shots and queries as the class sizes: "
                f"leave out {', '.join(useless)}",
                context,
            )
    if "dirichlet_concentration" in given and context.params["query_distribution"] != "dirichlet":
        raise click.UsageError("--dirichlet-concentration needs --query-distribution dirichlet", context)


def _check_methods(settings: Mapping[str, Any]) -> None:
    methods = settings["methods"]
    repeated = next((name for name in methods if methods.count(name) > 1), None)
    if repeated is not None:
        raise click.UsageError(f"--method {repeated} is given twice")
    if settings["weights"] is not None and "unem" not in methods:
        raise click.UsageError("--weights gives trained numbers to the method unem: add --method unem")
    if settings["base_features"] is not None and "simpleshot" not in methods:
        raise click.UsageError("--base-features gives a mean to the method simpleshot: add --method simpleshot")


def _resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults that depend on other settings."""
    if settings["protocol"] == META_DATASET:
        counts: dict[str, Any] = dict.fromkeys(_DRAWN_BY_META_DATASET)
    else:
        is_open = settings["n_query"] is None and settings["n_query_total"] is None
        is_balanced = settings["query_distribution"] == "balanced"
        counts = {"n_effective_way": settings["n_effective_way"] or settings["n_way"]}
        counts |= ({"n_query": 15} if is_balanced else {"n_query_total": 75}) if is_open else {}
    return {**settings, **counts, "device": str(resolve_device(settings["device"]))}


def _evaluate(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    methods = {text: _built(text) for text in settings["methods"]}
    pool = load_pool(settings["features"], settings["labels"], settings["classes"]).to(settings["device"])
    weights = None
    if settings["weights"] is not None:
        methods["unem"], weights = _trained(settings, pool)
    if settings["base_features"] is not None:
        methods["simpleshot"] = _centred(settings["base_features"], pool)
    for method in methods.values():
        if isinstance(method, torch.nn.Module):
            method.to(settings["device"])
    runs = _run_all(settings, pool, methods)
    return {
        "settings": settings,
        "features": describe_pool(settings["features"], pool),
        "weights": weights,
        "protocol": "; ".join(run.sampler.describe() for run in runs),
        "results": [_result(name, method, run, pool) for run in runs for name, method in methods.items()],
        "differences": [
            _difference(name, settings["methods"][0], run) for run in runs for name in settings["methods"][1:]
        ],
    }


def _built(text: str) -> Method:
    try:
        return build_method(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--method'") from None


def _trained(settings: Mapping[str, Any], pool: FeatureSet) -> tuple[Method, dict[str, Any]]:
    """Read trained weights; refuse to evaluate them on the classes they were trained on."""
    model, training = load_unem(settings["weights"])
    trained_on = training.get("class_names", [])
    assert isinstance(trained_on, list)
    seen = [name for name in pool.class_names if name in set(trained_on)]
    if seen and not settings["allow_seen_classes"]:
        raise ValueError(
            f"{settings['weights']} was trained on {len(seen)} of the {pool.n_classes} classes to evaluate, such "
            f"as {seen[0]!r}: choose others with --classes, or, if the names mean other classes, add "
            "--allow-seen-classes"
        )
    return model, {"file": settings["weights"], "training": training, "seen_classes": seen}


def _centred(base_features: str, pool: FeatureSet) -> Method:
    """Return SimpleShot with the mean of the base classes."""
    base = load_features(base_features).features
    if base.shape[1] != pool.features.shape[1]:
        raise ValueError(
            f"{base_features} has {base.shape[1]} features a row, the features to evaluate {pool.features.shape[1]}: "
            "take both from one extractor"
        )
    return SimpleShot(base.mean(0))


def _run_all(settings: Mapping[str, Any], pool: FeatureSet, methods: Mapping[str, Method]) -> list[Run]:
    samplers = _samplers(settings, pool)
    runs = []
    with output.Progress("episodes", is_quiet=settings["is_quiet"]) as progress:
        for n_shot, sampler in samplers.items():
            progress.start(f"{n_shot}-shot" if len(samplers) > 1 else "", settings["n_episodes"])
            evaluation = evaluate_episodes(
                methods,
                pool.features,
                sampler,
                n_episodes=settings["n_episodes"],
                batch_size=settings["batch_size"],
                generator=torch.Generator().manual_seed(settings["seed"]),
                progress=lambda n_done, means: progress.update(n_done, _running(means)),
            )
            runs.append(Run(n_shot, sampler, evaluation))
    return runs


def _running(means: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())


def _samplers(settings: Mapping[str, Any], pool: FeatureSet) -> dict[int | None, EpisodeSampler | MetaDatasetSampler]:
    """Return a sampler for each number of shots, all made before the first run, so that what is wrong shows at once."""
    shared = {"on_small_class": settings["on_small_class"], "class_names": pool.class_names}
    if settings["protocol"] == META_DATASET:
        return {None: MetaDatasetSampler(pool.labels, **shared)}
    names = ("n_way", "n_query", "n_query_total", "query_distribution", "n_effective_way", "dirichlet_concentration")
    shared |= {name: settings[name] for name in (*names, "protocol")}
    return {n_shot: EpisodeSampler(pool.labels, n_shot=n_shot, **shared) for n_shot in settings["n_shot"]}


def _result(name: str, method: Method, run: Run, pool: FeatureSet) -> dict[str, Any]:
    scores, evaluation = run.evaluation.scores[name], run.evaluation
    return {
        "method": name,
        "settings": method.describe(),
        "is_transductive": method.is_transductive,
        "n_shot": run.n_shot,
        "protocol": run.sampler.describe(),
        "accuracy": scores.interval.mean,
        "half_width": scores.interval.half_width,
        "n_episodes": evaluation.n_episodes,
        "n_queries": evaluation.n_queries,
        "n_leaked": evaluation.n_leaked,
        "episode_hash": evaluation.episode_hash,
        "skipped_classes": [pool.class_names[class_id] for class_id in run.sampler.skipped_class_ids],
        "seconds": scores.seconds,
        "episodes_per_second": evaluation.n_episodes / scores.seconds,
        "warnings": list(scores.warnings),
    }


def _difference(name: str, against: str, run: Run) -> dict[str, Any]:
    scores = run.evaluation.scores
    mean, half_width = scores[name].difference(scores[against])
    return {"method": name, "against": against, "n_shot": run.n_shot, "mean": mean, "half_width": half_width}
