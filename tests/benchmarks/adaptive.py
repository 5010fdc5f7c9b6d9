"""The recipe of adaptive UNEM: ``python -m tests.benchmarks.adaptive --data DIR --out FILE`` learns and writes it.

Episodes of the first half of the classes of real feature sets, as they are, normalised, centered and normalised, and
projected to few dimensions; every batch of a regime of its own: shots, ways, queries, and how many of the classes
these come from. The digits of scikit-learn, and the other half of the classes, are left for testing
(`tests.benchmarks.regimes`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from fewshot_episodes import Episode, EpisodeSampler

from fewshot.checks import check_choice
from fewshot.episodic.unem.adaptive import UNEMAdaptive
from fewshot.episodic.unem.adaptive_training import fit_gate, fit_schedules, gate_example
from fewshot.prototypes import l2_normalize
from fewshot.shipped import save_unem_adaptive
from tests.benchmarks.presets import pools

VARIANTS = ("raw", "raw", "raw", "unit", "centered", "projected")
SHOTS = (1, 1, 2, 3, 5, 5, 10, 20)
WAYS = (2, 3, 5, 5, 10, 20, 20)
QUERIES = (10, 20, 40, 75, 75, 75, 150)
CONCENTRATIONS = (0.5, 2.0, 5.0)
KINDS = ("balanced", "balanced", "dirichlet", "dirichlet", "few", "few", "few", "one")


def variant(kind: str, features: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the same items as another encoder might give them."""
    check_choice("variant", kind, VARIANTS)
    if kind == "raw":
        return features
    if kind == "unit":
        return l2_normalize(features)
    if kind == "centered":
        return l2_normalize(features - features.mean(0))
    return features @ torch.randn(features.shape[1], 64, generator=generator)


def drawn(options: tuple, generator: torch.Generator):
    """Return one of the options."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def drawn_regime(n_classes: int, n_least: int, generator: torch.Generator) -> dict:
    """Draw shots, ways and queries that classes of ``n_least`` items can give."""
    n_shot = drawn(SHOTS, generator)
    while n_shot > max(1, n_least - 3):
        n_shot //= 2
    n_way = min(drawn(WAYS, generator), n_classes)
    n_left, n_total, kind = n_least - n_shot, drawn(QUERIES, generator), drawn(KINDS, generator)
    shared = {"n_way": n_way, "n_shot": n_shot}
    if kind == "balanced":
        return shared | {"n_query": max(1, min(n_total // n_way, n_left))}
    if kind == "dirichlet":
        concentration = drawn(CONCENTRATIONS, generator)
        n_total = min(n_total, 2 * n_left)
        return shared | {
            "n_query_total": n_total,
            "query_distribution": "dirichlet",
            "dirichlet_concentration": concentration,
        }
    n_present = 1 if kind == "one" else drawn(tuple(range(1, n_way + 1)), generator)
    n_total = min(n_total, n_left * n_present)
    return shared | {"n_query_total": n_total, "query_distribution": "uniform", "n_effective_way": n_present}


def family_batches(pool: tuple, n_batches: int, n_episodes: int, generator: torch.Generator) -> Iterator[Episode]:
    """Yield batches of episodes of one feature set, a regime each."""
    features, labels, classes, _ = pool
    is_kept = torch.isin(labels, torch.tensor(classes))
    features, labels = features[is_kept], labels[is_kept]
    variants = {kind: variant(kind, features, generator) for kind in sorted(set(VARIANTS))}
    n_least = int(torch.unique(labels, return_counts=True)[1].min())
    for _ in range(n_batches):
        regime, kind = drawn_regime(len(classes), n_least, generator), drawn(VARIANTS, generator)
        yield EpisodeSampler(labels, **regime).sample(n_episodes, generator=generator).gather(variants[kind])


def main() -> None:
    """Learn and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of feature files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-batches", type=int, default=300, help="for each feature set")
    parser.add_argument("--n-steps", type=int, default=600)
    parser.add_argument("--n-gate-steps", type=int, default=16_000)
    parser.add_argument("--leave-out", nargs="*", default=(), help="feature sets to leave out")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # the gate's first weights
    model = UNEMAdaptive()
    families = {name: pool for name, pool in pools(options.data).items() if name not in options.leave_out}
    with torch.no_grad():
        batches = [
            model.prepare_view(episode)
            for pool in families.values()
            for episode in family_batches(pool, options.n_batches, 32, generator)
        ]
    print(f"{len(batches)} batches", flush=True)

    def tell(what: str, step: int, loss: float) -> None:
        if step % 100 == 0:
            print(f"{what}: step {step}, loss {loss:.4f}", flush=True)

    fit_schedules(model, batches, generator=generator, n_steps=options.n_steps, progress=tell)
    batches.clear()
    examples = [
        gate_example(model, episode)
        for pool in families.values()
        for episode in family_batches(pool, 2 * options.n_batches, 32, generator)
    ]
    print(f"{len(examples)} examples for the gate", flush=True)
    fit_gate(model, examples, generator=generator, n_steps=options.n_gate_steps, progress=tell)
    model.origin = f"learned on {len(families)} sets of real features, one to all of two to twenty classes present"
    save_unem_adaptive(model, options.out)


if __name__ == "__main__":
    main()
