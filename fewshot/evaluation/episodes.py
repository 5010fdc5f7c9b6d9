"""Methods × episodes → scores, every method on the same episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from fewshot_episodes import Episode, EpisodeHash, EpisodeIndex, EpisodeSampler, MetaDatasetSampler
from torch import Tensor

from fewshot.em import EMResult
from fewshot.episodic.method import EMMethod, Method
from fewshot.episodic.query_set import check_probabilities
from fewshot.metrics.classification import Interval, episode_accuracy, mean_interval
from fewshot.metrics.comparison import Standing, behind_best

__all__ = ["EpisodeScores", "Evaluation", "Progress", "evaluate_episodes"]

# Called after each batch with the number of episodes done and each method's running mean accuracy.
Progress = Callable[[int, Mapping[str, float]], None]

_CACHE_BYTES = 1 << 23


class EpisodeScores(NamedTuple):
    """One method's scores.

    Attributes
    ----------
    accuracy : Tensor (n_episodes,)
        Share of right answers per episode, in [0, 1].
    seconds : float
        Wall-clock time in the method alone.
    warnings : tuple of str
        What the method noticed about its own answers, and what to change.
    """

    accuracy: Tensor
    seconds: float
    warnings: tuple[str, ...]

    @property
    def interval(self) -> Interval:
        """Mean accuracy over the episodes and its 95 % interval."""
        return mean_interval(self.accuracy)

    def difference(self, other: EpisodeScores) -> Interval:
        """Mean and 95 % interval of the paired difference, self minus other, on the same episodes."""
        return mean_interval(self.accuracy - other.accuracy)


class Evaluation(NamedTuple):
    """The outcome of a run.

    Attributes
    ----------
    scores : dict of str to EpisodeScores
    episode_hash : str
        Equal hashes mean equal episodes.
    n_episodes, n_queries : int
        Episodes, and queries in all of them.
    n_leaked : int
        Queries that are also support items of their episode; 0 unless the protocol leaks.
    sampling_seconds : float
        Wall-clock time of drawing the episodes and looking their features up.
    n_leaking_episodes : int
        Episodes with at least one such query.
    """

    scores: dict[str, EpisodeScores]
    episode_hash: str
    n_episodes: int
    n_queries: int
    n_leaked: int
    sampling_seconds: float
    n_leaking_episodes: int

    def behind_best(self) -> dict[str, Standing]:
        """Compare each method with the best one, paired episode by episode."""
        return dict(zip(self.scores, behind_best([scores.accuracy for scores in self.scores.values()]), strict=True))


class _Tally:
    """One method's scores so far."""

    def __init__(self, method: Method) -> None:
        # Looked up once: asking whether a method follows a protocol takes as long as several tensor operations.
        self.solve: Callable[[Episode], EMResult | Tensor] = method.solve if isinstance(method, EMMethod) else method
        self.accuracy: list[Tensor] = []
        self.seconds = 0.0
        self.n_collapsed = 0
        self.n_one_hot = 0

    def mean(self) -> float:
        n_episodes = sum(len(part) for part in self.accuracy)
        return float(sum(part.double().sum() for part in self.accuracy)) / n_episodes

    def scores(self) -> EpisodeScores:
        accuracy = torch.cat(self.accuracy)
        return EpisodeScores(accuracy, self.seconds, em_warnings(self.n_collapsed, self.n_one_hot, len(accuracy)))


class _Draws:
    """Counts and fingerprint of the draws so far."""

    def __init__(self, *, is_disjoint: bool) -> None:
        self._is_disjoint = is_disjoint
        self.fingerprint = EpisodeHash()
        self.n_episodes = self.n_queries = self.n_leaked = self.n_leaking = 0

    def add(self, index: EpisodeIndex) -> None:
        """Count the episodes of one batch, their queries, and those that are support items too."""
        self.fingerprint.update(index)
        self.n_episodes += index.n_episodes
        self.n_queries += int((index.query_index >= 0).sum())
        if not self._is_disjoint:
            leaked = _leaked(index)
            self.n_leaked += int(leaked.sum())
            self.n_leaking += int((leaked > 0).sum())


class _Lookup:
    """The features of episodes, in storage that is used again and again: an episode is valid until the next one."""

    def __init__(self, features: Tensor) -> None:
        self._features, self._buffer = features, features.new_empty(0)

    def episodes(self, index: EpisodeIndex) -> Iterator[Episode]:
        """Yield a batch of episodes in pieces."""
        for piece in _pieces(index, self._features):
            self._buffer = _grown(self._buffer, piece, self._features)
            yield piece.gather(self._features, self._buffer)


