"""UNEM's training as an experiment: draw episodes of a labelled pool, and fit the schedules to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fewshot_episodes import Episode, EpisodeHash, EpisodeSampler

from fewshot.checks import SettingError
from fewshot.episodic.unem.model import UNEM
from fewshot.episodic.unem.training import Progress, UNEMTrace, fit_unem
from fewshot.features import FeatureSet

__all__ = [
    "MOST_QUERIES",
    "MOST_WAYS",
    "TrainingExperiment",
    "TrainingResult",
    "check_disjoint",
    "run_training",
    "untrained_model",
]

_MIXED_WAYS = (2, 5, 10)
MOST_WAYS, MOST_QUERIES = 20, 75


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExperiment:
    """Settings of UNEM's training on a labelled pool.

    Attributes
    ----------
    n_way : int, optional
        Classes per episode. Default 20, or all classes if there are fewer.
    n_shot : tuple of int
        Support items per class. A schedule is learned for each number.
    n_query_total : int, optional
        Queries per episode in all, uniform over the pooled items of the effective ways. Default 75, or as many as the
        smallest classes allow.
    effective_ways : tuple of int, optional
        Numbers of classes of an episode that have queries; the episodes are spread over these. Default 2, 5, 10 and
        ``n_way``, so that the result is good at all of them.
    n_episodes : int
        Training episodes in all, for each number of shots.
    n_layers : int
        EM steps, each with its own λ and T.
    likelihood : {"gaussian", "dirichlet"}
    inputs : {"embeddings", "probabilities"}
        For Dirichlet classes, see `fewshot.episodic.em_dirichlet.EMDirichlet`.
    raw_scale : bool
        For Gaussian classes: take features as they are, as the paper does, not in units of each episode's scatter.
    n_steps, learning_rate, loss
        See `fewshot.episodic.unem.training.fit_unem`.
    on_small_class : {"error", "skip"}
        Refuse a class with too few items, or leave it out.
    seed : int
        Decides the episodes.
    """

    n_way: int | None = None
    n_shot: tuple[int, ...] = (5,)
    n_query_total: int | None = None
    effective_ways: tuple[int, ...] | None = None
    n_episodes: int = 200
    n_layers: int = 10
    likelihood: str = "gaussian"
    inputs: str = "embeddings"
    raw_scale: bool = False
    n_steps: int = 100
    learning_rate: float | None = None
    loss: str = "nll"
    on_small_class: str = "error"
    seed: int = 0


class TrainingResult(NamedTuple):
    """A trained model, and its training data.

    Attributes
    ----------
    model : UNEM
    trace : UNEMTrace
    n_way : int
        Classes per episode.
    effective_ways : tuple of int
    protocol : str
        The draw of the episodes in words.
    episode_hash : str
    training : dict
        The facts that `fewshot.save_unem` keeps with the weights.
    """

    model: UNEM
    trace: UNEMTrace
    n_way: int
    effective_ways: tuple[int, ...]
    protocol: str
    episode_hash: str
    training: dict[str, Any]


def check_disjoint(pool: FeatureSet, tested: FeatureSet) -> None:
    """Check that no class to train on is one to test on.

    Raises
    ------
    SettingError
        If some are.
    """
    shared = [name for name in pool.class_names if name in tested.class_names]
    if shared:
        raise SettingError(
            "{0} of the {1} training classes are test classes too, such as {2!r}: choose disjoint ones with {classes} "
            "and {test_classes}",
            len(shared),
            pool.n_classes,
            shared[0],
        )


def run_training(
    pool: FeatureSet, experiment: TrainingExperiment | None = None, *, progress: Progress | None = None
) -> TrainingResult:
    """Train UNEM on episodes of a labelled pool.

    Parameters
    ----------
    pool : FeatureSet
        Training classes, all rows labelled; the model is trained on the device of its features.
    experiment : TrainingExperiment
    progress : callable, optional
        Called after each step with its number, the loss and the accuracy.

    Raises
    ------
    ValueError
        If a setting does not fit the pool, or the loss diverges.

    Examples
    --------
    >>> from fewshot.features import load_features
    >>> digits = load_features("digits").select_classes(range(5))
    >>> settings = TrainingExperiment(n_steps=2, n_episodes=3)
    >>> run_training(digits, settings).effective_ways
    (2, 5)
    """
    experiment = experiment or TrainingExperiment()
    n_way = experiment.n_way or min(MOST_WAYS, pool.n_classes)
    ways = experiment.effective_ways or (*(k for k in _MIXED_WAYS if k < n_way), n_way)
    if experiment.n_episodes < len(ways):
        message = "{n_episodes} {0} cannot cover {1} numbers of effective ways {2}"
        raise SettingError(message, experiment.n_episodes, len(ways), list(ways))
    samplers = _samplers(experiment, pool, n_way, ways)
    episodes, episode_hash = _draw(experiment, pool, samplers, len(ways))
    model = untrained_model(experiment).to(pool.features.device)
    trace = fit_unem(
        model,
        episodes,
        n_steps=experiment.n_steps,
        learning_rate=experiment.learning_rate,
        loss=experiment.loss,
        progress=progress,
    )
    if not math.isfinite(trace.loss[-1]):
        raise SettingError("the loss is no longer a number: lower {learning_rate}; nothing was written")
    protocol = "; ".join(sampler.describe() for sampler in samplers)
    training = {
        "n_way": n_way,
        "n_shot": list(experiment.n_shot),
        "effective_ways": list(ways),
        "n_episodes": experiment.n_episodes,
        "n_steps": experiment.n_steps,
        "loss": experiment.loss,
        "seed": experiment.seed,
        "class_names": list(pool.class_names),
        "source": dict(pool.source),
        "protocol": protocol,
        "episode_hash": episode_hash,
    }
    return TrainingResult(model, trace, n_way, ways, protocol, episode_hash, training)


def untrained_model(experiment: TrainingExperiment) -> UNEM:
    """Return the model that training starts from."""
    return UNEM(
        experiment.n_layers,
        shots=experiment.n_shot,
        likelihood=experiment.likelihood,
        inputs=experiment.inputs,
        is_relative=not experiment.raw_scale,
    )


def _samplers(
    experiment: TrainingExperiment, pool: FeatureSet, n_way: int, ways: tuple[int, ...]
) -> list[EpisodeSampler]:
    """Return a sampler for each number of shots and of effective ways."""
    try:
        return [
            EpisodeSampler(
                pool.labels,
                n_way,
                n_shot,
                n_query_total=experiment.n_query_total or _most_queries(pool, n_shot, n_effective_way),
                query_distribution="uniform",
                n_effective_way=n_effective_way,
                on_small_class=experiment.on_small_class,
                class_names=pool.class_names,
            )
            for n_shot in experiment.n_shot
            for n_effective_way in ways
        ]
    except SettingError as error:
        raise error.renamed(n_effective_way="effective_ways") from None


def _most_queries(pool: FeatureSet, n_shot: int, n_effective_way: int) -> int:
    """Return as many queries as the smallest classes with any to give can give, at most 75."""
    left = (pool.class_counts() - n_shot).sort().values
    return max(1, min(MOST_QUERIES, int(left[left > 0][:n_effective_way].sum())))


def _draw(
    experiment: TrainingExperiment, pool: FeatureSet, samplers: list[EpisodeSampler], n_kinds: int
) -> tuple[list[Episode], str]:
    """Draw the training episodes, about as many of each sampler, and return their hash."""
    generator = torch.Generator().manual_seed(experiment.seed)
    fingerprint = EpisodeHash()
    episodes = []
    n_each, n_rest = divmod(experiment.n_episodes, n_kinds)
    for position, sampler in enumerate(samplers):
        index = sampler.sample(n_each + (position % n_kinds < n_rest), generator=generator)
        fingerprint.update(index)
        episodes.append(index.gather(pool.features))
    return episodes, fingerprint.hexdigest()
