"""The pool of a discovery: which rows show their label, and the truth if it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from fewshot_episodes import discovery_split
from torch import Tensor

from fewshot.checks import SettingError, did_you_mean
from fewshot.evaluation.discovery.settings import DiscoveryExperiment
from fewshot.features import FeatureSet

__all__ = ["DiscoveryPool", "check_class_names", "cut_pool", "without_classes"]


class DiscoveryPool(NamedTuple):
    """A pool, and the labels that the discoverer is shown.

    Attributes
    ----------
    pool : FeatureSet
        All rows, and the labels that they came with.
    shown : Tensor (n,), int64
        Positions in ``pool.class_names``, -1 = unlabelled.
    truth : Tensor (n,), int64, or None
        Likewise, -1 where it is not known; None unless labels were held out.
    protocol : str
        How the labelled rows were chosen, in words.
    """

    pool: FeatureSet
    shown: Tensor
    truth: Tensor | None
    protocol: str

    @property
    def is_unlabelled(self) -> Tensor:
        """Which rows are to be sorted, (n,)."""
        return self.shown < 0

    def cpu(self) -> DiscoveryPool:
        """Return the pool on the CPU."""
        return self._replace(
            pool=self.pool.to("cpu"), shown=self.shown.cpu(), truth=None if self.truth is None else self.truth.cpu()
        )


def cut_pool(pool: FeatureSet, experiment: DiscoveryExperiment) -> DiscoveryPool:
    """Decide which rows are unlabelled: those without a label, those of some classes, or those held out to test.

    Raises
    ------
    SettingError
        If every row is labelled and none is to be held out, or a class is not known.
    ValueError
        If a known class would be left without a label.
    """
    pool = without_classes(pool, experiment.unlabelled)
    if experiment.n_known is not None or experiment.known_classes is not None:
        return _held_out(pool, experiment)
    n_labelled = int((pool.labels >= 0).sum())
    if n_labelled == len(pool.labels):
        raise SettingError(
            "all {0} rows are labelled: mark some as unlabelled (-1 or an empty label in {labels}, or {unlabelled} "
            "CLASS), or hold some out to test with {n_known} N or {known_classes} LIST",
            f"{n_labelled:,}",
        )
    return DiscoveryPool(pool, pool.labels, None, f"{n_labelled:,} labelled rows of {pool.n_classes:,} classes")


def without_classes(pool: FeatureSet, names: Sequence[str]) -> FeatureSet:
    """Return the pool in which the rows of some classes are unlabelled.

    Raises
    ------
    SettingError
        If there is no such class.

    Examples
    --------
    >>> pool = FeatureSet(torch.eye(3), torch.tensor([0, 1, 2]), ("crow", "unsorted", "wren"))
    >>> other = without_classes(pool, ["unsorted"])
    >>> other.class_names, other.labels.tolist()
    (('crow', 'wren'), [0, -1, 1])
    """
    check_class_names("unlabelled", names, pool.class_names)
    if not names:
        return pool
    is_kept = torch.tensor([name not in names for name in pool.class_names])
    new_ids = torch.where(is_kept, is_kept.cumsum(0) - 1, -1).to(pool.labels.device)
    kept = tuple(name for name in pool.class_names if name not in names)
    labels = torch.where(pool.labels >= 0, new_ids[pool.labels], -1)
    return replace(pool, labels=labels, class_names=kept)


def check_class_names(setting: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Check that a setting names classes of a pool.

    Raises
    ------
    SettingError
        If one is not known; the message names the nearest.
    """
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        hint = did_you_mean(unknown, known)
        raise SettingError(f"{{{setting}}}: no class {{0!r}} among {{1}} classes{{2}}", unknown, len(known), hint)


def _held_out(pool: FeatureSet, experiment: DiscoveryExperiment) -> DiscoveryPool:
    """Hold labels out by the protocol of generalized category discovery; rows without a label stay without one."""
    rows = torch.nonzero(pool.labels >= 0)[:, 0]
    if len(rows) == 0:
        raise SettingError("{n_known} and {known_classes} hold labels out, and no row has one")
    split = discovery_split(
        pool.labels[rows],
        experiment.n_known,
        known_classes=_known_ids(experiment.known_classes, pool),
        labelled_fraction=experiment.labelled_fraction,
        class_names=pool.class_names,
        generator=torch.Generator().manual_seed(experiment.seed),
    )
    shown = torch.full_like(pool.labels, -1).index_copy(0, rows, split.labels.to(rows.device))
    n_known, n_novel = len(split.known_class_ids), len(split.novel_class_ids)
    share = f"{100 * experiment.labelled_fraction:g} % of the rows of {n_known:,} known classes"
    others = f"the rest of them and all rows of {n_novel:,} other classes are held out"
    return DiscoveryPool(pool, shown, pool.labels, f"{share} keep their labels, {others} (seed {experiment.seed})")


def _known_ids(known: tuple[str, ...] | str | None, pool: FeatureSet) -> list[int] | str | None:
    if known is None or isinstance(known, str):
        return known
    check_class_names("known_classes", known, pool.class_names)
    return [pool.class_names.index(name) for name in known]
