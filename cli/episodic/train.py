"""``fewshot train``: learn a method's numbers on some classes, for use on others."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from fewshot_episodes import Episode, EpisodeHash, EpisodeSampler

from fewshot.episodic.em_dirichlet import INPUTS
from fewshot.episodic.unem.model import LIKELIHOODS, UNEM
from fewshot.episodic.unem.training import LOSSES, UNEMTrace, fit_unem
from fewshot.features import FeatureSet
from fewshot.models import save_unem

from ..group import NearestGroup
from ..shared import output
from ..shared.class_columns import check_columns
from ..shared.options import (
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
from ..shared.tables import training_report
from ..shared.words import settings_as_options

__all__ = ["train"]

MIX = "mix"
_MIXED_WAYS = (2, 5, 10)
# What the weights keep of how they were trained, and what is learned.
_KEPT = ("n_way", "n_shot", "effective_ways", "n_episodes", "n_steps", "loss", "seed")
_LEARNED = ("class_balance", "temperature", "scale")
_COUNT = click.IntRange(min=1)
# How this command has what the sampler's messages name.
_RENAMED = {"n_effective_way": "--effective-ways", "(on_small_class: skip)": "with --classes"}

_episode_options = bundle(
    click.option(
        "--n-way", type=_COUNT, metavar="N", show_default="20, or all classes if fewer", help="Classes per episode."
    ),
    click.option(
        "--n-shot",
        default="5",
        callback=whole_numbers(),
        metavar="LIST",
        help="Support items per class. Numbers are learned for each; an episode takes those of the nearest.",
    ),
    click.option(
        "--n-query-total",
        type=_COUNT,
        metavar="N",
        show_default="75, or what the smallest classes allow",
        help="Queries per episode in all, uniform over the pooled items of the effective ways.",
    ),
    click.option(
        "--effective-ways",
        default=MIX,
        callback=whole_numbers(MIX),
        metavar="mix|LIST",
        help="How many classes of an episode have queries, such as 5 or 2,5,10; the episodes are spread over these. "
        "mix: 2, 5, 10 and n-way, so that the result is good at all of them.",
    ),
    click.option(
        "--n-episodes",
        type=_COUNT,
        metavar="N",
        default=200,
        help="Training episodes in all, for each number of shots.",
    ),
)

_model_options = bundle(
    click.option("--n-layers", type=_COUNT, metavar="N", default=10, help="EM steps, each with its own λ and T."),
    click.option("--likelihood", default="gaussian", **choice(LIKELIHOODS), help="How a class spreads."),
    click.option(
        "--inputs",
        default="embeddings",
        **choice(INPUTS),
        help="For the dirichlet likelihood: what the features are.",
    ),
    click.option(
        "--raw-scale",
        is_flag=True,
        help="For the gaussian likelihood: take features as they are, as the paper does, not in units of each "
        "episode's scatter.",
    ),
    click.option("--n-steps", type=_COUNT, metavar="N", default=100, help="Steps of Adam, each on all episodes."),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        show_default="0.1, dirichlet 0.5",
        help="Step size of Adam, halved every 50 steps.",
    ),
    click.option(
        "--loss",
        default="nll",
        **choice(tuple(LOSSES)),
        help="nll: negative log-likelihood of the right answers. double-softmax: the paper's.",
    ),
)

_test_options = bundle(
    click.option(
        "--test-features", metavar="FILE", help="Features you will test on: refuse to train if classes overlap."
    ),
    click.option("--test-classes", metavar="LIST", help="Classes you will test on: refuse to train if they overlap."),
)


@click.group(cls=NearestGroup, short_help="Learn a method's numbers on some classes, for use on others.")
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
@run_options
@click.pass_context
def unem(context: click.Context, /, **settings: Any) -> None:
    """Learn UNEM's numbers on labelled classes and write them to a file.

    The numbers (λ and T of each layer, and a scale) are few and shared by all classes: learn them on classes that you
    will not be asked about, then use them on any others. Nothing is written before the end.

    \b
    Example:
      fewshot train unem --features digits --classes 0-4 --out unem.safetensors
      fewshot episode --features digits --classes 5-9 --method unem --weights unem.safetensors
    """  # noqa: D301 (click's own mark)
    _check_applicable(context, settings)
    check_folder(settings["out"])
    with output.gathered_warnings() as noticed:
        document = document_head(context) | _train(settings)
    document["warnings"] = noticed
    output.publish(document, training_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Refuse options that would do nothing."""
    is_gaussian = settings["likelihood"] == "gaussian"
    if is_gaussian and settings["inputs"] != "embeddings":
        raise click.UsageError("--inputs needs --likelihood dirichlet", context)
    if not is_gaussian and settings["raw_scale"]:
        raise click.UsageError("--raw-scale needs --likelihood gaussian", context)


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, write the file, and return the document, less its head and warnings."""
    device = resolve_device(settings["device"])
    pool = load_pool(settings["features"], settings["labels"], settings["classes"]).to(device)
    _check_test_classes(settings, pool)
    settings = _resolved(settings, pool) | {"device": str(device)}
    model = _untrained(settings).to(device)
    check_columns({f"--inputs {settings['inputs']}": model}, pool, settings["classes"])
    with settings_as_options(_RENAMED):
        samplers = _samplers(settings, pool)
    episodes, episode_hash = _draw(settings, pool, samplers)
    trace = _fit(settings, model, episodes)
    protocol = "; ".join(sampler.describe() for sampler in samplers)
    training = {
        **{name: settings[name] for name in _KEPT},
        "class_names": list(pool.class_names),
        "source": dict(pool.source),
        "protocol": protocol,
        "episode_hash": episode_hash,
    }
    save_unem(model, settings["out"], training)
    return {
        "settings": settings,
        "features": describe_pool(settings["features"], pool),
        "protocol": protocol,
        "training": training,
        "trace": {"loss": trace.loss.tolist(), "accuracy": trace.accuracy.tolist()},
        "schedule": {"n_shot": list(model.shots)} | {name: getattr(model, name).tolist() for name in _LEARNED},
        "next_command": _next_command(settings),
    }


def _untrained(settings: Mapping[str, Any]) -> UNEM:
    return UNEM(
        settings["n_layers"],
        shots=settings["n_shot"],
        likelihood=settings["likelihood"],
        inputs=settings["inputs"],
        is_relative=not settings["raw_scale"],
    )


def _check_test_classes(settings: Mapping[str, Any], pool: FeatureSet) -> None:
    """Refuse to train on classes that are to be tested on."""
    if settings["test_features"] is None and settings["test_classes"] is None:
        return
    is_own = settings["test_features"] is None
    labels = settings["labels"] if is_own else None
    tested = load_pool(settings["features"] if is_own else settings["test_features"], labels, settings["test_classes"])
    shared = [name for name in pool.class_names if name in tested.class_names]
    if shared:
        raise ValueError(
            f"{len(shared)} of the {pool.n_classes} training classes are test classes too, such as {shared[0]!r}: "
            "choose disjoint ones with --classes and --test-classes"
        )


def _resolved(settings: Mapping[str, Any], pool: FeatureSet) -> dict[str, Any]:
    """Fill in the defaults that depend on the data and on other settings."""
    n_way = settings["n_way"] or min(20, pool.n_classes)
    ways = settings["effective_ways"]
    if ways == MIX:
        ways = sorted({k for k in _MIXED_WAYS if k < n_way} | {n_way})
    if settings["n_episodes"] < len(ways):
        raise ValueError(
            f"--n-episodes {settings['n_episodes']} cannot cover {len(ways)} numbers of effective ways {ways}"
        )
    return {**settings, "n_way": n_way, "effective_ways": ways}


def _samplers(settings: Mapping[str, Any], pool: FeatureSet) -> list[EpisodeSampler]:
    """Return a sampler for each number of shots and of effective ways."""
    sizes = pool.class_counts().sort().values
    return [
        EpisodeSampler(
            pool.labels,
            settings["n_way"],
            n_shot,
            n_query_total=settings["n_query_total"] or max(1, min(75, int((sizes[:k] - n_shot).sum()))),
            query_distribution="uniform",
            n_effective_way=k,
            class_names=pool.class_names,
        )
        for n_shot in settings["n_shot"]
        for k in settings["effective_ways"]
    ]


def _draw(settings: Mapping[str, Any], pool: FeatureSet, samplers: list[EpisodeSampler]) -> tuple[list[Episode], str]:
    """Draw the training episodes, about as many of each sampler, and return their hash."""
    generator = torch.Generator().manual_seed(settings["seed"])
    fingerprint = EpisodeHash()
    episodes = []
    n_each, n_rest = divmod(settings["n_episodes"], len(settings["effective_ways"]))
    for position, sampler in enumerate(samplers):
        is_rest = position % len(settings["effective_ways"]) < n_rest
        index = sampler.sample(n_each + is_rest, generator=generator)
        fingerprint.update(index)
        episodes.append(index.gather(pool.features))
    return episodes, fingerprint.hexdigest()


def _fit(settings: Mapping[str, Any], model: UNEM, episodes: list[Episode]) -> UNEMTrace:
    remark = f"; nothing was written to {settings['out']}"
    with output.Progress("steps", is_quiet=settings["is_quiet"], remark=remark) as progress:
        progress.start("", settings["n_steps"])
        trace = fit_unem(
            model,
            episodes,
            n_steps=settings["n_steps"],
            learning_rate=settings["learning_rate"],
            loss=settings["loss"],
            progress=lambda step, loss, accuracy: progress.update(
                step, f"loss {loss:.4f}, training accuracy {100 * accuracy:.1f} %"
            ),
        )
    if not math.isfinite(trace.loss[-1]):
        raise ValueError(
            f"the loss is no longer a number: lower --learning-rate; nothing was written to {settings['out']}"
        )
    return trace


def _next_command(settings: Mapping[str, Any]) -> str:
    """Return the command that uses the file."""
    features = settings["test_features"] or (settings["features"] if settings["test_classes"] else None)
    chosen = shlex.quote(features) if features else "FEATURES_OF_OTHER_CLASSES"
    classes = f" --classes {shlex.quote(settings['test_classes'])}" if settings["test_classes"] else ""
    weights = shlex.quote(str(Path(settings["out"])))
    return f"fewshot episode --features {chosen}{classes} --method unem --weights {weights}"
