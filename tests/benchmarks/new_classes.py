"""New classes on real features: ``python -m tests.benchmarks.new_classes --data DIR`` prints base, new, harmonic mean.

Random base classes, half of their images to learn from and half to test; all other classes arrive at once with K shots
each, the rest of their images being queries. Means over draws; the paired difference to the best of the settled rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fewshot_episodes import Session, incremental_sessions
from torch import Tensor

from fewshot.evaluation.sessions import SessionResults, evaluate_sessions
from fewshot.metrics.classification import mean_interval
from fewshot.registry.incremental import build_classifier

# file, base classes, new classes
SETS = {
    "cub50": ("cub50_efficientnet_lite2.npz", 30, 20),
    "tinyimagenet100": ("tinyimagenet100_efficientnet_lite2.npz", 60, 40),
    "imagenet50_moco": ("imagenet50_moco.npz", 30, 20),
    "omniglot": ("omniglot_conv4.npz", 200, 100),
}
SETTLED = ("ncm", "teen:shift_weight=0.1", "teen:shift_weight=0.25", "teen", "ncm-debias")
OTHERS = ("ncm-centred", "lda", "fecam", "ranpac-cosine", "ridge")


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Read a set; of Omniglot the evaluation characters, which the encoder has not seen."""
    archive = np.load(folder / SETS[name][0], allow_pickle=False)
    features, labels = torch.tensor(archive["features"].astype(np.float32)), torch.tensor(archive["labels"]).long()
    if "class_is_evaluation" not in archive:
        return features, labels
    is_kept = torch.tensor(archive["class_is_evaluation"])[labels].bool()
    return features[is_kept], torch.unique(labels[is_kept], return_inverse=True)[1]


def draws(labels: Tensor, n_base: int, n_new: int, n_shot: int, n_draws: int) -> Iterator[tuple[Session, ...]]:
    """Draw base and new classes and shots."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_draws):
        chosen = torch.randperm(int(labels.max()) + 1, generator=generator)[: n_base + n_new]
        yield incremental_sessions(labels, n_base, n_new, n_shot, class_order=chosen, generator=generator)


def run(folder: Path, name: str, n_shot: int, methods: tuple[str, ...], n_draws: int) -> dict[str, SessionResults]:
    """Measure methods on the same draws."""
    features, labels = load(folder, name)
    _, n_base, n_new = SETS[name]
    told = tuple(draws(labels, n_base, n_new, n_shot, n_draws))
    return {
        text: evaluate_sessions(lambda text=text: build_classifier(text), features, labels, told) for text in methods
    }


def told(results: SessionResults) -> str:
    """Say base, new and harmonic mean in percent."""
    scores = results.scores
    return " ".join(
        f"{100 * float(field[:, -1].mean()):.1f}" for field in (scores.base, scores.new, scores.harmonic_mean)
    )


def harmonic(results: SessionResults) -> Tensor:
    """Return the harmonic mean of each draw."""
    return results.scores.harmonic_mean[:, -1]


def main() -> None:
    """Print a row for each set and number of shots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n-draws", type=int, default=10)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 2, 5, 10))
    parser.add_argument("--others", nargs="*", default=OTHERS)
    options = parser.parse_args()
    methods = (*SETTLED, "teen-auto", *options.others)
    print("set", "K", *methods, "auto - best settled", sep=" | ")
    for name in options.sets:
        for n_shot in options.shots:
            results = run(options.data, name, n_shot, methods, options.n_draws)
            best = max(SETTLED, key=lambda text: float(harmonic(results[text]).mean()))
            difference = mean_interval(100 * (harmonic(results["teen-auto"]) - harmonic(results[best])))
            verdict = f"{difference.mean:+.1f} ± {difference.half_width:.1f} ({best})"
            print(name, n_shot, *(told(results[text]) for text in methods), verdict, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
