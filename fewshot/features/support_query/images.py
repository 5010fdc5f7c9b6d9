"""A folder of labelled images and one of queries: their lists, images that both hold, and their features."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fewshot.checks import SettingError
from fewshot.features.extraction.batches import default_n_workers
from fewshot.features.extraction.loop import extract_shards
from fewshot.features.extraction.to_store import ExtractSettings, prepare_store
from fewshot.features.feature_set import FeatureSet
from fewshot.features.frozen import Extractor
from fewshot.features.images.kinds import is_image_file
from fewshot.features.images.left_out import find_left_out
from fewshot.features.images.listing import find_images, first_archive, read_bytes, walk_folder
from fewshot.features.images.records import ImageRecord
from fewshot.features.images.rgb import NARROW
from fewshot.features.images.unreadable import UnreadableImage
from fewshot.features.store.layout import Failure, StoreFolder
from fewshot.features.store.reading import FeatureStore
from fewshot.features.store.writing import check_space

__all__ = [
    "Repeats",
    "check_apart",
    "check_classes_left",
    "count_narrow",
    "extract_folder",
    "find_repeats",
    "list_query",
    "list_support",
]

_BATCH_SIZE = 64
_SHARD_SIZE = 4096
# Below this many images processes that decode take longer to start than they save.
_N_FOR_WORKERS = 400


class Repeats(NamedTuple):
    """Images whose bytes are there more than once.

    Attributes
    ----------
    within : dict
        Support image → the one before it, of the same class, with the same bytes.
    across : dict
        Query → the support image with the same bytes.
    """

    within: dict[str, str]
    across: dict[str, str]


def list_support(path: str) -> list[ImageRecord]:
    """List labelled images: a folder for each class, at any depth inside.

    Raises
    ------
    SettingError
        If there is no such folder, images lie in it directly, a class's folder has none, or there are fewer than two
        classes.
    """
    folder = _folder("support", path)
    classes = _class_folders(folder, path)
    records = list(walk_folder(path, labelled=True))
    empty = sorted(set(classes) - {record.label for record in records if record.label is not None})
    if empty:
        more = f"; so have {len(empty) - 1} more" if len(empty) > 1 else ""
        raise SettingError(
            "the class folder {0!r} in {support} {1} has no image (.jpg, .png, ...){2}: put some in, or remove it{3}",
            *(empty[0], path, _only_unread(folder / empty[0]), more),
        )
    if len(classes) < 2:
        raise SettingError(
            "{support} {0} has one class folder only, {1!r}: give at least two classes to choose between",
            *(path, classes[0]),
        )
    return records


def _only_unread(folder: Path) -> str:
    words = find_left_out(folder).unread_words()
    return f" but {words}" if words else ""


def _class_folders(folder: Path, path: str) -> list[str]:
    """Return the names of the folders of classes; refuse images beside them."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    classes = [name for name in names if (folder / name).is_dir()]
    stray = next((name for name in names if name not in classes and is_image_file(f"{folder / name}")), None)
    if stray is not None:
        raise SettingError(
            "{support} {0} holds images itself, such as {1!r}: put each into a folder named after its class",
            *(path, stray),
        )
    if not classes:
        raise SettingError("{support} {0} has no folders: it needs one for each class, with a few images in each", path)
    return classes


def list_query(path: str) -> list[ImageRecord]:
    """List images to name, at any depth; folders mean nothing.

    Raises
    ------
    SettingError
        If there is no such folder, or it holds images and an archive.
    ValueError
        If there is no image.
    """
    _folder("query", path)
    archive, has_images = first_archive(path)
    if archive is not None and has_images:
        raise SettingError(
            "{query} {0} holds images and an archive, {1!r}: move the archive out, or unpack it", path, archive
        )
    return list(find_images(path, "none"))


def _folder(setting: str, path: str) -> Path:
    if not os.path.exists(path):
        raise SettingError(f"no such folder: {{{setting}}} {{0}}", path)
    if not os.path.isdir(path):
        raise SettingError(f"{{{setting}}} {{0}} is a file: name a folder of images", path)
    return Path(path)


