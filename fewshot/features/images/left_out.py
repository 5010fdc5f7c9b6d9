"""Files of a folder of images that are not in the list of its images: how many, and which are images all the same."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fewshot.features.images.archives import archives_of, other_members
from fewshot.features.images.kinds import UnreadKind, is_image_file, read_head, unread_kind
from fewshot.features.images.listing import PathLike, first_archive, walk_csv

__all__ = ["LeftOut", "UnreadImage", "find_left_out", "warn_of_left_out"]


class UnreadImage(NamedTuple):
    """An image of a kind that is not read: its path, its kind, and what to do."""

    file: str
    kind: str
    mend: str


class LeftOut(NamedTuple):
    """Files that are not in the list of a folder's images.

    Attributes
    ----------
    unread : list of UnreadImage
        In the order of their paths.
    n_other : int
        Files that are no images, such as tables and texts.
    n_hidden : int
        Files whose name, or whose folder's, begins with a dot.
    n_unnamed : int
        Images that the table of labels does not name.
    """

    unread: list[UnreadImage]
    n_other: int = 0
    n_hidden: int = 0
    n_unnamed: int = 0

    @property
    def n(self) -> int:
        """The number of files."""
        return len(self.unread) + self.n_other + self.n_hidden + self.n_unnamed

    def as_document(self) -> dict[str, object]:
        """Return the counts and the unread images as JSON values."""
        counts = {"n": self.n, "n_unread": len(self.unread)}
        counts |= {name: getattr(self, name) for name in ("n_other", "n_hidden", "n_unnamed")}
        return {**counts, "unread": [image._asdict() for image in self.unread]}

    def words(self) -> str:
        """Return the counts in words, those that are not zero.

        Examples
        --------
        >>> LeftOut([UnreadImage("a.heic", "HEIC", "convert")], n_other=2).words()
        '1 image of a kind that is not read, 2 other files'
        """
        counts = {
            "image{} of a kind that is not read": len(self.unread),
            "image{} that the table does not name": self.n_unnamed,
            "other file{}": self.n_other,
            "hidden file{}": self.n_hidden,
        }
        return ", ".join(f"{n:,} {name.format('' if n == 1 else 's')}" for name, n in counts.items() if n)

    def unread_words(self) -> str:
        """Return the kinds of the unread images, each with an example and what to do; nothing if there are none."""
        kinds = Counter(UnreadKind(image.kind, image.mend) for image in self.unread)
        first = {UnreadKind(image.kind, image.mend): image.file for image in reversed(self.unread)}
        return "; ".join(f"{n:,} {kind.name}, such as {first[kind]} ({kind.mend})" for kind, n in kinds.items())


def find_left_out(root: PathLike, labels: PathLike = "auto") -> LeftOut:
    """Go through the files of a folder or archives once more, and count those that `find_images` leaves out.

    Parameters
    ----------
    root, labels
        As of `fewshot.features.images.listing.find_images`, which has taken them.
    """
    place, table = os.fspath(root), os.fspath(labels)
    if not os.path.isdir(place):
        return _gathered(other_members(archives_of(place)))
    archive, has_images = first_archive(place)
    if archive is not None and not has_images:
        inside, beside = _gathered(other_members(archives_of(place))), _gathered(_others(place, None))
        n_archives = len(archives_of(place))
        return LeftOut(
            [*inside.unread, *beside.unread],
            inside.n_other + beside.n_other - n_archives,
            inside.n_hidden + beside.n_hidden,
        )
    named = {record.id for record in walk_csv(place, table)} if table.lower().endswith(".csv") else None
    return _gathered(_others(place, named))


def warn_of_left_out(root: PathLike, labels: PathLike = "auto") -> None:
    """Warn of images of kinds that are not read, if there are some."""
    words = find_left_out(root, labels).unread_words()
    if words:
        warnings.warn(f"{os.fspath(root)}: images of kinds that are not read are left out: {words}", stacklevel=3)


# A file that is left out: its path, and its kind, or "other", "hidden", "unnamed".
_Found = tuple[str, UnreadKind | str]


def _gathered(found: Iterable[_Found]) -> LeftOut:
    unread, counts = [], Counter[str]()
    for path, kind in found:
        if isinstance(kind, str):
            counts[kind] += 1
        else:
            unread.append(UnreadImage(path, kind.name, kind.mend))
    return LeftOut(sorted(unread), counts["other"], counts["hidden"], counts["unnamed"])


def _others(root: str, named: set[str] | None) -> Iterator[_Found]:
    for folder, _, names in os.walk(root, followlinks=True):
        inside = os.path.relpath(folder, root)
        is_hidden = any(part.startswith(".") for part in inside.split(os.sep) if part != ".")
        for name in names:
            path = name if inside == "." else f"{inside}/{name}".replace(os.sep, "/")
            kind = "hidden" if is_hidden or name.startswith(".") else _kind(os.path.join(folder, name), path, named)
            if kind is not None:
                yield path, kind


def _kind(file: str, path: str, named: set[str] | None) -> UnreadKind | str | None:
    """Return why a visible file is left out; None if it is listed."""
    if named is not None and path in named:
        return None
    if is_image_file(file):
        return None if named is None else "unnamed"
    return unread_kind(path, read_head(file)) or "other"
