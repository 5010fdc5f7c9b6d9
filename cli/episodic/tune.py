"""``fewshot tune``: a method's settings, chosen on validation classes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from fewshot_episodes import EpisodeSampler

from fewshot.checks import check_choice
from fewshot.evaluation.episode_experiment import N_QUERY, N_QUERY_TOTAL
from fewshot.features import FeatureSet
from fewshot.registry.episodic import METHODS, build_method
from fewshot.tuning.experiment import TuningExperiment, TuningResult, run_tuning
from fewshot.tuning.files import save_tuned
from fewshot.tuning.search import MIN_EPISODES, Score, Tuning

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
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    settings_object,
    settings_of,
)
from ..shared.tables import pool_words
from .arguments import dirichlet_option, distribution_option, effective_way_option, limit_options
from .tune_table import tune_report

__all__ = ["tune"]

_option = partial(setting_option, TuningExperiment)


def _method_word(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Let one method pass."""
    name = value.partition(":")[0]
    first, _, rest = name.partition(",")
    if rest and first in METHODS:
        raise click.BadParameter("one method at a time: run fewshot tune for each", context, parameter)
    try:
        check_choice("method", name, METHODS)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


def _grid_words(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, list[str]] | None:
    """Read ``option=v1,v2`` words, if there are any."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        option, _, words = text.partition("=")
        values = [word.strip() for word in words.split(",") if word.strip()]
        if not option.strip() or not values:
            raise click.BadParameter(f"needs OPTION=VALUE,VALUE,...; got {text!r}", context, parameter)
        if option.strip() in grid:
            raise click.BadParameter(f"{option.strip()} is given twice: name its values once", context, parameter)
        grid[option.strip()] = values
    return grid or None


_candidate_options = bundle(
    click.option(
        "--method",
        required=True,
        callback=_method_word,
        metavar="NAME[:OPTION=VALUE,...]",
        help="The method to tune, see fewshot methods. Options given with it are held at their values.",
    ),
    _option(
        "grid",
        "OPTION=VALUE,...",
        "Values to try for an option; for several, give it again. The default joins them; options that are not named "
        "are not tuned.",
        multiple=True,
        callback=_grid_words,
        show_default="the method's own",
    ),
    _option(
        "n_candidates",
        click.IntRange(min=2),
        "At most so many combinations: of more, the default and others drawn at random.",
    ),
)

_protocol_options = bundle(
    _option("n_way", COUNT, "Classes per episode."),
    _option("n_shot", NUMBERS, "Support items per class, each in turn."),
    distribution_option(
        TuningExperiment,
        "How queries spread over the classes, see fewshot episode; each in turn. The accuracy is averaged over these "
        "and over the numbers of shots, each counting the same.",
    ),
    effective_way_option(TuningExperiment, "Classes of an episode that have queries at all, each in turn."),
    _option("n_query", COUNT, "Queries per class, when balanced.", show_default=f"{N_QUERY}"),
    _option("n_query_total", COUNT, "Queries in all, unless balanced.", show_default=f"{N_QUERY_TOTAL}"),
    dirichlet_option(TuningExperiment),
    _option(
        "n_episodes",
        click.IntRange(min=MIN_EPISODES),
        "Episodes per number of shots and distribution; the more, the smaller the differences that are found.",
    ),
    limit_options(TuningExperiment),
)


@click.command()
@pool_options
@_candidate_options
@_protocol_options
@click.option("--out", metavar="FILE", required=True, help="The JSON file to write; one that exists is replaced.")
@run_options(TuningExperiment)
@click.pass_context
def tune(context: click.Context, /, **words: Any) -> None:
    """Choose a method's settings by episodes of validation classes, and write them to a file.

    --features and --classes name the validation classes, and nothing else is read: take classes that you will not
    evaluate on. fewshot episode and fewshot classify take the file with --tuned and refuse it where class names
    overlap. All candidates run on the same episodes. The default is kept unless a candidate is better beyond the
    interval of their difference, which holds for all candidates together.

    One method at a time. UNEM's numbers are learned, not tuned: see fewshot train unem; what can be tuned of unem is
    the preset.

    \b
    Example:
      fewshot tune --features digits --classes 0-4 --method em-gaussian --out em.json
      fewshot episode --features digits --classes 5-9 --method nearest-prototype --tuned em.json
    """  # noqa: D301 (click's own mark)
    _check_applicable(context)
    experiment = settings_object(context, TuningExperiment, words)
    files = TuningFiles(**words)
    check_folder(files.out)
    with output.gathered_warnings() as noticed:
        pool = files.load().to(resolve_device(files.device))
        check_columns({experiment.method: build_method(experiment.candidates[0].method)}, pool, files.classes)
        result = _run(files, experiment, pool)
    next_command = _next_command(files.out, experiment.method)
    document = document_head(context) | _document(files, experiment, pool, result) | {"next_command": next_command}
    save_tuned(files.out, document["method"], document["class_names"], document)
    document["warnings"] = noticed
    facts = [("features", pool_words(files.features, pool)), ("written", files.out), ("use it", next_command)]
    output.publish(document, tune_report(experiment, result, pool.class_names, facts), is_json=files.is_json)


@dataclass(frozen=True, kw_only=True)
class TuningFiles(PoolFiles):
    """Where the command reads and writes, and how it runs."""

    out: str


def _check_applicable(context: click.Context) -> None:
    """Refuse options that were given and would do nothing."""
    distributions = context.params["query_distribution"]
    why = f"does nothing with --query-distribution {','.join(distributions)}"
    rules = {
        "dirichlet_concentration": ("dirichlet" in distributions, why),
        "n_query": ("balanced" in distributions, why),
        "n_query_total": (distributions != ("balanced",), why),
    }
    refuse_unused(context, rules)


def _run(files: TuningFiles, experiment: TuningExperiment, pool: FeatureSet) -> TuningResult:
    n_each = len(experiment.candidates) * experiment.n_episodes
    places: dict[str, int] = {}  # of the regimes, which come one after the other
    remark = f"; nothing was written to {files.out}"
    with output.Progress("episodes", is_quiet=files.is_quiet, remark=remark) as progress:
        progress.start(f"{len(experiment.candidates)} candidates", n_each * experiment.n_regimes)
        return run_tuning(
            pool,
            experiment,
            progress=lambda regime, n_done: progress.update(
                n_each * places.setdefault(regime, len(places)) + n_done, ""
            ),
        )


def _document(
    files: TuningFiles, experiment: TuningExperiment, pool: FeatureSet, result: TuningResult
) -> dict[str, Any]:
    """Return the document, less its head, the next command and the warnings."""
    found = result.tuning
    resolved = {"grid": experiment.grid or {}, "device": f"{resolve_device(files.device)}"}
    return {
        "method": found.chosen.candidate.method,
        "options": found.chosen.candidate.options,
        "is_default_kept": found.is_default_kept,
        "class_names": sorted(pool.class_names),
        "features": pool.describe(files.features),
        "settings": settings_of(files) | settings_of(experiment) | resolved,
        "regimes": [_regime(name, sampler, found, pool) for name, sampler in result.samplers.items()],
        "n_combinations": experiment.n_combinations,
        "candidates": [_row(score, found) for score in found.scores],
    }


def _regime(name: str, sampler: EpisodeSampler, found: Tuning, pool: FeatureSet) -> dict[str, Any]:
    return {
        "name": name,
        "n_shot": sampler.n_shot,
        "query_distribution": sampler.query_distribution,
        "protocol": sampler.describe(),
        "episode_hash": found.episode_hashes[name],
        "skipped_classes": [pool.class_names[class_id] for class_id in sampler.skipped_class_ids],
    }


def _row(score: Score, found: Tuning) -> dict[str, Any]:
    return {
        "method": score.candidate.method,
        "options": score.candidate.options,
        "accuracy": score.accuracy.mean,
        "half_width": score.accuracy.half_width,
        "difference": score.difference._asdict(),
        "by_regime": score.by_regime,
        "is_default": score is found.default,
        "is_chosen": score is found.chosen,
    }


def _next_command(out: str, method: str) -> str:
    """Return the command that uses the file."""
    file, name = shlex.quote(out), method.partition(":")[0]
    return f"fewshot episode --features FEATURES_OF_OTHER_CLASSES --method {name} --tuned {file}"
