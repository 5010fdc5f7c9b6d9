"""The MoCo protocol: ``python -m tests.benchmarks.accuracy --data DIR`` prints accuracies on real features.

50 ImageNet classes of 50 images, self-supervised MoCo features; a seeded permutation gives 25 training and 25 test
classes. 20-way episodes, 75 queries of 5 effective ways (40 of one way), support and query disjoint, 1000 tasks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from fewshot_episodes import Episode, EpisodeSampler

from fewshot import UNEM, EMGaussian, NearestPrototype, Paddle, evaluate_episodes, fit_unem
from fewshot.evaluation.episodes import EpisodeScores

EFFECTIVE_WAYS = (1, 2, 5, 10, 20)
GRID = [(scale, balance) for scale in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20) for balance in (0, 0.5, 1, 2, 4, 8, 12, 20)]


class Pool:
    """Features and labels of some classes."""

    def __init__(self, folder: Path, *, is_training: bool) -> None:
        archive = np.load(folder / "imagenet50_moco.npz")
        features, labels = torch.tensor(archive["features"]), torch.tensor(archive["labels"]).long()
        order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
        is_kept = torch.isin(labels, order[:25] if is_training else order[25:])
        self.features, self.labels = features[is_kept], labels[is_kept]

    def sampler(self, n_shot: int, n_effective_way: int) -> EpisodeSampler:
        """Return the protocol's sampler."""
        return EpisodeSampler(
            self.labels,
            n_way=20,
            n_shot=n_shot,
            n_query_total=75 if n_effective_way > 1 else 40,
            query_distribution="uniform",
            n_effective_way=n_effective_way,
        )

    def episodes(self, n: int, n_shot: int, n_effective_way: int, seed: int = 0) -> Episode:
        """Draw a batch of training episodes."""
        index = self.sampler(n_shot, n_effective_way).sample(n, generator=torch.Generator().manual_seed(seed))
        return index.gather(self.features)

    def scores(self, methods: dict, n_shot: int, n_effective_way: int, n_episodes: int) -> dict[str, EpisodeScores]:
        """Run methods on the same test episodes."""
        generator = torch.Generator().manual_seed(1)
        sampler = self.sampler(n_shot, n_effective_way)
        return evaluate_episodes(methods, self.features, sampler, n_episodes=n_episodes, generator=generator).scores


def trained(train: Pool, n_shot: int, effective_ways: tuple[int, ...], loss: str, *, is_relative: bool = True) -> UNEM:
    """Train on 200 tasks for each number of effective ways (70 in a mix)."""
    model = UNEM(is_relative=is_relative)
    n_each = 200 if len(effective_ways) == 1 else 70
    fit_unem(model, [train.episodes(n_each, n_shot, ways) for ways in effective_ways], loss=loss)
    return model


def grid_em(train: Pool, n_shot: int) -> EMGaussian:
    """Choose scale and class balance of plain EM on training classes."""
    methods = {
        f"{scale} {balance}": EMGaussian(scale=scale, class_balance=balance, is_relative=False)
        for scale, balance in GRID
    }
    scores = train.scores(methods, n_shot, 5, 200)
    return methods[max(scores, key=lambda name: scores[name].interval.mean)]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of imagenet50_moco.npz")
    parser.add_argument("--n-episodes", type=int, default=1000)
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 5, 10))
    options = parser.parse_args()
    train, test = Pool(options.data, is_training=True), Pool(options.data, is_training=False)
    for n_shot in options.shots:
        methods = {
            "nearest prototype": NearestPrototype(),
            "PADDLE, 100 layers": Paddle(),
            "plain EM, scale and λ by grid": grid_em(train, n_shot),
            "UNEM, shipped preset": UNEM.from_preset(),
            "UNEM trained at 5 ways, nll": trained(train, n_shot, (5,), "nll"),
            "UNEM trained at 5 ways, double softmax": trained(train, n_shot, (5,), "double-softmax"),
            "UNEM trained at 5 ways, nll, raw scale": trained(train, n_shot, (5,), "nll", is_relative=False),
            "UNEM trained on a mix, nll": trained(train, n_shot, (2, 5, 10, 20), "nll"),
        }
        print(f"\n| {n_shot}-shot; effective ways: | {' | '.join(map(str, EFFECTIVE_WAYS))} |\n|---|{'---|' * 5}")
        columns = [test.scores(methods, n_shot, ways, options.n_episodes) for ways in EFFECTIVE_WAYS]
        for name in methods:
            cells = [column[name].interval for column in columns]
            print(
                f"| {name} | {' | '.join(f'{100 * c.mean:.1f} ± {100 * c.half_width:.1f}' for c in cells)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
