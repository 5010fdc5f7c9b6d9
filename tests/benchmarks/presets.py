"""The recipe of the shipped UNEM presets: ``python -m tests.benchmarks.presets --data DIR`` prints them.

Trains on the first half of the classes of real feature sets, at 1, 2, 5, 10 and 20 shots and over regimes from "all
classes present" to "two of twenty present", balanced and skewed. The digits of scikit-learn and the other half of the
classes are left for testing.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from fewshot_episodes import Episode, EpisodeSampler

from fewshot import UNEM, fit_unem

SHOTS = (1, 2, 5, 10, 20)
# Episodes per batch, and how much more the regimes count in which every class is present: with more shots there is less
# to gain from answering together, and more to lose.
EPISODES = {1: 8, 2: 8, 5: 4, 10: 4, 20: 4}
EMPHASIS = {1: 1, 2: 1, 5: 3, 10: 3, 20: 3}
# Batches of episodes per feature set, shot count and regime: where all classes are present counts most.
REGIMES = (
    ({"n_way": 5, "n_query": 15}, 6),
    ({"n_way": 20, "n_query": 5}, 6),
    ({"n_way": 5, "query_distribution": "dirichlet"}, 4),
    ({"n_way": 20, "n_effective_way": 10, "query_distribution": "uniform"}, 2),
    ({"n_way": 20, "n_effective_way": 5, "query_distribution": "uniform"}, 2),
    ({"n_way": 20, "n_effective_way": 2, "query_distribution": "uniform"}, 1),
    ({"n_way": 5, "n_effective_way": 2, "query_distribution": "uniform"}, 1),
)
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package of that name


def pools(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, list[int], list[int]]]:
    """Return features, labels, training classes and test classes of each feature set at hand."""
    found = {}
    for name in ("imagenet50_moco", "cub50_efficientnet_lite2", "tinyimagenet100_efficientnet_lite2"):
        archive = np.load(folder / f"{name}.npz")
        found[name] = (archive["features"], archive["labels"], None)
    archive = np.load(folder / "omniglot_conv4.npz")
    found["omniglot_conv4"] = (archive["features"], archive["labels"], archive["class_is_evaluation"].nonzero()[0])
    images = np.load(folder / "omniglot_images.npz")["images"].reshape(len(archive["labels"]), -1)
    found["omniglot_pixels"] = (1 - images / 255, archive["labels"], None)
    if FASHION_MNIST.exists():
        found["fashion_mnist_pixels"] = (*fashion_mnist(), None)
    return {name: _halved(name, *arrays) for name, arrays in found.items()}


def fashion_mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return the 10,000 test images as pixels in [0, 1], and their labels."""
    with gzip.open(FASHION_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(FASHION_MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images / 255, labels


def _halved(name, features, labels, classes):
    features, labels = torch.tensor(features).float(), torch.tensor(labels).long()
    classes = torch.unique(labels) if classes is None else torch.tensor(classes)
    if name == "imagenet50_moco":  # The order of the MoCo protocol: the first 25 train.
        classes = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    half = len(classes) // 2
    return features, labels, classes[:half].tolist(), classes[half:].tolist()


def regime_episodes(
    features: torch.Tensor, labels: torch.Tensor, classes: list[int], n_shot: int, regime: dict, n: int, seed: int
) -> Episode | None:
    """Draw ``n`` episodes of one regime from some classes, fitted to what the classes have; None if they cannot."""
    is_kept = torch.isin(labels, torch.tensor(classes))
    features, labels = features[is_kept], labels[is_kept]
    left = int(torch.unique(labels, return_counts=True)[1].min()) - n_shot
    settings = {**regime, "n_way": min(regime["n_way"], len(classes)), "n_shot": n_shot}
    if settings.get("n_effective_way", 1) > settings["n_way"] or left < 3:
        return None
    if "n_query" in settings:
        settings["n_query"] = min(settings["n_query"], left)
    else:
        n_present = settings.get("n_effective_way", 3)
        settings["n_query_total"] = min(75, left * n_present)
    sampler = EpisodeSampler(labels, **settings)
    index = sampler.sample(n, generator=torch.Generator().manual_seed(seed))
    return index.gather(features)


def training_episodes(data: dict, n_shot: int, *, is_light: bool = False) -> list[Episode]:
    """Return all batches of training episodes at one shot count."""
    batches = [
        regime_episodes(features, labels, classes, n_shot, regime, EPISODES[n_shot], 1000 * number + repeat)
        for features, labels, classes, _ in data.values()
        for number, (regime, weight) in enumerate(REGIMES)
        for repeat in range(1 if is_light else weight if "n_effective_way" in regime else weight * EMPHASIS[n_shot])
    ]
    return [batch for batch in batches if batch is not None]


def main() -> None:
    """Train one schedule per shot count and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of feature files")
    parser.add_argument("--likelihood", default="gaussian")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--light", action="store_true", help="each regime once; how the Dirichlet preset was made")
    parser.add_argument("--leave-out", nargs="*", default=(), help="feature sets to leave out")
    options = parser.parse_args()
    data = {name: pool for name, pool in pools(options.data).items() if name not in options.leave_out}
    for n_shot in options.shots:
        model = UNEM(shots=(n_shot,), likelihood=options.likelihood)
        batches = training_episodes(data, n_shot, is_light=options.light)
        # Dirichlet classes are so sharp that a few wrong answers rule the likelihood; the paper's loss is bounded.
        loss = "double-softmax" if options.likelihood == "dirichlet" else "nll"
        trace = fit_unem(model, batches, learning_rate=0.1, loss=loss)
        print(
            f"# {n_shot} shots: loss {trace.loss[-1]:.4f}, accuracy {trace.accuracy[-1]:.4f} on {len(batches)} batches"
        )
        for numbers in (model.scale, model.class_balance[0], model.temperature[0]):
            print(tuple(round(value, 3) for value in numbers.tolist()), flush=True)


if __name__ == "__main__":
    main()
