"""Outcomes of an extraction: the images of a store that have no features, and the treatments that decoding noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from fewshot.features.store.layout import ShardRecord, StoreFolder

__all__ = ["ImageFailure", "StoreOutcomes"]


class ImageFailure(NamedTuple):
    """An image without features: its id, a short code, and a sentence."""

    id: str
    code: str
    text: str


class StoreOutcomes:
    """Failures and notes of the finished shards of a store; the record of each shard is taken in once.

    Parameters
    ----------
    store : StoreFolder
    """

    def __init__(self, store: StoreFolder) -> None:
        self._store = store
        self._failures: dict[int, list[ImageFailure]] = {}
        self._notes: dict[int, Counter[str]] = {}

    def add(self, record: ShardRecord) -> None:
        """Take in a finished shard."""
        images = self._store.images(record.shard) if record.failures else []
        self._failures[record.shard] = [ImageFailure(images[row].id, *why) for row, why in record.failures.items()]
        self._notes[record.shard] = Counter(note for notes in record.notes.values() for note in notes)

    def add_finished(self, shards: Iterable[int]) -> list[int]:
        """Take in those of some shards that are finished on disk; return the others."""
        unfinished = []
        for shard in shards:
            if shard in self._failures:
                continue
            record = self._store.finished(shard)
            if record is None:
                unfinished.append(shard)
            else:
                self.add(record)
        return unfinished

    @property
    def n_shards_done(self) -> int:
        """The number of finished shards."""
        return len(self._failures)

    @property
    def is_finished(self) -> bool:
        """Whether every shard of the store is finished."""
        return self.n_shards_done == self._store.head.n_shards

    @property
    def failures(self) -> list[ImageFailure]:
        """The images without features, in the order of the store."""
        return [failure for shard in sorted(self._failures) for failure in self._failures[shard]]

    @property
    def notes(self) -> dict[str, int]:
        """How many images each treatment of `fewshot.features.images.decode.decode` was applied to."""
        total = Counter[str]()
        for shard in sorted(self._notes):
            total.update(self._notes[shard])
        return dict(total)
