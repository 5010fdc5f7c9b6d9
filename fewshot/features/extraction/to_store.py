"""`extract_store`: from a folder of images to a feature store, in this process, its share of several, or on Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from fewshot.checks import check_choice, check_positive
from fewshot.features.extraction.batches import default_n_workers
from fewshot.features.extraction.loop import ExtractProgress, ExtractReport, RunFigures, extract_shards
from fewshot.features.extraction.ray import extract_on_ray
from fewshot.features.frozen import Extractor
from fewshot.features.images.left_out import LeftOut, find_left_out
from fewshot.features.images.listing import find_images
from fewshot.features.store.layout import DTYPES, StoreFolder, StoreSettings
from fewshot.features.store.outcomes import ImageFailure, StoreOutcomes
from fewshot.features.store.writing import check_space, create_store, delete_store

__all__ = ["ENGINES", "ExtractSettings", "Extraction", "extract_store", "prepare_store"]

ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    """Settings of an extraction into a store.

    Parameters
    ----------
    labels : str or path
        ``auto``, ``folder``, ``none`` or a CSV file; see `fewshot.features.images.listing.find_images`. Default
        ``auto``.
    dtype : str
        On disk: ``float16`` (default; values above 65504 are an error) or ``float32``.
    shard_size : int
        Rows per shard: the work that is lost when a run is killed. Default 4096.
    batch_size : int
        Images per call of the network; another one may change the last bits. Default 64.
    engine : str
        ``local`` (default): this process. ``ray``: the workers of the Ray cluster that RAY_ADDRESS names, or of one
        that is started on this machine.

    Raises
    ------
    ValueError
        If a number is out of range or a word unknown.
    """

    labels: str | os.PathLike[str] = "auto"
    dtype: str = "float16"
    shard_size: int = 4096
    batch_size: int = 64
    engine: str = "local"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("engine", self.engine, ENGINES)
        check_positive("shard_size", self.shard_size)
        check_positive("batch_size", self.batch_size)


class Extraction(NamedTuple):
    """Result of `extract_store`; open the features with `FeatureStore.open`.

    Attributes
    ----------
    run : RunFigures
        Images and seconds of this run.
    store : StoreFolder
    is_finished : bool
        Whether every shard of the store is finished.
    failures : list of ImageFailure
        The images of finished shards that could not be read, in the order of the store, those of earlier runs and of
        other processes among them.
    notes : dict of str to int
        How many images each treatment of decoding was applied to, such as turning by the EXIF tag.
    left_out : LeftOut
        The files of the folder that are not in the list of images.
    """

    run: RunFigures
    store: StoreFolder
    is_finished: bool
    failures: list[ImageFailure]
    notes: dict[str, int]
    left_out: LeftOut


def extract_store(
    extractor: Extractor,
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ExtractSettings | None = None,
    *,
    n_workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    is_resumed: bool = True,
    progress: ExtractProgress | None = None,
) -> Extraction:
    """Extract the features of a folder of images into a store, or resume one that was begun for the same images.

    Parameters
    ----------
    extractor
        Frozen network with its preprocessing.
    images
        A folder of images or of tar archives; see `fewshot.features.images.listing.find_images`.
    out
        The store's folder.
    settings
        Default ``ExtractSettings()``.
    n_workers
        Processes that decode images; 0 decodes between the network's calls; None for half of the cores, at most 8.
    rank, world_size
        This process's place among those that share the work: shards are dealt out in turn, and a lock keeps two
        processes from writing the same one, however they were started.
    is_resumed
        Whether to continue an existing store; otherwise it is deleted first.
    progress
        Called with an `ExtractReport` at the start and after each batch, or each shard on Ray.

    Returns
    -------
    Extraction

    Raises
    ------
    ValueError
        If there are no images, the store is for other images or another extractor, a feature is not finite or does not
        fit into ``dtype``, or the engine is ``ray`` and the extractor was not built by name.
    ImportError
        If the engine is ``ray`` and Ray is not installed.
    DiskFullError
        If the disk of ``out`` has no space for the features.
    RuntimeError
        If the Ray cluster has no room for a worker.

    Notes
    -----
    One shard is held in memory, and one more while it is written; the number of images does not matter.
    """
    settings = ExtractSettings() if settings is None else settings
    if not is_resumed:
        delete_store(out)
    store = prepare_store(extractor, images, out, settings)
    outcomes = StoreOutcomes(store)
    shards = range(rank, store.head.n_shards, world_size)
    unfinished = outcomes.add_finished(shards)
    check_space(store, unfinished)
    n_todo = sum(map(store.head.n_rows, unfinished))
    n_found_done = sum(map(store.head.n_rows, shards)) - n_todo
    if progress is not None:
        progress(ExtractReport(0, 0, n_todo))
    run = (extract_on_ray if settings.engine == "ray" else extract_shards)(
        extractor,
        store,
        unfinished,
        batch_size=settings.batch_size,
        n_workers=default_n_workers() if n_workers is None else n_workers,
        progress=progress,
        finished=outcomes.add,
    )
    outcomes.add_finished(range(store.head.n_shards))  # those of other processes
    run = run._replace(n_found_done=run.n_found_done + n_found_done)
    left_out = find_left_out(images, settings.labels)
    return Extraction(run, store, outcomes.is_finished, outcomes.failures, outcomes.notes, left_out)


def prepare_store(
    extractor: Extractor, images: str | os.PathLike[str], out: str | os.PathLike[str], settings: ExtractSettings
) -> StoreFolder:
    """List the images and create the store's folder, or check that the existing one is for the same images."""
    own = StoreSettings(
        extractor=extractor.spec,
        extractor_key=extractor.key,
        columns=extractor.columns,
        n_features=extractor.n_features,
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        images_root=os.path.abspath(images),
        about=extractor.about,
    )
    return create_store(out, find_images(images, labels=settings.labels), own)
