"""Maps of a pool in two dimensions: t-SNE places, and a picture of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fewshot.features.feature_set import FeatureSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_map", "map_in_2d"]

Places: TypeAlias = npt.NDArray[np.float32]
_N_COMPONENTS = 50
_N_IN_LEGEND = 20


def map_in_2d(pool: FeatureSet, *, n_rows: int = 2000, seed: int = 0) -> tuple[npt.NDArray[np.int64], Places]:
    """Place some rows of a pool in the plane so that near neighbours stay near (t-SNE of L2-normalised features).

    Distances between clusters and their sizes mean little; that a class splits in two, or that two classes mix, shows.

    Parameters
    ----------
    pool
        At least 3 rows.
    n_rows
        At most as many rows are drawn; t-SNE takes about n log n.
    seed
        Decides the draw and the map.

    Returns
    -------
    rows
        (n,) positions in the pool, ascending.
    places
        (n, 2).

    Raises
    ------
    ValueError
        If the pool has fewer than 3 rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize

    n = len(pool.features)
    if n < 3:
        raise ValueError(f"a map needs at least 3 rows, got {n}")
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:n_rows])
    features = normalize(pool.features[rows].double().cpu().numpy())
    n_components = min(_N_COMPONENTS, *features.shape)
    reduced = PCA(n_components, random_state=seed).fit_transform(features)
    tsne = TSNE(perplexity=min(30, (len(rows) - 1) / 3), init="pca", random_state=seed)
    return rows, tsne.fit_transform(reduced).astype(np.float32)


def draw_map(pool: FeatureSet, path: str | os.PathLike[str], *, title: str, n_rows: int = 2000, seed: int = 0) -> None:
    """Draw `map_in_2d` of a pool to a file, a colour for each class.

    Parameters
    ----------
    pool, n_rows, seed
        See `map_in_2d`.
    path
        Its suffix decides the format: ``.png``, ``.svg``, ``.pdf`` ...
    title
        Written above, with the number of rows.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('a map is drawn by matplotlib: pip install "fewshot[plots]"') from error

    rows, places = map_in_2d(pool, n_rows=n_rows, seed=seed)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot()
    _scatter(axes, places, pool.labels[rows].numpy(), pool.class_names)
    axes.set(title=f"{title}: {len(rows):,} of {len(pool.labels):,} rows", xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


def _scatter(axes: Axes, places: Places, labels: npt.NDArray[np.int64], names: tuple[str, ...]) -> None:
    from matplotlib import colormaps

    colours = colormaps["tab20" if len(names) <= _N_IN_LEGEND else "gist_rainbow"].resampled(max(1, len(names)))
    unlabelled = places[labels < 0]
    axes.scatter(unlabelled[:, 0], unlabelled[:, 1], s=6, color="0.75", label="unlabelled" if len(unlabelled) else None)
    for class_id, name in enumerate(names):
        members = places[labels == class_id]
        axes.scatter(members[:, 0], members[:, 1], s=8, color=colours(class_id), label=name)
    if len(names) <= _N_IN_LEGEND:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
