"""Adaptive UNEM in every regime: ``python -m tests.benchmarks.regimes --data DIR`` prints what it gains and loses.

On the classes that it was not learned on, and on the digits of scikit-learn: against nearest prototypes, the shipped
UNEM schedules, the best of its own schedules (known only afterwards), the schedule that the gate likes best, and the
one whose mixture fits the queries best (the evidence). Points, paired, with 95 % intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from fewshot_episodes import Episode

from fewshot import UNEM, load_features
from fewshot.episodic.unem.adaptive import UNEMAdaptive
from fewshot.metrics.classification import Interval, episode_accuracy, mean_interval
from fewshot.shipped import adaptive_unem, load_unem_adaptive
from tests.benchmarks.presets import pools, regime_episodes

UNIFORM = {"query_distribution": "uniform"}
REGIMES = {
    "5-way balanced": {"n_way": 5, "n_query": 15},
    "5-way Dirichlet(2)": {"n_way": 5, "query_distribution": "dirichlet"},
    "2 of 5 present": {"n_way": 5, "n_effective_way": 2, **UNIFORM},
    "20-way balanced": {"n_way": 20, "n_query": 5},
    "20-way Dirichlet(2)": {"n_way": 20, "query_distribution": "dirichlet"},
    "10 of 20 present": {"n_way": 20, "n_effective_way": 10, **UNIFORM},
    "5 of 20 present": {"n_way": 20, "n_effective_way": 5, **UNIFORM},
    "2 of 20 present": {"n_way": 20, "n_effective_way": 2, **UNIFORM},
    "1 of 20 present": {"n_way": 20, "n_effective_way": 1, **UNIFORM},
}
COLUMNS = ("unem", "adaptive", "gate's pick", "evidence", "best schedule")


def accuracies(model: UNEMAdaptive, unem: UNEM, episodes: Episode) -> dict[str, torch.Tensor]:
    """Return each way's accuracy per episode, in %."""

    def accuracy(log_probs: torch.Tensor) -> torch.Tensor:
        return 100 * episode_accuracy(log_probs, episodes.query_labels)

    solutions = model.solutions(model.prepare(episodes))
    each = torch.stack([accuracy(answer) for answer in solutions.log_probs])
    of_evidence = solutions.statistics[..., 11:36:6].argmax(-1)  # the last one of each solution of the first view
    picks = {"gate's pick": model.log_weights(solutions.statistics).argmax(-1), "evidence": of_evidence}
    return {
        "prototypes": each[0],
        "unem": accuracy(unem(episodes)),
        "adaptive": accuracy(model.mix(solutions)),
        "best schedule": each[1 + each[1:].mean(-1).argmax()],
        **{name: each.gather(0, pick[None])[0] for name, pick in picks.items()},
    }


def told(cells: dict[tuple, dict[str, Interval]], regime: str, n_shot: int, column: str) -> str:
    """Return the mean gain over feature sets."""
    gains = [row[column].mean for (_, shot, name), row in cells.items() if (shot, name) == (n_shot, regime)]
    return f"{sum(gains) / len(gains):+.1f}"


@torch.inference_mode()
def main() -> None:
    """Print the table and what falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of feature files")
    parser.add_argument("--weights", type=Path, help="another model, as tests.benchmarks.adaptive writes it")
    parser.add_argument("--only", nargs="*", help="these feature sets alone")
    parser.add_argument("--shots", type=int, nargs="+", default=(1, 5, 10))
    parser.add_argument("--n-episodes", type=int, default=400)
    options = parser.parse_args()
    model = load_unem_adaptive(options.weights) if options.weights else adaptive_unem()
    digits = load_features("digits")
    data = pools(options.data) | {"digits_pixels": (digits.features, digits.labels, [], list(range(10)))}
    cells: dict[tuple, dict[str, Interval]] = {}
    for name, (features, labels, _, classes) in data.items():
        if options.only and name not in options.only:
            continue
        for n_shot in options.shots:
            for regime, settings in REGIMES.items():
                if settings["n_way"] > len(classes):
                    continue
                episodes = regime_episodes(features, labels, classes, n_shot, settings, options.n_episodes, 7)
                if episodes is None:
                    continue
                found = accuracies(model, UNEM.from_preset(), episodes)
                against = found["prototypes"]
                row = {column: mean_interval(values - against) for column, values in found.items()}
                row["to best"] = mean_interval(found["adaptive"] - found["best schedule"])
                cells[name, n_shot, regime] = row
        print(f"{name}: {len(cells)} cells", flush=True)
    print(f"\n| queries | shots | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for regime in REGIMES:
        for n_shot in options.shots:
            if any((shot, name) == (n_shot, regime) for _, shot, name in cells):
                values = " | ".join(told(cells, regime, n_shot, column) for column in COLUMNS)
                print(f"| {regime} | {n_shot} | {values} |")
    for column in COLUMNS:
        gains = [row[column] for row in cells.values()]
        below = sum(gain.mean + gain.half_width < 0 for gain in gains)
        print(
            f"{column}: mean {sum(g.mean for g in gains) / len(gains):+.2f}, below prototypes in {below}/{len(gains)}"
        )
    near = sum(row["to best"].mean >= -0.5 for row in cells.values())
    print(f"adaptive within 0.5 points of the best schedule, or above, in {near} of {len(cells)} cells")
    for key, row in cells.items():
        gain = row["adaptive"]
        if gain.mean + gain.half_width < 0:
            print(f"below prototypes: {key}: {gain.mean:+.1f} ± {gain.half_width:.1f}")


if __name__ == "__main__":
    main()
