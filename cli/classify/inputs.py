"""What ``fewshot classify`` works on: labelled rows, rows to name, and what is to be said of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fewshot.features import FeatureSet, check_same_extractor, load_features
from fewshot.features.families import extractor, parse_options, split_name
from fewshot.features.frozen import Extractor
from fewshot.features.images.records import ImageRecord
from fewshot.features.store.layout import Failure

from ..shared import output
from ..shared.words import counted
from .images import Repeats, check_apart, check_classes_left, extract_folder, find_repeats, list_query, list_support

__all__ = ["Inputs", "name_of", "read_inputs"]

_N_NAMED = 3
Settings = Mapping[str, Any]


class Inputs(NamedTuple):
    """Rows of both kinds.

    Attributes
    ----------
    support : FeatureSet
        Labelled, every class with a row.
    query : FeatureSet
        Its labels are not looked at.
    skipped : list of dict
        Images without a row: ``side``, ``file``, ``code`` and ``reason``.
    duplicates : list of dict
        Queries that are a support image too: ``query``, ``support`` and ``class``.
    warnings : list of str
    """

    support: FeatureSet
    query: FeatureSet
    skipped: list[dict[str, str]]
    duplicates: list[dict[str, str]]
    warnings: list[str]


def name_of(pool: FeatureSet, row: int) -> str:
    """Return the file of a row, or its number."""
    return f"row {row}" if pool.ids is None else pool.ids[row]


def read_inputs(settings: Settings, scratch: Path, progress: output.Progress) -> Inputs:
    """Read folders of images and feature files; what does not fit is said before any image is decoded.

    Parameters
    ----------
    settings
        The words of the command.
    scratch
        A folder for features, which must stay until pictures are drawn.
    progress
        Counts images.

    Raises
    ------
    OSError, ValueError
        As the parts do; and if support and query do not fit together.
    """
    reader = _Reader(settings, scratch, progress)
    inputs = reader.read()
    names = tuple(settings[side] or settings[f"{side}_features"] for side in ("support", "query"))
    _check_fit(inputs, (names[0], names[1]))
    return inputs._replace(warnings=_warnings(inputs))


class _Reader:
    """Reads both sides with one extractor."""

    def __init__(self, settings: Settings, scratch: Path, progress: output.Progress) -> None:
        self._settings, self._scratch, self._progress = settings, scratch, progress
        self._skipped: list[dict[str, str]] = []
        self._made: Extractor | None = None

    def read(self) -> Inputs:
        support, query = self._settings["support"], self._settings["query"]
        if support is not None and query is not None:
            check_apart(support, query)
        labelled = [] if support is None else list_support(support)
        asked = [] if query is None else list_query(query)
        repeats = Repeats({}, {}) if support is None else find_repeats(support, labelled, query, asked)
        stored = self._stored_support(), self._stored_query()  # what they lack is said before images are decoded
        shots = stored[0] or self._labelled_images(support, labelled, repeats)
        queries = stored[1] or self._extracted("query", query, len(asked))[0]
        across = _repeated_rows(shots, queries) if support is None or query is None else repeats.across
        return Inputs(shots, queries, self._skipped, _duplicates(shots, across), [])

    def _labelled_images(self, path: str, records: list[ImageRecord], repeats: Repeats) -> FeatureSet:
        pool, failures = self._extracted("support", path, len(records))
        check_classes_left(records, pool, failures)
        return self._once(pool, repeats.within)

    def _stored_support(self) -> FeatureSet | None:
        name = self._settings["support_features"]
        if name is None:
            return None
        pool = load_features(name).labelled()
        if pool.n_classes < 2:
            raise ValueError(
                f"--support-features {name} has one class only, {pool.class_names[0]!r}: give at least two classes to "
                "choose between"
            )
        return pool

    def _stored_query(self) -> FeatureSet | None:
        name = self._settings["query_features"]
        return None if name is None else load_features(name, needs_labels=False)

    def _extracted(self, side: str, path: str, n_images: int) -> tuple[FeatureSet, Mapping[str, Failure]]:
        made = self._extractor()
        labels = "folder" if side == "support" else "none"
        self._progress.start(side, n_images)

        def update(n_done: int, n_failed: int) -> None:
            self._progress.update(n_done, f"{n_failed:,} failed" if n_failed else "")

        pool, failures = extract_folder(made, path, labels, self._scratch / side, update)
        self._skipped += [
            {"side": side, "file": name, "code": failure.code, "reason": failure.text}
            for name, failure in failures.items()
        ]
        return pool, failures

    def _extractor(self) -> Extractor:
        if self._made is None:
            name, device = self._settings["name"], self._settings["device"]
            recipe: dict[str, Any] = parse_options(split_name(name)[0], self._settings["options"])
            self._made = extractor(name, weights=self._settings["weights"], device=device, **recipe)
        return self._made

    def _once(self, pool: FeatureSet, within: Mapping[str, str]) -> FeatureSet:
        """Leave out images that are twice in their class."""
        self._skipped += [
            {"side": "support", "file": name, "code": "duplicate", "reason": f"{name}: the same image as {before}"}
            for name, before in within.items()
        ]
        assert pool.ids is not None
        return pool.select_rows(torch.tensor([name not in within for name in pool.ids]))


def _repeated_rows(support: FeatureSet, query: FeatureSet) -> dict[str, str]:
    """Return queries whose row is a support row too, bit by bit."""
    known = {_row_hash(row): name_of(support, i) for i, row in reversed(list(enumerate(support.features)))}
    found = ((name_of(query, i), known.get(_row_hash(row))) for i, row in enumerate(query.features))
    return {name: same for name, same in found if same is not None}


def _row_hash(row: torch.Tensor) -> bytes:
    return hashlib.sha256(row.float().contiguous().numpy().tobytes()).digest()


def _duplicates(support: FeatureSet, across: Mapping[str, str]) -> list[dict[str, str]]:
    position = {name_of(support, row): label for row, label in enumerate(support.labels.tolist())}
    return [
        {"query": name, "support": same, "class": support.class_names[position[same]]}
        for name, same in across.items()
        if same in position
    ]


def _check_fit(inputs: Inputs, names: tuple[str, str]) -> None:
    """Check that both sides are of one extractor, and of one length."""
    check_same_extractor(inputs.support, inputs.query, names)
    lengths = [pool.features.shape[1] for pool in (inputs.support, inputs.query)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"{names[0]} has {lengths[0]:,} features a row, {names[1]} has {lengths[1]:,}: extract both with one "
            "extractor"
        )


def _warnings(inputs: Inputs) -> list[str]:
    found = []
    if inputs.skipped:
        found.append(_named("could not be used", [row["reason"] for row in inputs.skipped]))
    if inputs.duplicates:
        same = [f"{row['query']} is {row['support']}" for row in inputs.duplicates]
        found.append(_named("to name are labelled ones too", same))
    return found


def _named(what: str, texts: list[str]) -> str:
    more = "; summary.json lists all" if len(texts) > _N_NAMED else ""
    return f"{counted(len(texts), 'image', 'images')} {what}: {'; '.join(texts[:_N_NAMED])}{more}"
