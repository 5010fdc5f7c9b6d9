"""A map of a pool in two dimensions, to look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fewshot.features.feature_set import FeatureSet

__all__ = ["map_in_2d"]

_N_COMPONENTS = 50


def map_in_2d(
    pool: FeatureSet, *, n_rows: int = 2000, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
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
