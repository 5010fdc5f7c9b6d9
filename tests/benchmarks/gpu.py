"""The same run on a GPU, where there is one: episodes per second and the share of the memory-bandwidth floor."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from fewshot_episodes import EpisodeSampler

from fewshot.registry.episodic import build_method
from tests.benchmarks.row import Row
from tests.benchmarks.speed import synthetic_pool

__all__ = ["rows"]

BATCH = 10_000


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything, or say that there is no GPU."""
    if not torch.cuda.is_available():
        return [Row("GPU, batch 10,000", "no GPU here", "", None)]
    progress("gpu")
    features, labels = synthetic_pool(20, 600, 640)
    sampler = EpisodeSampler(labels, n_way=5, n_shot=5, n_query=15)
    index = sampler.sample(BATCH, generator=torch.Generator().manual_seed(0))
    pool = features.cuda()
    buffer = pool.new_empty(BATCH * 100 * 640)
    read = buffer.numel() * buffer.element_size()
    bandwidth = _bandwidth(buffer)
    found = []
    for name in ("nearest-prototype", "unem"):
        method = build_method(name)
        if isinstance(method, torch.nn.Module):
            method.cuda()

        @torch.inference_mode()
        def work(method: Callable = method) -> None:
            method(index.gather(pool, buffer))

        seconds = _seconds(work)
        found.append(
            Row(
                f"{name} on {torch.cuda.get_device_name()}, 5-way 5-shot, 75 queries, d = 640, batch {BATCH:,}",
                f"{BATCH / seconds:,.0f} ep/s; {100 * read / bandwidth / seconds:.0f} % of the floor",
                "floor: each feature read once",
                None,
            )
        )
    return found


def _bandwidth(buffer: torch.Tensor) -> float:
    """Return bytes per second of reading a tensor once (a sum)."""
    return buffer.numel() * buffer.element_size() / _seconds(lambda: buffer.sum())


def _seconds(work: Callable[[], object], repeats: int = 10) -> float:
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats
