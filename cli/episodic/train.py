"""``fewshot train``: learn a method's numbers on some classes, for use on others."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from fewshot.episodic.em_dirichlet import INPUTS
from fewshot.episodic.unem.model import LIKELIHOODS
from fewshot.episodic.unem.training import LOSSES
from fewshot.evaluation.training import (
    MOST_QUERIES,
    MOST_WAYS,
    TrainingExperiment,
    TrainingResult,
    check_disjoint,
    run_training,
    untrained_model,
)
from fewshot.features import FeatureSet
from fewshot.models import save_unem

from ..group import NearestGroup
from ..shared import output
from ..shared.class_columns import check_columns
from ..shared.options import (
    COUNT,
    NUMBERS,
    POSITIVE,
    PoolFiles,
    bundle,
    check_folder,
    document_head,
    load_pool,
    pool_options,
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    settings_object,
    settings_of,
    whole_numbers,
)
from ..shared.tables import pool_words
from .arguments import small_class_option
from .train_table import training_report

__all__ = ["train"]

MIX = "mix"
_LEARNED = ("class_balance", "temperature", "scale")
_option = partial(setting_option, TrainingExperiment)


def _effective_ways(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...] | None:
    """Read the list, or None for the mix, whose numbers depend on the pool."""
    ways = whole_numbers(MIX)(context, parameter, value)
    return None if ways == MIX else ways


_episode_options = bundle(
    _option("n_way", COUNT, "Classes per episode.", show_default=f"{MOST_WAYS}, or all classes if fewer"),
    _option(
        "n_shot",
        NUMBERS,
        "Support items per class. Numbers are learned for each; an episode takes those of the nearest.",
    ),
    _option(
        "n_query_total",
        COUNT,
        "Queries per episode in all, uniform over the pooled items of the effective ways.",
        show_default=f"{MOST_QUERIES}, or what the smallest classes allow",
    ),
    _option(
        "effective_ways",
        "mix|LIST",
        "How many classes of an episode have queries, such as 5 or 2,5,10; the episodes are spread over these. mix: 2, "
        "5, 10 and n-way, so that the result is good at all of them.",
        default=MIX,
        callback=_effective_ways,
    ),
    _option("n_episodes", COUNT, "Training episodes in all, for each number of shots."),
    small_class_option(TrainingExperiment),
)

_model_options = bundle(
    _option("n_layers", COUNT, "EM steps, each with its own λ and T."),
    _option("likelihood", LIKELIHOODS, "How a class spreads."),
    _option("inputs", INPUTS, "For the dirichlet likelihood: what the features are."),
    _option(
        "raw_scale",
        {"is_flag": True},
        "For the gaussian likelihood: take features as they are, as the paper does, not in units of each episode's "
        "scatter.",
    ),
    _option("n_steps", COUNT, "Steps of Adam, each on all episodes."),
    _option("learning_rate", POSITIVE, "Step size of Adam, halved every 50 steps.", show_default="0.1, dirichlet 0.5"),
    _option(
        "loss",
        tuple(LOSSES),
        "nll: negative log-likelihood of the right answers. double-softmax: the paper's.",
    ),
)

_test_options = bundle(
    click.option(
        "--test-features", metavar="FILE", help="Features you will test on: refuse to train if classes overlap."
    ),
    click.option("--test-classes", metavar="LIST", help="Classes you will test on: refuse to train if they overlap."),
)


@click.group(cls=NearestGroup)
def train() -> None:
    """Learn a method's numbers on labelled classes and write them to a file.

    \b
    Example:
      fewshot train unem --features digits --classes 0-4 --out unem.safetensors
    """  # noqa: D301 (click's own mark)


@train.command(short_help="Learn UNEM's schedules.")
@pool_options
@click.option(
    "--out", metavar="FILE", required=True, help="The .safetensors file to write; one that exists is replaced."
)
@_episode_options
@_model_options
@_test_options
@run_options(TrainingExperiment)
@click.pass_context
def unem(context: click.Context, /, **words: Any) -> None:
    """Learn UNEM's numbers on labelled classes and write them to a file.

    The numbers (λ and T of each layer, and a scale) are few and shared by all classes: learn them on classes that you
    will not be asked about, then use them on any others. Nothing is written before the end.

    \b
    Example:
      fewshot train unem --features digits --classes 0-4 --out unem.safetensors
      fewshot episode --features digits --classes 5-9 --method unem --weights unem.safetensors
    """  # noqa: D301 (click's own mark)
    experiment = settings_object(context, TrainingExperiment, words)
    _check_applicable(context, experiment)
    files = TrainingFiles(**words)
    check_folder(files.out)
    with output.gathered_warnings() as noticed:
        pool = files.load().to(resolve_device(files.device))
        result = _train(files, experiment, pool)
    next_command = _next_command(files)
    document = document_head(context) | _document(files, experiment, pool, result)
    document |= {"next_command": next_command, "warnings": noticed}
    facts = [("features", pool_words(files.features, pool)), ("written", files.out), ("use it", next_command)]
    output.publish(document, training_report(result, facts), is_json=files.is_json)


@dataclass(frozen=True, kw_only=True)
class TrainingFiles(PoolFiles):
    """Where the command reads and writes, and how it runs."""

    out: str
    test_features: str | None
    test_classes: str | None


def _check_applicable(context: click.Context, experiment: TrainingExperiment) -> None:
    is_gaussian = experiment.likelihood == "gaussian"
    rules = {
        "inputs": (not is_gaussian, "needs --likelihood dirichlet"),
        "raw_scale": (is_gaussian, "needs --likelihood gaussian"),
    }
    refuse_unused(context, rules)


def _train(files: TrainingFiles, experiment: TrainingExperiment, pool: FeatureSet) -> TrainingResult:
    """Train, and write the file."""
    _check_test_classes(files, pool)
    check_columns({f"--inputs {experiment.inputs}": untrained_model(experiment)}, pool, files.classes)
    remark = f"; nothing was written to {files.out}"
    with output.Progress("steps", is_quiet=files.is_quiet, remark=remark) as progress:
        progress.start("", experiment.n_steps)
        result = run_training(
            pool,
            experiment,
            progress=lambda step, loss, accuracy: progress.update(
                step, f"loss {loss:.4f}, training accuracy {100 * accuracy:.1f} %"
            ),
        )
    save_unem(result.model, files.out, result.training)
    return result


def _document(
    files: TrainingFiles, experiment: TrainingExperiment, pool: FeatureSet, result: TrainingResult
) -> dict[str, Any]:
    """Return the document, less its head, the next command and the warnings."""
    device = f"{resolve_device(files.device)}"
    resolved = {"n_way": result.n_way, "effective_ways": list(result.effective_ways), "device": device}
    learned = {name: getattr(result.model, name).tolist() for name in _LEARNED}
    return {
        "settings": settings_of(files) | settings_of(experiment) | resolved,
        "features": pool.describe(files.features),
        "protocol": result.protocol,
        "training": result.training,
        "trace": {"loss": result.trace.loss.tolist(), "accuracy": result.trace.accuracy.tolist()},
        "schedule": {"n_shot": list(result.model.shots)} | learned,
    }


def _check_test_classes(files: TrainingFiles, pool: FeatureSet) -> None:
    """Refuse to train on classes that are to be tested on."""
    if files.test_features is None and files.test_classes is None:
        return
    features, labels = (files.features, files.labels) if files.test_features is None else (files.test_features, None)
    check_disjoint(pool, load_pool(features, labels, files.test_classes))


def _next_command(files: TrainingFiles) -> str:
    """Return the command that uses the file."""
    features = files.test_features or (files.features if files.test_classes else None)
    chosen = shlex.quote(features) if features else "FEATURES_OF_OTHER_CLASSES"
    classes = f" --classes {shlex.quote(files.test_classes)}" if files.test_classes else ""
    weights = shlex.quote(str(Path(files.out)))
    return f"fewshot episode --features {chosen}{classes} --method unem --weights {weights}"
