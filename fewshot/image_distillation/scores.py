"""Scores of features before and after a distillation: k nearest neighbours, a linear SVM, and retrieval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.features.frozen import Extractor
from fewshot.features.images.decode import decode
from fewshot.features.images.listing import ImageList, ImageRecord, read_bytes
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.images.unreadable import UnreadableImage
from fewshot.metrics.classification import mean_class_accuracy
from fewshot.probing import LinearSVM, RetrievalScores, neighbour_scores, retrieval_scores, stratified_split

__all__ = ["TEMPERATURE", "Accuracy", "FeatureScores", "choose_images", "score_features"]

TEMPERATURE = 0.07
_K = 20
_HELD_OUT = 0.5


class Accuracy(NamedTuple):
    """Accuracy over images, and its mean over classes."""

    accuracy: float
    mean_class_accuracy: float


class FeatureScores(NamedTuple):
    """Scores of features on labelled images, unit rows throughout; half of each class is held out as the test set.

    Attributes
    ----------
    knn : Accuracy
        Of a vote of the ``k`` nearest training images, weighted by exp(cosine / 0.07).
    svm : Accuracy
        Of `LinearSVM` with C = 1.
    retrieval : RetrievalScores
        Each test image as a query among the others.
    k, n_train, n_test, n_classes : int
    n_unreadable : int
        Images that were left out because they cannot be read.
    """

    knn: Accuracy
    svm: Accuracy
    retrieval: RetrievalScores
    k: int
    n_train: int
    n_test: int
    n_classes: int
    n_unreadable: int

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a flat row of JSON values for each score, as `fewshot.evaluation.probes.ProbeRun.to_dict` does."""
        votes = f"weighted vote of the nearest training rows in cosine, temperature {TEMPERATURE:g}"
        queries = f"each of {self.n_test:,} test rows looked for among the other {self.n_test - 1:,} test rows"
        machine = LinearSVM()
        return [
            {"method": "knn", **self.knn._asdict(), "settings": votes, "k": self.k},
            {"method": "svm", **self.svm._asdict(), "settings": machine.describe(), "c": machine.c},
            {
                "method": "retrieval",
                "settings": f"{queries}, by Euclidean distance",
                "n_unanswerable": self.retrieval.n_unanswerable,
                **self.retrieval.means(),
            },
        ]


def choose_images(images: ImageList, n_most: int, *, seed: int) -> ImageList | None:
    """Draw labelled images, at most ``n_most``; None unless there are two classes with two images each.

    Classes with a single image are left out.
    """
    labelled = [record for record in images.records if record.label is not None]
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = _of_common_classes([labelled[i] for i in sorted(order[:n_most])])
    return ImageList(images.root, kept) if kept else None


def score_features(
    extractor: Extractor,
    images: ImageList,
    *,
    seed: int,
    batch_size: int,
    n_threads: int,
    progress: Callable[[int], object],
) -> FeatureScores:
    """Score the features of an extractor on labelled images; images that cannot be read are left out.

    Parameters
    ----------
    extractor
    images
        Of two classes at least, with two images each.
    seed
        Decides which images are held out.
    batch_size, n_threads
        Images per call of the network, and threads that decode them.
    progress
        Called with the number of images done.

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
        raise SettingError(
            "too few of the {0:,} images to score on can be read: give {labels} none", len(images.records)
        )
    rows = torch.stack([features[record] for record in kept])
    return _scores(rows, _class_ids(kept), seed)._replace(n_unreadable=len(images.records) - len(features))


def _scores(rows: Tensor, labels: Tensor, seed: int) -> FeatureScores:
    is_test = stratified_split(labels, _HELD_OUT, generator=torch.Generator().manual_seed(seed))
    train, train_labels, test, test_labels = rows[~is_test], labels[~is_test], rows[is_test], labels[is_test]
    n_classes, k = int(labels.max()) + 1, min(_K, len(train))
    (votes,) = neighbour_scores(test, train, train_labels, [k], temperature=TEMPERATURE)
    accuracy = partial(_accuracy, labels=test_labels, n_classes=n_classes)
    return FeatureScores(
        accuracy(votes),
        accuracy(LinearSVM().fit(train, train_labels)(test)),
        retrieval_scores(test, test_labels, test, test_labels, is_leave_one_out=True),
        k,
        len(train),
        len(test),
        n_classes,
        0,
    )


def _accuracy(scores: Tensor, *, labels: Tensor, n_classes: int) -> Accuracy:
    predictions = scores.argmax(-1)
    return Accuracy(
        float((predictions == labels).double().mean()), float(mean_class_accuracy(predictions, labels, n_classes))
    )


def _of_common_classes(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the records of classes with two or more, none if there is only one such class."""
    counts = Counter(record.label for record in records)
    common = {label for label, count in counts.items() if count > 1}
    return [record for record in records if record.label in common] if len(common) > 1 else []


def _class_ids(records: Sequence[ImageRecord]) -> Tensor:
    names = sorted({f"{record.label}" for record in records})
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers[f"{record.label}"] for record in records])


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
    """Return the network's input of an image, None if it cannot be read."""
    try:
        return preprocess.apply(decode(read_bytes(root, record), bit_range=preprocess.bit_range).image)
    except UnreadableImage:
        return None
