"""Extraction on a Ray cluster: shard numbers go out to actors, which write through the same writer.

No features travel between processes; order, locks and resuming are the store's own. The store and the images lie on a
file system that all machines share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fewshot.features.extraction.loop import ExtractProgress, ExtractReport, RunFigures, extract_shards
from fewshot.features.families import extractor
from fewshot.features.frozen import Extractor, Recipe
from fewshot.features.store.layout import ShardRecord, StoreFolder

__all__ = ["extract_on_ray"]

_START_TIMEOUT_S = 600.0


class _Worker:
    """An actor: one extractor, built once, and shards as they come."""

    def __init__(self, recipe: Recipe, path: str, device: str, batch_size: int, n_workers: int) -> None:
        name, weights, precision, given, runtime = recipe
        options: dict[str, Any] = dict(given)
        self._extractor = extractor(name, weights, precision=precision, device=device, runtime=runtime, **options)
        self._store = StoreFolder(path)
        self._batch_size, self._n_workers = batch_size, n_workers

    def is_ready(self) -> bool:
        """Answer once the extractor is built."""
        return True

    def extract(self, shard: int) -> tuple[RunFigures, list[ShardRecord]]:
        """Extract one shard; return the figures of the run, and the shard's record if it is finished."""
        records: list[ShardRecord] = []
        run = extract_shards(
            self._extractor,
            self._store,
            [shard],
            batch_size=self._batch_size,
            n_workers=self._n_workers,
            finished=records.append,
        )
        return run, records


def extract_on_ray(
    extractor: Extractor,
    store: StoreFolder,
    shards: Sequence[int],
    *,
    batch_size: int,
    n_workers: int,
    progress: ExtractProgress | None,
    finished: Callable[[ShardRecord], object],
) -> RunFigures:
    """Extract shards on the workers of a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    Parameters
    ----------
    extractor
        Its recipe and the kind of its device go to the workers, each of which builds its own: one worker per GPU, or as
        many as leave one core to Ray itself.
    store, shards, batch_size, n_workers, progress, finished
        As in `extract_shards`; progress comes shard by shard.

    Returns
    -------
    RunFigures
        Seconds waiting are summed over the workers.

    Raises
    ------
    ImportError
        If Ray is not installed.
    RuntimeError
        If the cluster has no room for a worker, or none starts in ten minutes.
    ValueError
        If the extractor was not built by name.
    """
    if extractor.recipe is None:
        raise ValueError("the engine ray builds extractors by name, got a module or function: use the engine local")
    ray = _started_ray()
    if not shards:
        return RunFigures(0, 0, 0, 0.0, 0.0)
    n_actors, resources = _room(ray.cluster_resources(), len(shards), extractor.device.type)
    make = ray.remote(**resources)(_Worker).remote
    place = (str(store.path.absolute()), extractor.device.type, batch_size, n_workers)
    workers = [make(extractor.recipe, *place) for _ in range(n_actors)]
    _wait_for_first(ray, workers)
    start = time.perf_counter()
    results = ray.util.ActorPool(workers).map_unordered(lambda worker, shard: worker.extract.remote(shard), shards)
    total = _gathered(results, sum(map(store.head.n_rows, shards)), progress, finished)
    return total._replace(seconds=time.perf_counter() - start)


def _gathered(
    results: Iterable[tuple[RunFigures, list[ShardRecord]]],
    n_todo: int,
    progress: ExtractProgress | None,
    finished: Callable[[ShardRecord], object],
) -> RunFigures:
    """Take in the results of the workers as they come, and sum their figures."""
    runs, n_failed = list[RunFigures](), 0
    for run, records in results:
        runs.append(run)
        for record in records:
            finished(record)
            n_failed += len(record.failures) if run.n_done else 0
        if progress is not None:
            progress(ExtractReport(sum(run.n_done for run in runs), n_failed, n_todo))
    return RunFigures(*(sum(column) for column in zip(*runs, strict=True)))


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
    """Return the number of workers, and the resources of each.

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
