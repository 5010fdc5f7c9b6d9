"""Episodes per CPU-second on one thread, end to end: draw the episodes, look the features up, answer, score."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from fewshot_episodes import EpisodeSampler

from fewshot import UNEM, evaluate_episodes, fit_unem
from fewshot.em import run_em
from fewshot.likelihoods.dirichlet import dirichlet_likelihood, simplex_log_features
from fewshot.registry.episodic import build_method
from tests.benchmarks.baselines import loop_episodes, loop_nearest_prototype, loop_unem
from tests.benchmarks.row import Row
from tests.reference.sampler_loop import LoopEpisodeSampler

__all__ = ["cpu_seconds", "episode_rate", "rows", "synthetic_pool"]


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the best CPU time of a few runs, after a warm-up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def synthetic_pool(n_classes: int, per_class: int, n_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ReLU-like features of weakly separated classes, as peers' speed tables use."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    centers = 0.2 * torch.randn(n_classes, n_features, generator=generator)
    return torch.relu(centers[labels] + torch.randn(len(labels), n_features, generator=generator)), labels


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    torch.set_num_threads(1)
    found: list[Row] = []
    for part in (_engine, _sampler, _dirichlet, _training):
        progress(part.__name__.strip("_"))
        found += part()
    return found


def _engine() -> list[Row]:
    found = []
    for n_way, n_features, targets in (
        (5, 640, {"nearest-prototype": 20000, "unem": 2500, "paddle": 600}),
        (20, 1600, {"unem": None}),
    ):
        features, labels = synthetic_pool(20, 600, n_features)
        queries = {"n_query": 15} if n_way == 5 else {"n_query_total": 75, "query_distribution": "uniform"}
        sampler = EpisodeSampler(labels, n_way=n_way, n_shot=5, **queries)
        where = f"{n_way}-way 5-shot, 75 queries, d = {n_features}"
        for name, target in targets.items():
            rate = episode_rate(name, sampler, features, 10_000 if target is None or target > 10_000 else 4_000)
            asked, is_reached = ("", None) if target is None else (f"≥ {target:,}", rate >= target)
            found.append(Row(f"{name}, {where}", f"{rate:,.0f} ep/CPU-s", asked, is_reached))
            if name in ("unem", "nearest-prototype"):
                loop = _loop_rate(name, features, labels.tolist(), n_way)
                wanted = 5 if name == "unem" else None
                found.append(
                    Row(
                        f"{name}, {where}, against the loop ({loop:,.0f} ep/CPU-s)",
                        f"{rate / loop:.1f}×",
                        "≥ 5×" if wanted else "",
                        rate / loop >= wanted if wanted else None,
                    )
                )
    return found


def episode_rate(name: str, sampler: EpisodeSampler, features: torch.Tensor, n_episodes: int) -> float:
    """Return episodes per CPU-second of a method, from the draw to the score."""
    method = build_method(name)

    def work() -> None:
        generator = torch.Generator().manual_seed(0)
        evaluate_episodes({name: method}, features, sampler, n_episodes=n_episodes, batch_size=200, generator=generator)

    return n_episodes / cpu_seconds(work)


def _loop_rate(name: str, features: torch.Tensor, labels: list[int], n_way: int) -> float:
    n_episodes = 100
    model = UNEM.from_preset()
    balance, temperature = model.class_balance[0].tolist(), model.temperature[0].tolist()
    settings = {"n_way": n_way, "n_shot": 5}
    settings |= {"n_query": 15} if n_way == 5 else {"n_query_total": 75, "n_effective_way": n_way}

    @torch.inference_mode()
    def work() -> None:
        for support, support_labels, query, query_labels in loop_episodes(features, labels, n_episodes, **settings):
            if name == "unem":
                scores = loop_unem(support, support_labels, query, n_way, 0.1, balance, temperature)
            else:
                scores = loop_nearest_prototype(support, support_labels, query, n_way)
            (scores.argmax(-1) == query_labels).float().mean()

    return n_episodes / cpu_seconds(work)


def _sampler() -> list[Row]:
    found = []
    labels = torch.arange(20).repeat_interleave(600)
    for words, settings in (
        ("balanced", {"n_way": 5, "n_query": 15}),
        ("uniform, 5 of 20 ways", {"n_way": 20, "n_query_total": 75, "n_effective_way": 5}),
    ):
        distribution = "balanced" if "n_query" in settings else "uniform"
        sampler = EpisodeSampler(labels, n_shot=5, query_distribution=distribution, **settings)
        n_episodes = 5120

        def work(sampler: EpisodeSampler = sampler, n: int = n_episodes) -> None:
            for _ in sampler.batches(n, 256, generator=torch.Generator().manual_seed(0)):
                pass

        def loop(settings: dict = settings) -> None:
            for episode in LoopEpisodeSampler(labels.tolist(), n_shot=5, n_episodes=200, **settings):
                _ = [torch.tensor(field) for field in episode]

        ratio = cpu_seconds(loop) / 200 / (cpu_seconds(work) / n_episodes)
        found.append(
            Row(
                f"sampler alone, {words}, against a loop of random.sample that gives tensors too",
                f"{ratio:.0f}×",
                "≥ 10×",
                ratio >= 10,
            )
        )
    return found


def _dirichlet() -> list[Row]:
    found = []
    for n_way, batch, target in ((100, 10, 15.0), (397, 1, 100.0), (1000, 1, None)):
        generator = torch.Generator().manual_seed(0)
        support_labels = torch.arange(n_way).repeat_interleave(4).expand(batch, -1)
        query_labels = torch.randint(0, 5, (batch, 75), generator=generator)
        cosines = [
            0.03 * torch.randn(*labels.shape, n_way, generator=generator)
            + 0.1 * torch.nn.functional.one_hot(labels, n_way)
            for labels in (support_labels, query_labels)
        ]

        @torch.inference_mode()
        def work(cosines: list = cosines, labels: torch.Tensor = support_labels, n_way: int = n_way) -> None:
            support, query = (simplex_log_features(part, 30.0) for part in cosines)
            likelihood = dirichlet_likelihood(support, labels, query)
            run_em(likelihood, torch.full((10,), n_way / 5), torch.ones(10), proportion_floor=1e-15)

        milliseconds = 1000 * cpu_seconds(work) / batch
        wanted = "runs" if target is None else f"≤ {target:g} ms"
        is_reached = True if target is None else milliseconds <= target
        found.append(
            Row(f"EM-Dirichlet, {n_way}-way 4-shot, 10 layers", f"{milliseconds:.1f} CPU-ms", wanted, is_reached)
        )
    return found


def _training() -> list[Row]:
    features, labels = synthetic_pool(16, 100, 512)
    sampler = EpisodeSampler(
        labels, n_way=16, n_shot=5, n_query_total=75, query_distribution="uniform", n_effective_way=5
    )
    episodes = sampler.sample(100, generator=torch.Generator().manual_seed(0)).gather(features)
    seconds = cpu_seconds(lambda: fit_unem(UNEM(), episodes), repeats=1)
    return [Row("training UNEM, 100 tasks × 100 steps, K = 16, d = 512", f"{seconds:.2f} CPU-s", "≤ 4", seconds <= 4)]
