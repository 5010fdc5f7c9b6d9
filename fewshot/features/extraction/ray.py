"""Extraction on a Ray cluster: shard numbers go out to actors, which write through the same writer.

No features travel between processes; order, locks and resuming are the store's own. The store and the images lie on a
file system that all machines share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot.features.extraction.loop import Extraction, Progress, extract_shards
from fewshot.features.families import extractor
from fewshot.features.store.layout import StoreFolder

__all__ = ["extract_on_ray"]

_START_TIMEOUT_S = 600.0


class _Worker:
    """An actor: one extractor, built once, and shards as they come."""

    def __init__(
        self, name: str, recipe: Mapping[str, Any], path: str, device: str, batch_size: int, n_workers: int
    ) -> None:
        self._extractor = extractor(name, **recipe, device=device)
        self._store = StoreFolder(path)
        self._batch_size, self._n_workers = batch_size, n_workers

    def is_ready(self) -> bool:
        """Answer once the extractor is built."""
        return True

    def extract(self, shard: int) -> tuple[Extraction, int]:
        """Extract one shard; return what was done, and how many images failed."""
        run = extract_shards(
            self._extractor, self._store, [shard], batch_size=self._batch_size, n_workers=self._n_workers
        )
        return run, len(self._store.record(shard).failures) if run.n_done else 0


def extract_on_ray(
    name: str,
    recipe: Mapping[str, Any],
    store: StoreFolder,
    shards: Sequence[int],
    *,
    batch_size: int,
    n_workers: int,
    device: str,
    progress: Progress | None = None,
) -> Extraction:
    """Extract shards on the workers of a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    Parameters
    ----------
    name, recipe
        What `fewshot.features.extractor` takes, less the device: each worker builds its own.
    store
        As `prepare_store` returns it.
    shards, batch_size, n_workers, progress
        As in `extract_shards`; progress comes shard by shard.
    device
        ``cpu`` or ``cuda``: one worker per GPU, or as many as leave one core to Ray itself.

    Returns
    -------
    Extraction
        Seconds waiting are summed over the workers.

    Raises
    ------
    ImportError
        If Ray is not installed.
    RuntimeError
        If the cluster has no room for a worker, or none starts in ten minutes.
    """
    ray = _started_ray()
    todo = [shard for shard in shards if not store.is_done(shard)]
    n_found_done = sum(map(store.head.n_rows, shards)) - sum(map(store.head.n_rows, todo))
    if not todo:
        return Extraction(0, n_found_done, 0, 0.0, 0.0)
    n_actors, resources = _room(ray.cluster_resources(), len(todo), device)
    make = ray.remote(**resources)(_Worker).remote
    settings = {"device": device.partition(":")[0], "batch_size": batch_size, "n_workers": n_workers}
    workers = [make(name, dict(recipe), str(store.path.absolute()), **settings) for _ in range(n_actors)]
    _wait_for_first(ray, workers)
    start, runs, n_failed = time.perf_counter(), [], 0
    pool = ray.util.ActorPool(workers)
    for run, n_failed_here in pool.map_unordered(lambda worker, shard: worker.extract.remote(shard), todo):
        runs.append(run)
        n_failed += n_failed_here
        if progress is not None:
            progress(sum(run.n_done for run in runs), n_failed)
    total = Extraction(*(sum(column) for column in zip(*runs, strict=True)))
    return total._replace(n_found_done=n_found_done, seconds=time.perf_counter() - start)


def _started_ray() -> Any:
    """Import Ray and connect to the cluster, or start one here."""
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise ImportError('the engine ray needs Ray: pip install "fewshot[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    return ray


def _room(resources: Mapping[str, float], n_shards: int, device: str) -> tuple[int, dict[str, int]]:
    """Return how many workers to start, and what each reserves.

    One core stays free: a pool that reserves them all can wait for ever for the rest of its job.

    Examples
    --------
    >>> _room({"CPU": 2.0}, 9, "cpu"), _room({"CPU": 16.0}, 4, "cpu"), _room({"CPU": 16.0, "GPU": 2.0}, 9, "cuda:0")
    ((1, {'num_cpus': 1}), (4, {'num_cpus': 3}), (2, {'num_gpus': 1, 'num_cpus': 1}))
    """
    n_cpus, n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if device != "cpu":
        if n_gpus < 1:
            raise RuntimeError(f"the Ray cluster has no GPU, got {n_cpus} cores: use --device cpu")
        return min(n_gpus, n_shards), {"num_gpus": 1, "num_cpus": 1}
    if n_cpus < 1:
        raise RuntimeError("the Ray cluster has no core for a worker: start it with at least one")
    n_actors = max(1, min(n_cpus - 1, n_shards))
    return n_actors, {"num_cpus": max(1, (n_cpus - 1) // n_actors)}


def _wait_for_first(ray: Any, workers: Sequence[Any]) -> None:
    """Wait until a worker is up; a cluster without room would otherwise be waited for without end."""
    ready, _ = ray.wait([worker.is_ready.remote() for worker in workers], timeout=_START_TIMEOUT_S)
    if not ready:
        raise RuntimeError(
            f"no Ray worker started in {_START_TIMEOUT_S:.0f} s: the cluster's cores are taken: free some, or use "
            "--engine local"
        )
    ray.get(ready)  # raises what the worker raised
