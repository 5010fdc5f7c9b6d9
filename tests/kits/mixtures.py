"""Pools whose classes are known, for category discovery."""

from __future__ import annotations

import numpy as np
import torch


def separated(seed, *, n_features, n_known, n_new, distance=20.0, dtype=torch.float64):
    """Gaussian classes of unit spread whose means are ``distance`` apart or more.

    Returns rows, classes and labels: of half of the known classes' rows, one each at least.
    """
    rng = np.random.default_rng(seed)
    n_classes = n_known + n_new
    means = []
    width = distance * max(2.0, n_classes ** (1 / n_features))
    while len(means) < n_classes:
        mean = rng.uniform(-width, width, size=n_features)
        if all(np.linalg.norm(mean - other) >= distance for other in means):
            means.append(mean)
        width *= 1.01
    truth = np.repeat(np.arange(n_classes), rng.integers(30, 81, size=n_classes))
    rows = np.array(means)[truth] + rng.normal(size=(len(truth), n_features))
    is_labelled = (truth < n_known) & (rng.random(len(truth)) < 0.5)
    is_labelled[[np.flatnonzero(truth == k)[0] for k in range(n_known)]] = True
    labels = np.where(is_labelled, truth, -1)
    return torch.from_numpy(rows).to(dtype), torch.from_numpy(truth), torch.from_numpy(labels)


def anisotropic(seed, *, n_classes, n_rows, n_features, n_known, noise=0.7, anisotropy=0.5):
    """Classes round random unit means, each with scales of its own along the axes; rows of unit length.

    Returns rows, classes and labels: of half of the first ``n_known`` classes' rows. The family of mixtures on which
    the reference figures were measured.
    """
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n_classes, n_features))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scales = np.exp(anisotropy * rng.normal(size=(n_classes, n_features)))
    scales /= np.sqrt((scales**2).mean(1, keepdims=True))
    truth = np.arange(n_rows) % n_classes
    rows = means[truth] + noise / n_features**0.5 * scales[truth] * rng.normal(size=(n_rows, n_features))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.where((truth < n_known) & (rng.random(n_rows) < 0.5), truth, -1)
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(truth), torch.from_numpy(labels)
