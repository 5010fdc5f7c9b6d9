"""Whether the contrastive step helps: ``python -m tests.benchmarks.contrast --data DIR`` prints a row for each draw.

A random half of the classes is known, half of their rows labelled. `CategoryDiscovery` on frozen features and after the
step: All/Old/New (v2, in percent, unlabelled rows) and the number of classes found. "Same power" has the power and the
size of the space, "same number" the number of classes that were found on the frozen features.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from fewshot_episodes.discovery import discovery_split
from torch import Tensor

from fewshot.discovery.category_discovery import CategoryDiscovery
from fewshot.discovery.contrastive.head import ProjectionHead, principal_basis
from fewshot.discovery.contrastive.training import discovery_step, fit_projection
from fewshot.evaluation.discovery import DiscoveryScores, evaluate_discovery

SETS = {"cub50": "cub50_efficientnet_lite2.npz", "imagenet50_moco": "imagenet50_moco.npz"}
_MAX_DIMS = 128


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Read a set."""
    archive = np.load(folder / SETS[name], allow_pickle=False)
    return torch.tensor(archive["features"].astype(np.float32)), torch.tensor(archive["labels"]).long()


def head_for(features: Tensor, n_hidden: int, generator: torch.Generator) -> ProjectionHead:
    """Start from the features themselves, or from their principal directions where there are many."""
    n_features = features.shape[1]
    basis = torch.eye(n_features) if n_features <= _MAX_DIMS else principal_basis(features, _MAX_DIMS)
    return ProjectionHead(basis, n_hidden=n_hidden, generator=generator)


def run(features: Tensor, truth: Tensor, seed: int, options: argparse.Namespace) -> dict[str, DiscoveryScores]:
    """Discover in one draw of known classes, on frozen features and after the step."""
    generator = torch.Generator().manual_seed(seed)
    n_known = len(torch.unique(truth)) // 2
    shown = discovery_split(truth, n_known, known_classes="random", generator=generator).labels
    head = head_for(features, options.n_hidden, generator)
    frozen = CategoryDiscovery().fit(features, shown)
    kept = {"power": frozen.power_, "n_dims": frozen.subspace_runs_[-1][0]}
    found = {
        "frozen": frozen.labels_,
        "same power, frozen": discovery_step(**kept)(features, shown),
    }
    settings = {name: getattr(options, name) for name in ("n_rounds", "n_steps", "temperature", "noise")}
    fit_projection(head, features, shown, discover=discovery_step(**kept), generator=generator, **settings)
    after = head.project(features)
    found["same power, after"] = discovery_step(**kept)(after, shown)
    found["same number, after"] = CategoryDiscovery(frozen.n_classes_).fit(after, shown).labels_
    found["after"] = CategoryDiscovery().fit(after, shown).labels_
    return {name: evaluate_discovery(clusters, truth, shown) for name, clusters in found.items()}


def told(scores: DiscoveryScores) -> str:
    """Say All/Old/New in percent and the number of classes."""
    return "/".join(f"{100 * float(value):.1f}" for value in scores.accuracy["v2"]) + f" K={scores.n_found}"


def main() -> None:
    """Print a table, and the difference that the step makes to All."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--n-draws", type=int, default=3)
    parser.add_argument("--n-rounds", type=int, default=2)
    parser.add_argument("--n-steps", type=int, default=100)
    parser.add_argument("--n-hidden", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sets:
        features, truth = load(options.data, name)
        gains = []
        for seed in range(options.n_draws):
            started = time.process_time()
            found = run(features, truth, seed, options)
            seconds = time.process_time() - started
            print(name, seed, *(f"{what}: {told(scores)}" for what, scores in found.items()), sep=" | ", end=" | ")
            print(f"{seconds:.0f} CPU-s", flush=True)
            everything = {what: float(scores.accuracy["v2"].all) for what, scores in found.items()}
            gains.append({what: value - everything["frozen"] for what, value in everything.items()})
        for what in gains[0]:
            print(f"{name}: All {what} - All frozen = {100 * np.mean([gain[what] for gain in gains]):+.1f} points")


if __name__ == "__main__":
    main()
