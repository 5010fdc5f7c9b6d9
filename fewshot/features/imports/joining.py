"""Image–text cosines in front of image embeddings, the form in which Tip-Adapter and TransCLIP take both."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.features.feature_set import FeatureSet

__all__ = ["join_cosines", "join_text"]


def join_cosines(pool: FeatureSet, cosines: Tensor, source: str) -> FeatureSet:
    """Put cosines with the classes' texts before the embeddings.

    Parameters
    ----------
    pool
        Embeddings.
    cosines
        (n, n_texts) in [-1, 1], row for row. Where the class names are numbers they say which column is theirs;
        otherwise there is one column for each class, in order.
    source
        Name of the cosines in messages and in the pool's ``source``.

    Returns
    -------
    FeatureSet
        (n, n_classes + n_features); ``source`` has ``n_cosines``, the option of the methods.

    Raises
    ------
    ValueError
        If rows or columns do not fit, or a value lies outside [-1, 1].

    Examples
    --------
    >>> pool = FeatureSet.from_arrays(torch.eye(2), ["crow", "wren"])
    >>> join_cosines(pool, torch.tensor([[0.3, 0.1], [0.2, 0.4]]), "texts").features.shape
    torch.Size([2, 4])
    """
    if cosines.ndim != 2 or len(cosines) != len(pool.labels):
        raise ValueError(f"{source}: expected cosines for {len(pool.labels):,} rows, got shape {tuple(cosines.shape)}")
    cosines = cosines.to(pool.features)[:, _columns(pool.class_names, cosines.shape[1], source)]
    if not float(cosines.abs().max()) <= 1.01:  # half precision rounds
        raise ValueError(f"{source}: expected cosines in [-1, 1], got values up to {float(cosines.abs().max()):.4g}")
    both = {**pool.source, "n_cosines": cosines.shape[1], "cosines": source}
    return FeatureSet(torch.cat([cosines, pool.features], dim=1), pool.labels, pool.class_names, both, pool.ids)


def join_text(pool: FeatureSet, text: Tensor, source: str) -> FeatureSet:
    """Put the cosines with texts before the embeddings.

    Parameters
    ----------
    pool
        Embeddings, in the space of the texts.
    text
        (n_texts, n_features), or transposed as in Tip-Adapter; of any length.
    source
        See `join_cosines`, also for which text belongs to which class.

    Raises
    ------
    ValueError
        If they are not in one space, or see `join_cosines`.

    Examples
    --------
    >>> pool = FeatureSet.from_arrays(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), ["crow", "wren"])
    >>> join_text(pool, torch.tensor([[2.0, 0.0], [0.0, 9.0]]), "texts").features[0].tolist()
    [1.0, 0.0, 3.0, 0.0]
    """
    n_features = pool.features.shape[1]
    if text.ndim != 2 or n_features not in text.shape:
        raise ValueError(
            f"{source}: expected texts of {n_features} features, as the embeddings have, got shape {tuple(text.shape)}"
        )
    rows = text if text.shape[1] == n_features else text.T
    embeddings, rows = (torch.nn.functional.normalize(part.to(pool.features), dim=-1) for part in (pool.features, rows))
    return join_cosines(pool, embeddings @ rows.T, source)


def _columns(class_names: tuple[str, ...], n_texts: int, source: str) -> list[int]:
    """Return the column of each class."""
    if all(name.isdecimal() for name in class_names) and max(map(int, class_names)) < n_texts:
        return [int(name) for name in class_names]
    if n_texts != len(class_names):
        raise ValueError(f"{source}: expected a text for each of the {len(class_names)} classes, got {n_texts}")
    return list(range(n_texts))
