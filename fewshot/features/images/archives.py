"""Images inside of tar archives, found by their headers and read by their offsets; nothing is unpacked."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from fewshot.features.images.kinds import HEAD_SIZE, UnreadKind, has_suffix, is_image_head, is_image_name, unread_kind
from fewshot.features.images.records import ImageRecord, checked_utf8

__all__ = ["archives_of", "other_members", "root_of", "walk_tars"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_MEND = "decompress it (gunzip, unxz, unzstd ...), since images are read where they lie"
_BLOCK = 512


class _Member(NamedTuple):
    """A regular file of an archive: the key of its sample, its name, where its bytes are, and its text if a label."""

    key: str
    name: str
    offset: int
    size: int
    label: str | None


def root_of(source: str | os.PathLike[str]) -> str:
    """Return the folder to which ids are relative: the source, or what holds it if it is an archive or a pattern."""
    path = os.fspath(source)
    return path if os.path.isdir(path) else os.path.dirname(path) or "."


def archives_of(source: str | os.PathLike[str]) -> list[str]:
    """Return the paths of a folder's, a pattern's or one tar archive, in the order of their names' bytes.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If one is compressed by its name.
    """
    path, root = os.fspath(source), root_of(source)
    pattern = "*.tar" if os.path.isdir(path) else os.path.basename(path)
    names = os.listdir(root) if os.path.isdir(root) else []
    found = [pattern] if pattern in names else [name for name in names if _is_match(name, pattern)]
    if not found:
        raise FileNotFoundError(
            f"no folder and no archive at {path!r}: name a folder of images or *.tar, an archive or a pattern"
        )
    for name in found:
        if name.lower().endswith(_COMPRESSED):
            raise ValueError(f"{os.path.join(root, name)} is compressed: {_MEND}")
    return [os.path.join(root, checked_utf8(name)) for name in sorted(found)]


def walk_tars(source: str | os.PathLike[str], *, use_labels: bool = True) -> Iterator[ImageRecord]:
    """Yield the images of tar archives, in the order of the archives' names and of the offsets inside.

    Parameters
    ----------
    source
        A folder (its ``*.tar``), one archive, or a pattern (``shards/train-*.tar``; wildcards in the last part only).
    use_labels
        Whether to read the ``.cls`` members.

    Yields
    ------
    ImageRecord
        ``id`` is ``archive.tar/member``; offset and size are those of the encoded image. As in WebDataset, members of
        one archive whose names agree up to the first dot are one sample, and the text of its ``.cls`` is the label,
        wherever in the archive it is. Hidden members (and those of hidden folders) are left out.

    Raises
    ------
    FileNotFoundError
        If there is no archive.
    ValueError
        If an archive is compressed, damaged or cut off; if a member is a link or a device, a sparse file, or has a name
        that is absolute, has ``..`` in it or is not UTF-8; or if some images have a label and others do not.

    Notes
    -----
    The headers of an archive are read twice where labels are used. The labels of one archive are held in memory.
    """
    n_labels: int | None = None
    for path in archives_of(source):
        labels = _labels_of(path) if use_labels else {}
        for member in _members(path, is_label_name=False):
            label = labels.get(member.key)
            n_labels = int(label is not None) if n_labels is None else n_labels
            _check_labels(path, member.key, int(label is not None), n_labels)
            yield ImageRecord(f"{os.path.basename(path)}/{member.name}", label, member.offset, member.size)
        if labels and not n_labels:
            _check_labels(path, next(iter(labels)), 1, 0)


def _check_labels(path: str, key: str, n_own: int, n_others: int) -> None:
    if n_own != n_others:
        raise ValueError(
            f"{path}: sample {key!r} has {n_own} .cls, where others have {n_others}: give every image one .cls member "
            "of its name, or none"
        )


def _labels_of(path: str) -> dict[str, str]:
    """Read the text of each sample's ``.cls`` member."""
    labels: dict[str, str] = {}
    for member in _members(path, is_label_name=True):
        assert member.label is not None
        _check_labels(path, member.key, 1 + (member.key in labels), 1)
        labels[member.key] = sys.intern(member.label)
    return labels


def _is_match(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and not name.startswith(".")


def _members(path: str, *, is_label_name: bool) -> Iterator[_Member]:
    """Yield the labels or the images of an archive, in its order."""
    for archive, info in _headers(path):
        parts = _visible_parts(path, info)
        if not parts or _is_label(parts) != is_label_name:
            continue
        if is_label_name or _is_image(archive, info, parts[-1]):
            yield _member(path, archive, info, parts)


def _headers(path: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the headers of an archive; those read are forgotten."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                yield archive, info
            _check_end(path, archive.offset)
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not an uncompressed tar archive, or is cut off ({error}): {_MEND}") from error


def _is_image(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> bool:
    return is_image_name(name) or (not has_suffix(name) and is_image_head(_head(archive, info)))


def _head(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return b"" if file is None else file.read(HEAD_SIZE)


def other_members(paths: Iterable[str]) -> Iterator[tuple[str, UnreadKind | str]]:
    """Yield the members of archives that are neither images nor labels: the id, and the kind, "hidden" or "other"."""
    for path in paths:
        for archive, info in _headers(path):
            if info.isdir():
                continue
            name = "/".join(PurePosixPath(info.name).parts)
            parts = _visible_parts(path, info)
            if not parts:
                yield f"{os.path.basename(path)}/{name}", "hidden"
            elif not _is_label(parts) and not _is_image(archive, info, parts[-1]):
                yield f"{os.path.basename(path)}/{name}", unread_kind(name, _head(archive, info)) or "other"


def _visible_parts(path: str, info: tarfile.TarInfo) -> tuple[str, ...]:
    """Return the parts of a plain file's name; nothing for folders and what is hidden."""
    parts = PurePosixPath(checked_utf8(info.name)).parts
    if ".." in parts or info.name.startswith("/"):
        raise ValueError(f"{path}: member {info.name!r} leads out of the archive: rename it")
    if info.isdir() or any(part.startswith(".") for part in parts):
        return ()
    if not info.isreg() or info.issparse():
        raise ValueError(f"{path}: member {info.name!r} is a link, a device or a sparse file: archive plain files only")
    return parts


def _is_label(parts: tuple[str, ...]) -> bool:
    return parts[-1].lower().endswith(".cls")


def _member(path: str, archive: tarfile.TarFile, info: tarfile.TarInfo, parts: tuple[str, ...]) -> _Member:
    name = "/".join(parts)
    key = name.removesuffix(parts[-1]) + parts[-1].partition(".")[0]
    return _Member(key, name, info.offset_data, info.size, _label(path, archive, info) if _is_label(parts) else None)


def _label(path: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> str:
    file = archive.extractfile(info)
    assert file is not None
    text = file.read(_BLOCK)
    try:
        label = text.decode().strip()
    except UnicodeDecodeError:
        label = ""
    if not label or info.size > _BLOCK:
        raise ValueError(f"{path}: member {info.name!r} must hold a class as text, got {text[:20]!r}")
    return label


def _check_end(path: str, offset: int) -> None:
    """Refuse a tar that stops without a block of zeros: tarfile takes damaged and missing headers for the end."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(f"{path} has no end mark at byte {offset}: it was cut off or is damaged; make it again")
