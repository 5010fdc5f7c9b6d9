"""`inspect_features`: description of a feature store or file, and the shards whose contents are damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fewshot.features.feature_set import FeatureSet
from fewshot.features.readers import load_features
from fewshot.features.store.layout import StoreFolder, StoreHead
from fewshot.features.store.outcomes import ImageFailure, StoreOutcomes

__all__ = ["Inspection", "PoolFacts", "StoreFacts", "describe_features", "inspect_features"]


class StoreFacts(NamedTuple):
    """Description of a store.

    Attributes
    ----------
    head : StoreHead
    n_shards_done : int
    failures : list of ImageFailure
        The images of finished shards that could not be read.
    """

    head: StoreHead
    n_shards_done: int
    failures: list[ImageFailure]


class PoolFacts(NamedTuple):
    """Description of a pool of features.

    Attributes
    ----------
    n, n_features, n_unlabelled : int
    classes : mapping of str to int
        Rows of each class.
    norms : mapping of str to float
        ``min``, ``mean`` and ``max`` of the Euclidean norms of the rows.
    share_of_zeros : float
        In [0, 1].
    source : mapping
        See `FeatureSet`.
    """

    n: int
    n_features: int
    n_unlabelled: int
    classes: Mapping[str, int]
    norms: Mapping[str, float]
    share_of_zeros: float
    source: Mapping[str, object]


class Inspection(NamedTuple):
    """Result of `inspect_features`.

    Attributes
    ----------
    store : StoreFacts or None
        None for a file.
    pool : FeatureSet or None
        None for a store that is not finished.
    damaged_shards : list of int
        Shards whose contents differ from their checksum; empty unless asked for.
    """

    store: StoreFacts | None
    pool: FeatureSet | None
    damaged_shards: list[int]


def inspect_features(
    path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None, is_verified: bool = False
) -> Inspection:
    """Read features with the description of the store that they are in, if they are in one.

    Parameters
    ----------
    path
        A feature store or whatever `load_features` reads.
    labels
        See `load_features`.
    is_verified
        Whether to read every shard of a store and compare its checksum.

    Raises
    ------
    ValueError
        If a file is to be verified; see also `load_features`.

    Examples
    --------
    >>> inspect_features("digits").pool
    FeatureSet(1797 x 64 torch.float32, 10 classes)
    """
    folder = StoreFolder(path) if Path(path).is_dir() else None
    if folder is None:
        if is_verified:
            raise ValueError(f"only a store has checksums to verify, and {os.fspath(path)} is not one")
        return Inspection(None, load_features(path, labels=labels), [])
    outcomes = StoreOutcomes(folder)
    outcomes.add_finished(range(folder.head.n_shards))
    return Inspection(
        StoreFacts(folder.head, outcomes.n_shards_done, outcomes.failures),
        load_features(path, labels=labels) if outcomes.is_finished else None,
        folder.damaged_shards() if is_verified else [],
    )


def describe_features(pool: FeatureSet) -> PoolFacts:
    """Count rows, labels and zeros of a pool, and measure the norms of its rows.

    Examples
    --------
    >>> describe_features(FeatureSet.from_arrays([[3.0, 4.0], [0.0, 1.0]], ["crow", "wren"])).norms
    {'min': 1.0, 'mean': 3.0, 'max': 5.0}
    """
    n, n_features = pool.features.shape
    norms = pool.features.norm(dim=1)
    return PoolFacts(
        n,
        n_features,
        int((pool.labels < 0).sum()),
        dict(zip(pool.class_names, pool.class_counts().tolist(), strict=True)),
        {"min": float(norms.min()), "mean": float(norms.mean()), "max": float(norms.max())},
        float((pool.features == 0).float().mean()),
        dict(pool.source),
    )