def check_apart(support: str, query: str) -> None:
    """Check that neither folder holds the other, links followed.

    Raises
    ------
    SettingError
        If one does: labelled images would be queries, or queries be taken as a class.
    """
    places = [os.path.realpath(path) for path in (support, query)]
    if places[0] == places[1]:
        raise SettingError("{support} and {query} are the same folder, {0}: name two", query)
    shared = os.path.commonpath(places)
    if shared == places[0]:
        raise SettingError("{query} {0} lies inside of {support} {1}, where it is a class: move it out", query, support)
    if shared == places[1]:
        raise SettingError(
            "{support} {0} lies inside of {query} {1}, whose images are all queries: move it out", support, query
        )


def find_repeats(
    support: str, support_records: Sequence[ImageRecord], query: str | None, query_records: Sequence[ImageRecord]
) -> Repeats:
    """Compare images by their bytes.

    Raises
    ------
    ValueError
        If one is in two classes.
    """
    first, within = _repeats_within(support, support_records)
    if query is None:
        return Repeats(within, {})
    sizes = {_size(support, record) for record in support_records}
    suspects = [record for record in query_records if _size(query, record) in sizes]
    keys = {record.id: _fingerprint(query, record) for record in suspects}
    return Repeats(within, {name: first[key].id for name, key in keys.items() if key in first})


def _repeats_within(support: str, records: Sequence[ImageRecord]) -> tuple[dict[str, ImageRecord], dict[str, str]]:
    """Return the first image of each fingerprint, and the repeated images by the one before them."""
    first: dict[str, ImageRecord] = {}
    within = {}
    for record in records:
        key = _fingerprint(support, record)
        before = first.setdefault(key, record) if key else record
        if before.label != record.label:
            raise SettingError(
                "the same image is in two classes, as {0!r} and {1!r} in {support} {2}: remove it from the wrong one",
                *(before.id, record.id, support),
            )
        if before is not record:
            within[record.id] = before.id
    return first, within


def _size(root: str, record: ImageRecord) -> int:
    if record.offset >= 0:
        return record.size
    try:
        return os.path.getsize(os.path.join(root, record.id))
    except OSError:
        return -1


def _fingerprint(root: str, record: ImageRecord) -> str:
    """Return a hash of an image's bytes; nothing where there are none."""
    try:
        return hashlib.sha256(read_bytes(root, record)).hexdigest()
    except UnreadableImage:
        return ""


def extract_folder(
    made: Extractor, path: str, labels: str, scratch: Path, progress: Callable[[int, int], object]
) -> tuple[FeatureSet, Mapping[str, Failure]]:
    """Return the features of a folder's images, and why others have none.

    Parameters
    ----------
    made
        The extractor.
    path
        The folder.
    labels
        ``folder`` or ``none``.
    scratch
        Where a store for them may lie; it must stay until pictures are drawn.
    progress
        Called with (images done, images failed).

    Raises
    ------
    ValueError
        If no image could be read.
    """
    store = prepare_store(made, path, scratch, ExtractSettings(labels=labels, dtype="float32", shard_size=_SHARD_SIZE))
    check_space(store, range(store.head.n_shards))
    extract_shards(
        made,
        store,
        range(store.head.n_shards),
        batch_size=_BATCH_SIZE,
        n_workers=default_n_workers() if store.head.n_images >= _N_FOR_WORKERS else 0,
        progress=lambda report: progress(report.n_done, report.n_failed),
    )
    found = FeatureStore.open(scratch)
    if not found.n:
        raise ValueError(f"{_none_read(f'in {path}', found.failures.values())}: are they images?")
    return found.load(), found.failures


def count_narrow(store: StoreFolder) -> int:
    """Return how many images of a store use a small part of 16 bits, see `fewshot.features.images.rgb.NARROW`."""
    return sum(NARROW in notes for record in store.records() for notes in record.notes.values())


def check_classes_left(records: Iterable[ImageRecord], pool: FeatureSet, failures: Mapping[str, Failure]) -> None:
    """Check that each class has an image that could be read.

    Raises
    ------
    ValueError
        If one has none; the message names it and the reason.
    """
    lost = sorted({record.label for record in records if record.label is not None} - set(pool.class_names))
    if lost:
        own = [failures[record.id] for record in records if record.label == lost[0]]
        raise ValueError(f"{_none_read(f'of class {lost[0]!r}', own)}: replace them, or remove the class")


def _none_read(whose: str, failures: Iterable[Failure]) -> str:
    known = list(failures)
    images = f"{len(known):,} image{'' if len(known) == 1 else 's'}"
    return f"none of the {images} {whose} could be read ({known[0].text})"
