"""Category discovery: some images of known classes keep their labels, and everything else loses them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_episodes.pool import class_pool
from fewshot_episodes.sessions import class_label, places

__all__ = ["DiscoverySplit", "discovery_split", "ssb_known_classes"]


class DiscoverySplit(NamedTuple):
    """Input of a discovery method, cut from a labelled pool; the unlabelled rows are scored.

    Attributes
    ----------
    labels : Tensor (n,), int64
        The pool's own label where a row keeps it, -1 where it is unlabelled. On the CPU.
    known_class_ids : Tensor (n_known,), int64
        The classes with labelled rows, ascending: "Old" in the tables.
    novel_class_ids : Tensor (n_novel,), int64
        The other classes, ascending: "New".
    """

    labels: Tensor
    known_class_ids: Tensor
    novel_class_ids: Tensor


def discovery_split(
    labels: Tensor,
    n_known: int | None = None,
    *,
    known_classes: Tensor | Sequence[int] | str | None = None,
    labelled_fraction: float = 0.5,
    class_names: Sequence[str] | None = None,
    generator: torch.Generator,
) -> DiscoverySplit:
    """Hide the novel classes and part of the known ones: the protocol of generalized category discovery.

    Of the ``m`` rows of known classes together, ``floor(labelled_fraction · m)`` are drawn to keep their labels,
    whichever class they are of; the rest of them and all rows of novel classes are unlabelled.

    Parameters
    ----------
    labels : Tensor (n,), integer
        The true labels of the pool, not negative.
    n_known : int, optional
        How many classes are known: the first of them in ascending order, or drawn.
    known_classes : Tensor or sequence of int, "random", optional
        The known classes themselves, in place of ``n_known``; "random", beside ``n_known``: drawn.
    labelled_fraction : float
        In (0, 1]. Default 0.5, the protocol's; at 1 every unlabelled row is of a novel class.
    class_names : sequence of str, optional
        Names for error messages, by label.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    DiscoverySplit

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If a setting is out of range, a known class is not in the pool, or the draw leaves a known class without a
        label.

    Notes
    -----
    One random order of the rows decides everything: with one seed, the labelled rows of a smaller fraction are among
    those of a larger one, and renaming the classes changes no row. The authors draw with NumPy, so that seeds do not
    carry over; they do not look whether a class was left without a label; and they put the known classes first, where
    the pool's own ids stay here.

    Source
    ------
    Vaze et al., "Generalized Category Discovery", CVPR 2022; the global draw and its rounding from the released code.

    Examples
    --------
    >>> split = discovery_split(torch.arange(30) % 3, n_known=2, generator=torch.Generator().manual_seed(0))
    >>> split.known_class_ids.tolist(), split.novel_class_ids.tolist(), (split.labels >= 0).sum().item()
    ([0, 1], [2], 10)
    """
    if not 0 < labelled_fraction <= 1:
        raise ValueError(f"labelled_fraction must lie in (0, 1], got {labelled_fraction}")
    class_ids = class_pool(labels).class_ids
    labels = torch.as_tensor(labels).cpu().long()
    shuffled = torch.randperm(len(labels), generator=generator)
    known = _known_class_ids(n_known, known_classes, class_ids, generator)
    is_known = torch.isin(labels, known)
    candidates = shuffled[is_known[shuffled]]
    rows = candidates[: int(labelled_fraction * len(candidates))]
    _check_labelled(known, labels, rows, class_names)
    return DiscoverySplit(
        labels=torch.full_like(labels, -1).index_copy(0, rows, labels[rows]),
        known_class_ids=known,
        novel_class_ids=class_ids[~torch.isin(class_ids, known)],
    )


def _known_class_ids(
    n_known: int | None,
    chosen: Tensor | Sequence[int] | str | None,
    class_ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the known classes, ascending."""
    if chosen is not None and not isinstance(chosen, str):
        if n_known is not None:
            raise ValueError("give n_known or the known_classes themselves, not both")
        return _checked_classes(chosen, class_ids)
    if isinstance(chosen, str) and chosen != "random":
        raise ValueError(f"known_classes must be class ids, 'random' or None; got {chosen!r}")
    if n_known is None:
        raise ValueError("give n_known, how many classes are known, or known_classes, which ones")
    if not 1 <= n_known <= len(class_ids):
        raise ValueError(f"n_known must lie between 1 and {len(class_ids)}, the number of classes; got {n_known}")
    if chosen is None:
        return class_ids[:n_known]
    drawn = torch.randperm(len(class_ids), generator=generator)[:n_known]
    return class_ids.index_select(0, drawn.sort().values)


def _checked_classes(chosen: Tensor | Sequence[int], class_ids: Tensor) -> Tensor:
    given = torch.as_tensor(chosen).cpu().long()
    if given.dim() != 1 or len(given) == 0:
        raise ValueError(f"known_classes must name at least one class in a list, got shape {tuple(given.shape)}")
    known, times = torch.unique(given, return_counts=True)
    if len(known) < len(given):
        raise ValueError(f"known_classes names class {int(known[times > 1][0])} more than once")
    unknown = known[~torch.isin(known, class_ids)]
    if len(unknown):
        raise ValueError(f"known_classes names class {int(unknown[0])}, which no label is")
    return given.sort().values


def _check_labelled(known: Tensor, labels: Tensor, rows: Tensor, class_names: Sequence[str] | None) -> None:
    """Refuse a draw in which a known class keeps no label."""
    bare = known[torch.bincount(places(labels[rows], known), minlength=len(known)) == 0].tolist()
    if bare:
        others = f" (and {len(bare) - 1} more such classes)" if len(bare) > 1 else ""
        raise ValueError(
            f"none of the {int((labels == bare[0]).sum())} items of {class_label(bare[0], class_names)} was drawn to "
            f"keep its label{others}: take another seed or a larger labelled_fraction, or count the class as novel"
        )


def ssb_known_classes(text: str) -> tuple[int, ...]:
    """Read the known classes from a split file of the Semantic Shift Benchmark.

    Parameters
    ----------
    text : str
        The content of its JSON file, such as ``cub_ssb_splits.json``. (The pickles with the same classes are not
        read: a pickle runs code.)

    Returns
    -------
    tuple of int
        For ``known_classes`` of :func:`discovery_split`, in the file's order. They count the data set's classes from
        0: the pool's labels must do so in the same order.

    Raises
    ------
    ValueError
        If the text is not JSON, or has no list of class numbers under "known_classes".

    Source
    ------
    Vaze et al., "Open-Set Recognition: A Good Closed-Set Classifier is All You Need?", ICLR 2022; files of its
    repository.

    Examples
    --------
    >>> ssb_known_classes('{"known_classes": [3, 0], "unknown_classes": {"Easy": [1], "Medium": [], "Hard": [2]}}')
    (3, 0)
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"an SSB split file must be JSON: {error}") from error
    found = content.get("known_classes") if isinstance(content, dict) else None
    if not isinstance(found, list) or not found or not all(type(class_id) is int for class_id in found):
        raise ValueError('an SSB split file must have a list of class numbers under "known_classes"')
    return tuple(found)
