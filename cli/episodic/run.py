"""What ``fewshot episode`` runs: every method on the same episodes, for each query distribution and number of shots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import click
import torch
from fewshot_episodes import EpisodeSampler, MetaDatasetSampler

from fewshot.episodic.method import Method
from fewshot.episodic.simple_shot import SimpleShot
from fewshot.evaluation.episodes import Evaluation, evaluate_episodes
from fewshot.features import FeatureSet, load_features
from fewshot.metrics.comparison import Standing
from fewshot.models import load_unem
from fewshot.registry.episodic import build_method

from ..shared import output
from ..shared.class_columns import check_columns
from ..shared.options import describe_pool, load_pool
from ..shared.tuned_option import TunedMethod, tuned_methods, with_tuned

__all__ = ["DRAWN_BY_META_DATASET", "META_DATASET", "evaluated", "resolved"]

META_DATASET = "meta-dataset"
DRAWN_BY_META_DATASET = (
    "n_way",
    "n_shot",
    "n_query",
    "n_query_total",
    "query_distribution",
    "n_effective_way",
    "dirichlet_concentration",
)
_N_QUERY, _N_QUERY_TOTAL = 15, 75
_MOST_NAMED = 3


class Regime(NamedTuple):
    """How the queries of a run are drawn; all None for a protocol that decides it itself."""

    query_distribution: str | None = None
    n_effective_way: int | None = None
    n_query: int | None = None
    n_query_total: int | None = None
    dirichlet_concentration: float | None = None

    def __str__(self) -> str:
        return f"{self.query_distribution}, {self.n_effective_way} ways with queries"


class Run(NamedTuple):
    """The outcome at one regime and number of shots; the number is None for a protocol that draws it."""

    regime: Regime
    n_shot: int | None
    sampler: EpisodeSampler | MetaDatasetSampler
    evaluation: Evaluation


def resolved(settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Fill in the defaults that depend on other settings; a list of one distribution or of one way is that one."""
    if settings["protocol"] == META_DATASET:
        return {**settings, **dict.fromkeys(DRAWN_BY_META_DATASET), "device": str(device)}
    found = regimes(settings)
    counts = {
        name: next((value for regime in found if (value := getattr(regime, name)) is not None), None)
        for name in ("n_query", "n_query_total")
    }
    lists = {
        name: values[0] if len(values) == 1 else values
        for name in ("query_distribution", "n_effective_way")
        for values in [list(dict.fromkeys(getattr(regime, name) for regime in found))]
    }
    return {**settings, **counts, **lists, "device": str(device)}


def regimes(settings: Mapping[str, Any]) -> list[Regime]:
    """Return a regime for each distribution and number of ways with queries.

    The balanced distribution takes its queries per class from --n-query, the others theirs in all from --n-query-total.
    Where all are of one kind, a number of the other kind is passed on to the sampler, which refuses it.
    """
    if settings["protocol"] == META_DATASET:
        return [Regime()]
    distributions = settings["query_distribution"]
    is_mixed = len({distribution == "balanced" for distribution in distributions}) > 1
    return [
        Regime(
            distribution,
            n_effective_way,
            *_query_counts(settings, is_balanced=distribution == "balanced", is_mixed=is_mixed),
            settings["dirichlet_concentration"] if distribution == "dirichlet" else None,
        )
        for distribution in distributions
        for n_effective_way in settings["n_effective_way"] or [settings["n_way"]]
    ]


def _query_counts(settings: Mapping[str, Any], *, is_balanced: bool, is_mixed: bool) -> tuple[int | None, int | None]:
    """Return queries per class and in all."""
    per_class, in_all = settings["n_query"], settings["n_query_total"]
    if is_mixed:
        per_class, in_all = (per_class, None) if is_balanced else (None, in_all)
    if per_class is None and in_all is None:
        return (_N_QUERY, None) if is_balanced else (None, _N_QUERY_TOTAL)
    return per_class, in_all


def evaluated(settings: Mapping[str, Any], asked: list[Regime], n_shots: list[int] | None) -> dict[str, Any]:
    """Return the document, less its head and warnings."""
    methods = {text: _built(text) for text in settings["methods"]}
    pool = load_pool(settings["features"], settings["labels"], settings["classes"]).to(settings["device"])
    tuned = _tuned(settings, pool)
    settings = {**settings, "methods": with_tuned(settings["methods"], tuned)}
    methods = {text: methods.get(text) or _built(text) for text in settings["methods"]}
    weights = None
    if settings["weights"] is not None:
        methods["unem"], weights = _trained(settings, pool)
    if settings["base_features"] is not None:
        methods["simpleshot"] = _centred(settings["base_features"], pool)
    check_columns(methods, pool, settings["classes"])
    for method in methods.values():
        if isinstance(method, torch.nn.Module):
            method.to(settings["device"])
    runs = _run_all(settings, pool, methods, asked, n_shots)
    return {
        "settings": settings,
        "features": describe_pool(settings["features"], pool),
        "weights": weights,
        "tuned": [each.facts for each in tuned.values()],
        "protocol": "; ".join(run.sampler.describe() for run in runs),
        "results": [row for run in runs for row in _results(settings, methods, run, pool)],
        "differences": [
            _difference(name, settings["methods"][0], run) for run in runs for name in settings["methods"][1:]
        ],
    }


