"""Choose a method's settings by episodes of validation classes; nothing changes without evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from fewshot_episodes import EpisodeSampler, MetaDatasetSampler
from torch import Tensor

from fewshot.episodic.method import Method
from fewshot.evaluation.episodes import evaluate_episodes
from fewshot.metrics.classification import Interval, mean_interval
from fewshot.registry.episodic import build_method
from fewshot.tuning.grids import Candidate

__all__ = ["MIN_EPISODES", "Score", "Tuning", "TuningProgress", "choose", "tune"]

# Called after each batch with the regime and the episodes done in it, counted once for each candidate.
TuningProgress = Callable[[str, int], None]

# Below, the normal approximation of an interval says little.
MIN_EPISODES = 30
_N_AT_ONCE = 4


class Score(NamedTuple):
    """Scores of one candidate.

    Attributes
    ----------
    candidate : Candidate
    accuracy : Interval
        Mean over the regimes, each counting the same, and its 95 % interval.
    difference : Interval
        To the default, on the same episodes; the intervals of all candidates hold together with 95 %.
    by_regime : dict of str to float
        Mean accuracy in each regime.
    """

    candidate: Candidate
    accuracy: Interval
    difference: Interval
    by_regime: dict[str, float]

    @property
    def is_beyond_default(self) -> bool:
        """Whether the whole interval of the difference lies above 0."""
        return self.difference.mean - self.difference.half_width > 0


class Tuning(NamedTuple):
    """The outcome of `tune`.

    Attributes
    ----------
    scores : tuple of Score
        The best first; of equal ones, the nearest to the default.
    default, chosen : Score
        The same if no candidate is beyond the default.
    episode_hashes : dict of str to str
        For each regime.
    """

    scores: tuple[Score, ...]
    default: Score
    chosen: Score
    episode_hashes: dict[str, str]

    @property
    def is_default_kept(self) -> bool:
        """Whether no candidate is beyond the default."""
        return self.chosen is self.default


def tune(
    tried: Sequence[Candidate],
    features: Tensor,
    samplers: Mapping[str, EpisodeSampler | MetaDatasetSampler],
    *,
    n_episodes: int = 200,
    batch_size: int = 64,
    generator: torch.Generator,
    progress: TuningProgress | None = None,
) -> Tuning:
    """Run candidates on the same episodes of one pool, and choose the best that is beyond the default.

    With a_ce the accuracy of candidate c in the e-th episode, averaged over the regimes, candidate 0 the default, and
    n candidates beside it, c is beyond the default if

        mean_e( a_ce - a_0e )  >  z_n · sd_e( a_ce - a_0e ) / √n_episodes,      z_n = Φ⁻¹( 1 - 0.025 / n ).

    Parameters
    ----------
    tried : sequence of Candidate
        Of `tuning_candidates`: the default first, and at least one more.
    features : Tensor (n, n_features)
        Rows of the validation classes, and of no others.
    samplers : mapping of str to sampler
        The regimes by name, such as several numbers of shots: all on the labels of ``features``.
    n_episodes : int
        For each regime. Default 200; at least 30.
    batch_size : int
        Most episodes at once. Sets the peak memory and changes no result.
    generator : torch.Generator
        On the CPU; decides the episodes. Left as it was: every regime starts from its state.
    progress : callable, optional
        Called after each batch with the regime and the episodes done in it, once for each candidate.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        If there are fewer than two candidates, no regime, or fewer than 30 episodes; or if a protocol lets queries be
        support items, on which a method that remembers them would win.

    Notes
    -----
    The best of many candidates looks better than it is, so that the intervals are those of all differences together
    (Bonferroni): with a default that is as good as any, one run in twenty at most leaves it. They cover the draw of
    episodes, not that of the classes: what is best for few classes need not be for others.

    The e-th episodes of all regimes are averaged before the deviation is taken, which holds whether or not they share
    items.

    Different from the authors of the methods, who take the best of their grids, some on a few hundred queries or, by
    their own account, on the classes of the test.

    Examples
    --------
    >>> from fewshot.tuning.grids import tuning_candidates
    >>> labels = torch.arange(300) % 3
    >>> noise = torch.randn((300, 8), generator=torch.Generator().manual_seed(0))
    >>> regimes = {"1-shot": EpisodeSampler(labels, n_way=3, n_shot=1, n_query=5)}
    >>> found = tune(tuning_candidates("soft-kmeans", {"n_layers": [1]}), torch.eye(3, 8)[labels] + 0.1 * noise,
    ...              regimes, n_episodes=40, generator=torch.Generator().manual_seed(0))
    >>> found.chosen.candidate.method, found.is_default_kept
    ('soft-kmeans:n_layers=100', True)
    """
    _check(tried, samplers, n_episodes)
    methods = {candidate.method: _built(candidate.method, features.device) for candidate in tried}
    state = generator.get_state()
    accuracies, hashes = {}, {}
    for regime, sampler in samplers.items():
        parts = []
        for start in range(0, len(tried), _N_AT_ONCE):
            names = [candidate.method for candidate in tried[start : start + _N_AT_ONCE]]
            evaluation = evaluate_episodes(
                {name: methods[name] for name in names},
                features,
                sampler,
                n_episodes=n_episodes,
                batch_size=batch_size,
                generator=torch.Generator().set_state(state),
                progress=_counted(progress, regime, start * n_episodes, len(names)),
            )
            hashes[regime] = evaluation.episode_hash
            parts += [evaluation.scores[name].accuracy for name in names]
        accuracies[regime] = torch.stack(parts)
    return choose(tried, accuracies, hashes)


def choose(tried: Sequence[Candidate], accuracies: Mapping[str, Tensor], episode_hashes: Mapping[str, str]) -> Tuning:
    """Choose the best candidate that is beyond the default, see `tune`.

    Parameters
    ----------
    tried : sequence of Candidate
        The default first, and at least one more.
    accuracies : mapping of str to Tensor (n_candidates, n_episodes)
        For each regime, on the same episodes for all candidates.
    episode_hashes : mapping of str to str
        Passed on.

    Examples
    --------
    >>> tried = [Candidate("paddle:n_layers=100", {"n_layers": 100}, 0), Candidate("paddle:n_layers=5", {}, 1)]
    >>> found = choose(tried, {"1-shot": torch.tensor([[0.4, 0.6, 0.5], [0.6, 0.9, 0.8]])}, {"1-shot": "-"})
    >>> found.chosen.candidate.method, round(found.chosen.difference.mean, 3)
    ('paddle:n_layers=5', 0.267)
    """
    means = torch.stack([each.double() for each in accuracies.values()]).mean(0)
    by_regime = {regime: each.double().mean(-1).tolist() for regime, each in accuracies.items()}
    scores = [
        Score(
            candidate,
            mean_interval(row),
            _joint(mean_interval(row - means[0]), len(tried) - 1),
            {regime: values[position] for regime, values in by_regime.items()},
        )
        for position, (candidate, row) in enumerate(zip(tried, means, strict=True))
    ]
    ranked = sorted(scores, key=lambda score: (-round(score.accuracy.mean, 12), score.candidate.n_steps_away))
    chosen = next((score for score in ranked if score.is_beyond_default), scores[0])
    return Tuning(tuple(ranked), scores[0], chosen, dict(episode_hashes))


def _check(
    tried: Sequence[Candidate], samplers: Mapping[str, EpisodeSampler | MetaDatasetSampler], n_episodes: int
) -> None:
    if len(tried) < 2 or not samplers:
        raise ValueError(
            f"tuning needs at least the default, another candidate and a regime, got {len(tried)} candidates and "
            f"{len(samplers)} regimes"
        )
    if n_episodes < MIN_EPISODES:
        raise ValueError(f"n_episodes must be at least {MIN_EPISODES} for an interval to mean much, got {n_episodes}")
    leaking = next((regime for regime, sampler in samplers.items() if not sampler.is_disjoint), None)
    if leaking is not None:
        raise ValueError(f"regime {leaking!r} lets queries be support items: tune on a protocol that keeps them apart")


def _built(method: str, device: torch.device) -> Method:
    built = build_method(method)
    return built.to(device) if isinstance(built, torch.nn.Module) else built


def _counted(
    progress: TuningProgress | None, regime: str, n_before: int, n_methods: int
) -> Callable[[int, Mapping[str, float]], None] | None:
    """Return the progress callback that counts an episode once for each candidate."""
    if progress is None:
        return None
    return lambda n_done, means: progress(regime, n_before + n_done * n_methods)


def _joint(interval: Interval, n_intervals: int) -> Interval:
    """Widen a 95 % interval to one of ``n_intervals`` that hold together with 95 %."""
    return Interval(interval.mean, interval.half_width * NormalDist().inv_cdf(1 - 0.025 / n_intervals) / 1.96)
