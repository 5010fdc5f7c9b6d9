"""What features are worth before and after a distillation: neighbours, a linear machine, retrieval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.evaluation.probes import PROBES, ProbeData, ProbeExperiment
from fewshot.features import Extractor
from fewshot.features.images.decode import decode
from fewshot.features.images.listing import ImageRecord, find_images, read_bytes
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.images.unreadable import UnreadableImage
from fewshot.probing import stratified_split

from ..shared.words import counted

__all__ = ["ScoredImages", "Scores", "choose_images", "score"]

_METHODS = ("knn", "svm", "retrieval")
_K = 20
_HELD_OUT = 0.5


class ScoredImages(NamedTuple):
    """Labelled images, and the folder or archives that they are in; the seed decides which are held out."""

    root: str
    records: list[ImageRecord]
    seed: int


class Scores(NamedTuple):
    """A row for each way to judge features, and a sentence on what was scored."""

    rows: list[dict[str, Any]]
    protocol: str


def choose_images(images: str, labels: str, n_most: int, *, seed: int) -> ScoredImages | None:
    """Draw labelled images, at most ``n_most``; None unless there are two classes with two images each.

    Classes with a single image are left out.
    """
    records = [record for record in find_images(images, labels) if record.label is not None]
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = _of_common_classes([records[i] for i in sorted(order[:n_most])])
    return ScoredImages(images, kept, seed) if kept else None


def score(
    extractor: Extractor,
    images: ScoredImages,
    *,
    batch_size: int,
    n_threads: int,
    progress: Callable[[int], object],
) -> Scores:
    """Score an extractor's features, unit rows throughout; images that cannot be read are left out.

    ``progress`` is called with the number of images done.

    Raises
    ------
    ValueError
        If too few images can be read.
    """
    features: dict[ImageRecord, Tensor] = {}
    n_done = 0
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        for start in range(0, len(images.records), batch_size):
            batch = images.records[start : start + batch_size]
            features |= _features(extractor, images.root, batch, pool)
            n_done += len(batch)
            progress(n_done)
    kept = _of_common_classes(list(features))
    if not kept:
        raise ValueError(f"too few of the {len(images.records):,} images to score on can be read: give --labels none")
    data = _split(kept, torch.stack([features[record] for record in kept]), images.seed)
    k = min(_K, len(data.train))
    experiment = ProbeExperiment(methods=_METHODS, k=(k,))
    rows = [run.to_dict() for name in _METHODS for run in PROBES[name].run(experiment, data, None)]
    return Scores(rows, _protocol(data, k, len(images.records) - len(features)))


def _of_common_classes(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the records of classes with two or more, none if there is only one such class."""
    counts = Counter(record.label for record in records)
    common = {label for label, count in counts.items() if count > 1}
    return [record for record in records if record.label in common] if len(common) > 1 else []


def _features(
    extractor: Extractor, root: str, records: Sequence[ImageRecord], pool: ThreadPoolExecutor
) -> dict[ImageRecord, Tensor]:
    """Return the unit features of the images that can be read."""
    decoded = pool.map(partial(_input, extractor.preprocess, root), records)
    inputs = {record: image for record, image in zip(records, decoded, strict=True) if image is not None}
    if not inputs:
        return {}
    rows = torch.nn.functional.normalize(extractor(torch.stack(list(inputs.values()))).cpu(), dim=-1)
    return dict(zip(inputs, rows, strict=True))


def _input(preprocess: Preprocess, root: str, record: ImageRecord) -> Tensor | None:
    """Return what the network is to see of an image, None if it cannot be read."""
    try:
        return preprocess.apply(decode(read_bytes(root, record)).image)
    except UnreadableImage:
        return None


def _split(records: Sequence[ImageRecord], rows: Tensor, seed: int) -> ProbeData:
    numbers = {label: number for number, label in enumerate(sorted({f"{record.label}" for record in records}))}
    labels = torch.tensor([numbers[f"{record.label}"] for record in records])
    held_out = stratified_split(labels, _HELD_OUT, generator=torch.Generator().manual_seed(seed))
    return ProbeData(rows[~held_out], labels[~held_out], rows[held_out], labels[held_out], len(numbers))


def _protocol(data: ProbeData, k: int, n_failed: int) -> str:
    unread = f"; {counted(n_failed, 'image', 'images')} that cannot be read left out" if n_failed else ""
    return (
        f"{len(data.test):,} test images against {len(data.train):,} with labels, {data.n_classes:,} classes; k = {k}; "
        f"retrieval of each test image among the others{unread}"
    )
