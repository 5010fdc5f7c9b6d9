"""Category discovery on mixtures that are made to be hard: ``python -m tests.benchmarks.mixtures``.

Prints the number of classes found (20 are there, 10 of them known, but where said) and the accuracy on the unlabelled
rows, for several draws; and whether the start matters.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from fewshot.discovery import CategoryDiscovery
from fewshot.metrics import clustering_accuracy, contingency_table
from tests.kits.mixtures import anisotropic

KINDS = ("plain", "factor", "zipf", "close", "t3", "ownfactor", "bimodal")
# rows, features, classes, known classes
FAMILIES = ((3000, 64, 20, 10), (3000, 768, 20, 10), (6000, 128, 100, 80), (6000, 768, 100, 50))
N_FACTORS, N_ROWS, N_FEATURES, N_CLASSES = 8, 150, 256, 20


def stress(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make a mixture: rows of unit length, classes, and labels of half of the rows of a random half of the classes."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(N_CLASSES, N_FEATURES))
    if kind == "close":
        means[1::2] = 0.8 * means[::2] + 0.6 * means[1::2]
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    sizes = np.maximum(12, 3000 / np.arange(1, 21) / (1 / np.arange(1, 21)).sum()) if kind == "zipf" else [N_ROWS] * 20
    truth = np.repeat(np.arange(N_CLASSES), np.asarray(sizes, dtype=int))
    scales = np.exp(0.5 * rng.normal(size=means.shape))
    scales /= np.sqrt((scales**2).mean(1, keepdims=True))
    noise = (
        rng.standard_t(3, size=(len(truth), N_FEATURES)) if kind == "t3" else rng.normal(size=(len(truth), N_FEATURES))
    )
    rows = means[truth] + scales[truth] * noise / N_FEATURES**0.5
    weights = rng.normal(size=(len(truth), 1, N_FACTORS))
    if kind == "factor":
        rows += (weights @ rng.normal(size=(1, N_FACTORS, N_FEATURES)))[:, 0] / N_FEATURES**0.5
    if kind == "ownfactor":
        factors = 0.4 * rng.normal(size=(N_CLASSES, N_FACTORS, N_FEATURES)) / N_FEATURES**0.5
        for k in range(N_CLASSES):
            rows[truth == k] += weights[truth == k, 0] @ factors[k]
    if kind == "bimodal":
        offsets = rng.normal(size=means.shape) / N_FEATURES**0.5
        rows += rng.choice([-0.7, 0.7], size=(len(truth), 1)) * offsets[truth]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known = np.sort(rng.permutation(N_CLASSES)[:10])
    is_labelled = np.isin(truth, known) & (rng.random(len(truth)) < 0.5)
    labels = np.where(is_labelled, np.searchsorted(known, truth), -1)
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(truth), torch.from_numpy(labels)


def accuracy(found: Tensor, truth: Tensor, labels: Tensor) -> float:
    """Return All of the unlabelled rows."""
    is_hidden = labels < 0
    return float(clustering_accuracy(contingency_table(found[is_hidden], truth[is_hidden])).all)


def main() -> None:
    """Print a line for each mixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--n-draws", type=int, default=3)
    parser.add_argument("--n-seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("mixture", "found (accuracy)", "CPU-s a fit", sep=" | ")
    for kind in options.kinds:
        start, found = time.process_time(), []
        for draw in range(options.n_draws):
            rows, truth, labels = stress(kind, draw)
            model = CategoryDiscovery().fit(rows, labels)
            found.append(f"{model.n_classes_} ({accuracy(model.labels_, truth, labels):.2f})")
        print(kind, " ".join(found), f"{(time.process_time() - start) / options.n_draws:.1f}", sep=" | ", flush=True)
    for n, d, k, n_known in FAMILIES:
        rows, truth, labels = anisotropic(0, n_classes=k, n_rows=n, n_features=d, n_known=n_known)
        starts, begun, found = (
            sorted({n_known, max(n_known, 3 * k // 4), k, 3 * k // 2, 5 * k // 2}),
            time.process_time(),
            [],
        )
        for n_start in starts:
            fits = [
                CategoryDiscovery(n_start=n_start, random_state=seed).fit(rows, labels)
                for seed in range(options.n_seeds)
            ]
            found.append(f"from {n_start}: " + " ".join(str(model.n_classes_) for model in fits))
        seconds = (time.process_time() - begun) / len(starts) / options.n_seeds
        print(f"{k} classes, {n_known} known, {n} × {d}", "; ".join(found), f"{seconds:.1f}", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