@torch.inference_mode()
def evaluate_episodes(
    methods: Mapping[str, Method],
    features: Tensor,
    sampler: EpisodeSampler | MetaDatasetSampler,
    *,
    n_episodes: int,
    batch_size: int = 64,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Evaluation:
    """Run methods on the same episodes.

    Parameters
    ----------
    methods : mapping of str to Method
    features : Tensor (n, n_features)
        The pool's features, row for row as the sampler's labels; the methods run on their device and in their dtype.
    sampler : EpisodeSampler or MetaDatasetSampler
    n_episodes : int
    batch_size : int
        Most episodes at once. Sets the peak memory and changes no result.
    generator : torch.Generator
        On the CPU; decides the episodes.
    progress : callable, optional
        Called after each batch with the episodes done and the running mean accuracy of each method.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If there is no method or no episode, or the features are not one row per label.

    Examples
    --------
    >>> from fewshot.episodic.nearest_prototype import NearestPrototype
    >>> labels = torch.arange(60) % 3
    >>> outcome = evaluate_episodes({"prototypes": NearestPrototype()}, torch.eye(3)[labels],
    ...                             EpisodeSampler(labels, n_way=2, n_shot=1, n_query=4), n_episodes=10,
    ...                             generator=torch.Generator().manual_seed(0))
    >>> outcome.scores["prototypes"].interval
    Interval(mean=1.0, half_width=0.0)
    """
    _check_sizes(methods, features, sampler, n_episodes, batch_size)
    tallies = {name: _Tally(method) for name, method in methods.items()}
    draws, lookup = _Draws(is_disjoint=sampler.is_disjoint), _Lookup(features)
    started = time.perf_counter()
    for index in sampler.batches(n_episodes, batch_size, generator=generator):
        draws.add(index)
        for episode in lookup.episodes(index):
            for tally in tallies.values():
                _score(tally, episode)
        if progress is not None:
            progress(draws.n_episodes, {name: tally.mean() for name, tally in tallies.items()})
    sampling_seconds = time.perf_counter() - started - sum(tally.seconds for tally in tallies.values())
    return Evaluation(
        scores={name: tally.scores() for name, tally in tallies.items()},
        episode_hash=draws.fingerprint.hexdigest(),
        n_episodes=draws.n_episodes,
        n_queries=draws.n_queries,
        n_leaked=draws.n_leaked,
        sampling_seconds=sampling_seconds,
        n_leaking_episodes=draws.n_leaking,
    )


def _check_sizes(
    methods: Mapping[str, Method],
    features: Tensor,
    sampler: EpisodeSampler | MetaDatasetSampler,
    n_episodes: int,
    batch_size: int,
) -> None:
    if not methods or n_episodes < 1 or batch_size < 1:
        raise ValueError(
            "evaluation needs at least one method, episode and episode per batch, "
            f"got {len(methods)} methods, n_episodes={n_episodes}, batch_size={batch_size}"
        )
    if len(features) != sampler.n_items:
        raise ValueError(
            f"features must have one row for each of the sampler's {sampler.n_items} labels, got {len(features)} rows"
        )


def em_warnings(n_collapsed: int, n_one_hot: int, n_episodes: int) -> tuple[str, ...]:
    """Word the warnings of EM, and the setting to change; nothing below one episode in a hundred."""
    found = []
    if n_collapsed > 0.01 * n_episodes:
        found.append(
            f"in {n_collapsed} of {n_episodes} episodes one class took all queries: unless your queries do come from "
            "one class, lower class_balance or raise scale"
        )
    if n_one_hot > 0.01 * n_episodes:
        found.append(
            f"in {n_one_hot} of {n_episodes} episodes the first assignments were all one-hot, so that EM could not "
            "change them: lower scale"
        )
    return tuple(found)


def _leaked(index: EpisodeIndex) -> Tensor:
    """Count the queries of each episode that are also its support items, shape (n_episodes,)."""
    is_in_support = (index.query_index[:, :, None] == index.support_index[:, None, :]).any(-1)
    return (is_in_support & (index.query_index >= 0)).sum(-1)


def _score(tally: _Tally, episode: Episode) -> None:
    assert episode.query_labels is not None
    started = time.perf_counter()
    result = tally.solve(episode)
    log_probs = result.log_responsibilities if isinstance(result, EMResult) else result
    mask = episode.query_mask
    check_probabilities(log_probs if mask is None else log_probs[mask], episode.query)
    tally.accuracy.append(episode_accuracy(log_probs, episode.query_labels).cpu())
    tally.seconds += time.perf_counter() - started
    if isinstance(result, EMResult):
        tally.n_collapsed += int(result.is_collapsed.sum())
        tally.n_one_hot += int(result.is_one_hot.sum())


def _pieces(index: EpisodeIndex, features: Tensor) -> Iterator[EpisodeIndex]:
    """Cut a batch so that on a CPU the features at hand stay in cache, which halves the time to look them up."""
    bytes_each = _n_items(index) // index.n_episodes * features.element_size() * features.shape[1]
    n_at_once = max(1, _CACHE_BYTES // bytes_each) if features.device.type == "cpu" else index.n_episodes
    for start in range(0, index.n_episodes, n_at_once):
        yield index.rows(start, start + n_at_once)


def _n_items(index: EpisodeIndex) -> int:
    return index.support_index.numel() + index.query_index.numel()


def _grown(buffer: Tensor, index: EpisodeIndex, features: Tensor) -> Tensor:
    """Return storage that holds the batch, the same one as long as it is large enough."""
    needed = _n_items(index) * features.shape[1]
    return buffer if len(buffer) >= needed else features.new_empty(needed)
