"""The shipped UNEM schedules against nearest prototypes: ``python -m tests.benchmarks.shipped --data DIR``.

On the half of the classes that the schedules were not learned on, and on the digits of scikit-learn; paired differences
in points, with 95 % intervals, as a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fewshot import UNEM, NearestPrototype, load_features
from fewshot.metrics.classification import episode_accuracy, mean_interval
from tests.benchmarks.presets import REGIMES, SHOTS, pools, regime_episodes


def regime_name(regime: dict, n_way: int) -> str:
    """Say which queries the regime has."""
    if "n_effective_way" in regime:
        return f"{regime['n_effective_way']} of {n_way} classes present"
    return f"{n_way}-way Dirichlet(2)" if "query_distribution" in regime else f"{n_way}-way balanced"


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of feature files")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--n-episodes", type=int, default=256)
    options = parser.parse_args()
    digits = load_features("digits")
    data = pools(options.data) | {"digits_pixels": (digits.features, digits.labels, [], list(range(10)))}
    unem, prototypes = UNEM.from_preset(), NearestPrototype()
    print("| features | shots | queries | nearest prototype | unem |\n|---|---|---|---|---|")
    for name, (features, labels, _, classes) in data.items():
        for n_shot in options.shots:
            seen = set()
            for regime, _ in REGIMES:
                episodes = regime_episodes(features, labels, classes, n_shot, regime, options.n_episodes, 7)
                if episodes is None or (label := regime_name(regime, episodes.n_way)) in seen:
                    continue
                seen.add(label)
                base, ours = (
                    100 * episode_accuracy(method(episodes), episodes.query_labels) for method in (prototypes, unem)
                )
                gain = mean_interval(ours - base)
                cells = (name, n_shot, label, f"{base.mean():.1f}", f"{gain.mean:+.1f} ± {gain.half_width:.1f}")
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
