"""Support and query sets, each from a folder of images or from a file of features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from fewshot.checks import SettingError
from fewshot.features.feature_set import FeatureSet, check_same_extractor
from fewshot.features.frozen import Extractor
from fewshot.features.images.left_out import LeftOut, find_left_out
from fewshot.features.images.records import ImageRecord
from fewshot.features.readers import load_features
from fewshot.features.store.layout import Failure, StoreFolder
from fewshot.features.support_query.images import (
    Repeats,
    check_apart,
    check_classes_left,
    count_narrow,
    extract_folder,
    find_repeats,
    list_query,
    list_support,
)

__all__ = [
    "DEFAULT_EXTRACTOR",
    "DuplicateQuery",
    "SkippedImage",
    "SupportQuery",
    "SupportQuerySources",
    "read_support_query",
]

DEFAULT_EXTRACTOR = "efficientnet_lite0"
"""The extractor of ``fewshot classify``, whose weights come with a package: no download, and fast on a CPU."""
ReadingProgress: TypeAlias = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportQuerySources:
    """Where the labelled items and the queries are: on either side a folder of images, or a file of features.

    Parameters
    ----------
    support : str, optional
        A folder of labelled images: a folder for each class.
    query : str, optional
        A folder of images.
    support_features, query_features : str, optional
        In place of these, as `fewshot.features.load_features` takes them.

    Raises
    ------
    SettingError
        If a side has none of the two, or both.
    """

    support: str | None = None
    query: str | None = None
    support_features: str | None = None
    query_features: str | None = None

    def __post_init__(self) -> None:
        for side, folder, features in (
            ("support", self.support, self.support_features),
            ("query", self.query, self.query_features),
        ):
            if (folder is None) == (features is None):
                both = "" if folder is None else ", not both"
                raise SettingError(f"give {{{side}}} or {{{side}_features}}{both}")

    @property
    def names(self) -> tuple[str, str]:
        """The folder or the file of each side."""
        return self.support or str(self.support_features), self.query or str(self.query_features)

    @property
    def has_images(self) -> bool:
        """Whether a side is a folder of images."""
        return self.support is not None or self.query is not None


class SkippedImage(NamedTuple):
    """An image without a row: on the side "support" or "query", with the code and the text of the reason."""

    side: str
    file: str
    code: str
    reason: str


class DuplicateQuery(NamedTuple):
    """A query that is a support item too, and the class of that item."""

    query: str
    support: str
    class_name: str


class SupportQuery(NamedTuple):
    """Labelled items and queries of one extractor.

    Attributes
    ----------
    support : FeatureSet
        Labelled, every class with a row.
    query : FeatureSet
        Its labels mean nothing.
    skipped : list of SkippedImage
    duplicates : list of DuplicateQuery
    left_out : mapping of str to LeftOut
        By side that is a folder: its files that are no images, or of kinds that are not read.
    n_narrow : int
        Images of 16 bits that use a small part of the range, where no ``bit_range`` was given.
    """

    support: FeatureSet
    query: FeatureSet
    skipped: list[SkippedImage]
    duplicates: list[DuplicateQuery]
    left_out: Mapping[str, LeftOut]
    n_narrow: int


def read_support_query(
    sources: SupportQuerySources,
    make_extractor: Callable[[], Extractor],
    scratch: Path,
    *,
    progress: ReadingProgress | None = None,
) -> SupportQuery:
    """Read folders of images and files of features; what does not fit is refused before any image is decoded.

    Parameters
    ----------
    sources
    make_extractor
        Called once, and only where a side is a folder of images.
    scratch
        A folder for the features of images, which must stay as long as the result is used.
    progress
        Called with (side, images in all, images done, images failed).

    Raises
    ------
    OSError, ValueError
        As the parts do; and if support and query do not fit together.
    """
    inputs = _Reader(sources, make_extractor, scratch, progress or (lambda *_: None)).read()
    _check_fit(inputs, sources.names)
    return inputs


def _name_of(pool: FeatureSet, row: int) -> str:
    return f"row {row}" if pool.ids is None else pool.ids[row]


class _Reader:
    """Reads both sides with one extractor."""

    def __init__(
        self,
        sources: SupportQuerySources,
        make_extractor: Callable[[], Extractor],
        scratch: Path,
        progress: ReadingProgress,
    ) -> None:
        self._sources, self._make, self._scratch, self._progress = sources, make_extractor, scratch, progress
        self._skipped: list[SkippedImage] = []
        self._n_narrow = 0
        self._made: Extractor | None = None

    def read(self) -> SupportQuery:
        support, query = self._sources.support, self._sources.query
        if support is not None and query is not None:
            check_apart(support, query)
        labelled = [] if support is None else list_support(support)
        asked = [] if query is None else list_query(query)
        repeats = Repeats({}, {}) if support is None else find_repeats(support, labelled, query, asked)
        stored = self._stored_support(), self._stored_query()  # refused, if at all, before images are decoded
        shots = stored[0] or self._labelled_images(str(support), labelled, repeats)
        queries = stored[1] or self._extracted("query", str(query), len(asked))[0]
        across = _repeated_rows(shots, queries) if support is None or query is None else repeats.across
        return SupportQuery(shots, queries, self._skipped, _duplicates(shots, across), self._left_out(), self._n_narrow)

    def _left_out(self) -> dict[str, LeftOut]:
        folders = {"support": self._sources.support, "query": self._sources.query}
        return {side: find_left_out(path, "none") for side, path in folders.items() if path is not None}

    def _labelled_images(self, path: str, records: Sequence[ImageRecord], repeats: Repeats) -> FeatureSet:
        pool, failures = self._extracted("support", path, len(records))
        check_classes_left(records, pool, failures)
        return self._once(pool, repeats.within)

    def _stored_support(self) -> FeatureSet | None:
        name = self._sources.support_features
        if name is None:
            return None
        pool = load_features(name).labelled()
        if pool.n_classes < 2:
            raise SettingError(
                "{support_features} {0} has one class only, {1!r}: give at least two classes to choose between",
                *(name, pool.class_names[0]),
            )
        return pool

    def _stored_query(self) -> FeatureSet | None:
        name = self._sources.query_features
        return None if name is None else load_features(name, needs_labels=False)

    def _extracted(self, side: str, path: str, n_images: int) -> tuple[FeatureSet, Mapping[str, Failure]]:
        if self._made is None:
            self._made = self._make()
        labels = "folder" if side == "support" else "none"
        self._progress(side, n_images, 0, 0)
        pool, failures = extract_folder(
            self._made,
            path,
            labels,
            self._scratch / side,
            lambda n_done, n_failed: self._progress(side, n_images, n_done, n_failed),
        )
        self._n_narrow += count_narrow(StoreFolder(self._scratch / side))
        self._skipped += [SkippedImage(side, name, failure.code, failure.text) for name, failure in failures.items()]
        return pool, failures

    def _once(self, pool: FeatureSet, within: Mapping[str, str]) -> FeatureSet:
        """Leave out images that are twice in their class."""
        self._skipped += [
            SkippedImage("support", name, "duplicate", f"{name}: the same image as {before}")
            for name, before in within.items()
        ]
        assert pool.ids is not None
        return pool.select_rows(torch.tensor([name not in within for name in pool.ids]))


def _repeated_rows(support: FeatureSet, query: FeatureSet) -> dict[str, str]:
    """Return queries whose row is a support row too, bit by bit."""
    known = {_row_hash(row): _name_of(support, i) for i, row in reversed(list(enumerate(support.features)))}
    found = ((_name_of(query, i), known.get(_row_hash(row))) for i, row in enumerate(query.features))
    return {name: same for name, same in found if same is not None}


def _row_hash(row: torch.Tensor) -> bytes:
    return hashlib.sha256(row.float().contiguous().numpy().tobytes()).digest()


def _duplicates(support: FeatureSet, across: Mapping[str, str]) -> list[DuplicateQuery]:
    position = {_name_of(support, row): label for row, label in enumerate(support.labels.tolist())}
    return [
        DuplicateQuery(name, same, support.class_names[position[same]])
        for name, same in across.items()
        if same in position
    ]


def _check_fit(inputs: SupportQuery, names: tuple[str, str]) -> None:
    """Check that both sides are of one extractor, and of one length."""
    check_same_extractor(inputs.support, inputs.query, names)
    lengths = [pool.features.shape[1] for pool in (inputs.support, inputs.query)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"{names[0]} has {lengths[0]:,} features a row, {names[1]} has {lengths[1]:,}: extract both with one "
            "extractor"
        )
