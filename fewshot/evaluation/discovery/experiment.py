"""Category discovery as one call: cut a pool, find its classes, describe and score them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from fewshot.discovery.profiles import mean_directions
from fewshot.evaluation.discovery.found import FoundClasses, find_classes
from fewshot.evaluation.discovery.layout import PoolMap, lay_out
from fewshot.evaluation.discovery.pool import DiscoveryPool, cut_pool
from fewshot.evaluation.discovery.profiles import ClassProfile, Examples, choose_examples, class_profiles
from fewshot.evaluation.discovery.scores import DiscoveryScores, evaluate_discovery
from fewshot.evaluation.discovery.settings import DiscoveryExperiment
from fewshot.features import FeatureSet

__all__ = ["DiscoveryProgress", "DiscoveryResult", "run_discovery"]

DiscoveryProgress: TypeAlias = Callable[[str, int, str], None]


class DiscoveryResult(NamedTuple):
    """The classes of a pool with their profiles, examples, map and scores; all tensors on the CPU.

    Attributes
    ----------
    data : DiscoveryPool
        The pool, the labels that were shown, and the truth if labels were held out.
    found : FoundClasses
    classes : list of ClassProfile
        One a class.
    examples : list of Examples
        One a class.
    map : PoolMap, or None
    scores : DiscoveryScores, or None
        None where the truth is not known.
    """

    data: DiscoveryPool
    found: FoundClasses
    classes: list[ClassProfile]
    examples: list[Examples]
    map: PoolMap | None
    scores: DiscoveryScores | None


def run_discovery(
    pool: FeatureSet, experiment: DiscoveryExperiment | None = None, *, progress: DiscoveryProgress | None = None
) -> DiscoveryResult:
    """Sort the unlabelled rows of a pool into known classes and new ones, describe the classes, and score them.

    Parameters
    ----------
    pool : FeatureSet
        Rows with a label and rows with -1; or all with a label, of which the experiment holds some out. The discoverer
        runs on their device.
    experiment : DiscoveryExperiment, optional
        Default: all settings at their defaults, those of ``fewshot discover``.
    progress : callable, optional
        Called with (stage, 0 or 1 as it begins or ends, words on how far it is).

    Returns
    -------
    DiscoveryResult

    Raises
    ------
    SettingError
        If the settings do not fit the pool.
    ValueError
        If the method refuses a setting.

    Examples
    --------
    >>> import torch
    >>> from fewshot.features import FeatureSet
    >>> rows = 9 * torch.eye(4)[torch.arange(80) % 4] + torch.rand((80, 4), generator=torch.Generator().manual_seed(0))
    >>> pool = FeatureSet(rows, torch.arange(80) % 4, ("ant", "bee", "fly", "wasp"))
    >>> result = run_discovery(pool, DiscoveryExperiment(n_known=2, n_map_rows=0))
    >>> result.found.names, float(result.scores.accuracy["v2"].all)
    (['ant', 'bee', 'new-01', 'new-02'], 1.0)
    """
    experiment = experiment or DiscoveryExperiment()
    report = progress or (lambda stage, n_done, words: None)
    data = cut_pool(pool, experiment)
    report("finding classes", 0, "")
    found = find_classes(data, experiment, progress=lambda words: report("finding classes", 0, words))
    report("finding classes", 1, "")
    data = data.cpu()
    report("drawing the map", 0, "")
    places = lay_out(data.pool, found.labels, n_rows=experiment.n_map_rows, seed=experiment.seed)
    report("drawing the map", 1, "")
    directions = mean_directions(data.pool.features, found.labels, found.n_classes)
    return DiscoveryResult(
        data=data,
        found=found,
        classes=class_profiles(data, found, directions),
        examples=choose_examples(data, found, directions, experiment.n_examples),
        map=places,
        scores=_scores(data, found),
    )


def _scores(data: DiscoveryPool, found: FoundClasses) -> DiscoveryScores | None:
    if data.truth is None:
        return None
    return evaluate_discovery(found.labels, data.truth, data.shown, n_found=found.n_classes)
