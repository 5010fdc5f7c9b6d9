"""Category discovery on real features: ``python -m tests.benchmarks.unknown_classes --data DIR``.

Half of the classes are known, by a draw, and half of their rows labelled. Prints the number of classes found and All /
Old / New on the unlabelled rows by one matching (v2), beside semi-supervised k-means that is **given** the true number,
on unit rows and on their first 64 principal directions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fewshot_episodes import discovery_split
from torch import Tensor

from fewshot.discovery import CategoryDiscovery, SemiSupervisedKMeans
from fewshot.discovery.space import principal_space, project
from fewshot.metrics import clustering_accuracy, contingency_table
from fewshot.metrics.classification import mean_interval
from fewshot.prototypes import l2_normalize

# file, its split, number of classes drawn (None: all)
SETS = {
    "cub50": ("cub50_efficientnet_lite2.npz", None, None),
    "tinyimagenet100": ("tinyimagenet100_efficientnet_lite2.npz", "val", None),
    "imagenet50_moco": ("imagenet50_moco.npz", None, None),
    "omniglot100": ("omniglot_conv4.npz", None, 100),
}


class Figures(NamedTuple):
    """Of one fit: classes found, and All, Old and New in percent."""

    n_classes: int
    all: float
    old: float
    new: float


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Read a set; of Omniglot some of the evaluation characters, which the encoder has not seen."""
    file, split, n_classes = SETS[name]
    archive = np.load(folder / file, allow_pickle=False)
    features, labels = archive["features"].astype(np.float32), archive["labels"].astype(np.int64)
    kept = np.ones(len(labels), dtype=bool)
    if split is not None:
        kept &= archive["split"] == archive["split_names"].tolist().index(split)
    if "class_is_evaluation" in archive:
        kept &= archive["class_is_evaluation"].astype(bool)[labels]
    if n_classes is not None:
        kept &= np.isin(labels, np.random.default_rng(5).permutation(np.unique(labels[kept]))[:n_classes])
    return torch.from_numpy(features[kept]), torch.from_numpy(np.unique(labels[kept], return_inverse=True)[1])


def scored(found: Tensor, truth: Tensor, shown: Tensor, known: Tensor) -> Figures:
    """Score the unlabelled rows."""
    is_hidden = shown < 0
    table = contingency_table(found[is_hidden], truth[is_hidden])
    accuracy = clustering_accuracy(table, known)
    return Figures(int(found.max()) + 1, *(100 * float(value) for value in accuracy))


def fits(features: Tensor, truth: Tensor, n_draws: int, n_seeds: int) -> Iterator[tuple[str, Figures, float]]:
    """Yield the method, its figures and CPU-seconds for each draw of the known classes and each seed."""
    n_classes = int(truth.max()) + 1
    unit = l2_normalize(features)
    reduced = project(principal_space(features, 64), features)
    for draw in range(n_draws):
        generator = torch.Generator().manual_seed(draw)
        split = discovery_split(truth, n_classes // 2, known_classes="random", generator=generator)
        for seed in range(n_seeds):
            tried = {
                "discovery": (CategoryDiscovery(random_state=seed), features),
                "k-means given K": (SemiSupervisedKMeans(n_classes, random_state=seed), unit),
                "k-means given K, 64": (SemiSupervisedKMeans(n_classes, random_state=seed), reduced),
            }
            for name, (model, rows) in tried.items():
                start = time.process_time()
                found = model.fit(rows, split.labels).labels_
                yield name, scored(found, truth, split.labels, split.known_class_ids), time.process_time() - start


def told(figures: list[Figures], n_classes: int) -> str:
    """Say the mean absolute error of the count, the counts, and the mean accuracies with the interval of All."""
    errors = [abs(each.n_classes - n_classes) / n_classes for each in figures]
    overall = mean_interval(torch.tensor([each.all for each in figures]))
    old, new = (np.mean([getattr(each, part) for each in figures]) for part in ("old", "new"))
    counts = " ".join(str(each.n_classes) for each in figures)
    return (
        f"{100 * np.mean(errors):.1f} % | {counts} | "
        f"{overall.mean:.1f} ± {overall.half_width:.1f} / {old:.1f} / {new:.1f}"
    )


def main() -> None:
    """Print a row for each set and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--n-draws", type=int, default=3)
    parser.add_argument("--n-seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("set", "method", "|K̂ - K|/K", "K̂", "All / Old / New", "CPU-s a fit", sep=" | ")
    for name in options.sets:
        features, truth = load(options.data, name)
        rows = list(fits(features, truth, options.n_draws, options.n_seeds))
        for method in dict.fromkeys(row[0] for row in rows):
            own = [row for row in rows if row[0] == method]
            seconds = np.mean([row[2] for row in own])
            print(
                name,
                method,
                told([row[1] for row in own], int(truth.max()) + 1),
                f"{seconds:.1f}",
                sep=" | ",
                flush=True,
            )


if __name__ == "__main__":
    main()