def _built(text: str) -> Method:
    try:
        return build_method(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--method'") from None


def _tuned(settings: Mapping[str, Any], pool: FeatureSet) -> dict[str, TunedMethod]:
    """Read tuned methods; refuse to evaluate them on the classes they were tuned on."""
    tuned = tuned_methods(
        settings.get("tuned", ()),
        pool.class_names,
        allow_seen_classes=settings["allow_seen_classes"],
        source=pool.source,
    )
    if "unem" in tuned and settings["weights"] is not None:
        raise ValueError(
            f"--weights {settings['weights']} and --tuned {tuned['unem'].facts['file']} are both for unem: give one"
        )
    return tuned


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


def _run_all(
    settings: Mapping[str, Any],
    pool: FeatureSet,
    methods: Mapping[str, Method],
    asked: list[Regime],
    n_shots: list[int] | None,
) -> list[Run]:
    samplers = _samplers(settings, pool, asked, n_shots)
    runs = []
    with output.Progress("episodes", is_quiet=settings["is_quiet"]) as progress:
        for (regime, n_shot), sampler in samplers.items():
            progress.start(_label(regime, n_shot, asked, len(samplers)), settings["n_episodes"])
            evaluation = evaluate_episodes(
                methods,
                pool.features,
                sampler,
                n_episodes=settings["n_episodes"],
                batch_size=settings["batch_size"],
                generator=torch.Generator().manual_seed(settings["seed"]),
                progress=lambda n_done, means: progress.update(n_done, _running(means)),
            )
            runs.append(Run(regime, n_shot, sampler, evaluation))
    return runs


def _label(regime: Regime, n_shot: int | None, asked: list[Regime], n_runs: int) -> str:
    parts = [*([str(regime)] if len(asked) > 1 else []), *([f"{n_shot}-shot"] if n_runs > 1 else [])]
    return ", ".join(parts)


def _running(means: Mapping[str, float]) -> str:
    """Say each method's running mean; of many methods, those of the highest."""
    highest = sorted(means, key=lambda name: means[name], reverse=True)[:_MOST_NAMED]
    shown = list(means) if len(means) <= _MOST_NAMED else highest
    words = ", ".join(f"{name} {100 * means[name]:.1f} %" for name in shown)
    return words if len(shown) == len(means) else f"best of {len(means)}: {words}"


def _samplers(
    settings: Mapping[str, Any], pool: FeatureSet, asked: list[Regime], n_shots: list[int] | None
) -> dict[tuple[Regime, int | None], EpisodeSampler | MetaDatasetSampler]:
    """Return a sampler for each run, all made before the first run, so that what is wrong shows at once."""
    shared = {"on_small_class": settings["on_small_class"], "class_names": pool.class_names}
    if n_shots is None:
        return {(asked[0], None): MetaDatasetSampler(pool.labels, **shared)}
    shared |= {name: settings[name] for name in ("n_way", "protocol")}
    return {
        (regime, n_shot): EpisodeSampler(pool.labels, n_shot=n_shot, **shared, **_sampler_words(regime))
        for regime in asked
        for n_shot in n_shots
    }


def _sampler_words(regime: Regime) -> dict[str, Any]:
    """Return the sampler's keywords; a concentration only where it counts."""
    return {name: value for name, value in regime._asdict().items() if value is not None}


def _results(
    settings: Mapping[str, Any], methods: Mapping[str, Method], run: Run, pool: FeatureSet
) -> list[dict[str, Any]]:
    behind = run.evaluation.behind_best()
    return [
        _result(name, method, run, pool) | _against_best(behind[name]) | _per_episode(settings, name, run)
        for name, method in methods.items()
    ]


def _result(name: str, method: Method, run: Run, pool: FeatureSet) -> dict[str, Any]:
    scores, evaluation = run.evaluation.scores[name], run.evaluation
    return {
        "method": name,
        "settings": method.describe(),
        "is_transductive": method.is_transductive,
        "n_way": getattr(run.sampler, "n_way", None),
        "n_shot": run.n_shot,
        **run.regime._asdict(),
        "is_disjoint": run.sampler.is_disjoint,
        "protocol": run.sampler.describe(),
        "accuracy": scores.interval.mean,
        "half_width": scores.interval.half_width,
        "n_episodes": evaluation.n_episodes,
        "n_queries": evaluation.n_queries,
        "n_leaked": evaluation.n_leaked,
        "n_leaking_episodes": evaluation.n_leaking_episodes,
        "episode_hash": evaluation.episode_hash,
        "skipped_classes": [pool.class_names[class_id] for class_id in run.sampler.skipped_class_ids],
        "seconds": scores.seconds,
        "episodes_per_second": evaluation.n_episodes / scores.seconds,
        "warnings": list(scores.warnings),
    }


def _against_best(standing: Standing) -> dict[str, Any]:
    return {"behind_best": {**standing._asdict(), "is_tie": standing.is_tie}}


def _per_episode(settings: Mapping[str, Any], name: str, run: Run) -> dict[str, Any]:
    """Return each episode's accuracy if it was asked for."""
    if not settings["keep_episodes"]:
        return {}
    return {"episode_accuracy": [round(value, 6) for value in run.evaluation.scores[name].accuracy.tolist()]}


def _difference(name: str, against: str, run: Run) -> dict[str, Any]:
    scores = run.evaluation.scores
    mean, half_width = scores[name].difference(scores[against])
    return {
        "method": name,
        "against": against,
        "query_distribution": run.regime.query_distribution,
        "n_effective_way": run.regime.n_effective_way,
        "n_shot": run.n_shot,
        "mean": mean,
        "half_width": half_width,
    }
