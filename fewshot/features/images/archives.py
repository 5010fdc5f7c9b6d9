"""Images inside of tar archives, found by their headers and read by their offsets; nothing is unpacked."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import NamedTuple

from fewshot.features.images.records import ImageRecord, checked_utf8, is_image_name

__all__ = ["archives_of", "root_of", "walk_tars"]

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
        ``id`` is ``archive.tar/member``; offset and size are those of the encoded image. As in WebDataset, neighbours
        whose names agree up to the first dot are one sample, and the text of its ``.cls`` is the label. Hidden members
        (and those of hidden folders) are left out.

    Raises
    ------
    FileNotFoundError
        If there is no archive.
    ValueError
        If an archive is compressed, damaged or cut off; if a member is a link or a device, a sparse file, or has a name
        that is absolute, has ``..`` in it or is not UTF-8; or if some images have a label and others do not.
    """
    is_labelled: bool | None = None
    for path in archives_of(source):
        for _, neighbours in itertools.groupby(_members(path), key=lambda member: member.key):
            sample = list(neighbours)
            labels = [member.label for member in sample if member.label is not None and use_labels]
            is_labelled = bool(labels) if is_labelled is None else is_labelled
            if bool(labels) != is_labelled or len(labels) > 1:
                raise ValueError(
                    f"{path}: sample {sample[0].key!r} has {len(labels)} .cls, where others have {int(is_labelled)}: "
                    "give every image one .cls member beside it, or none"
                )
            for member in sample:
                if member.label is None:
                    name = f"{os.path.basename(path)}/{member.name}"
                    yield ImageRecord(name, labels[0] if labels else None, member.offset, member.size)


def _is_match(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and not name.startswith(".")


def _members(path: str) -> Iterator[_Member]:
    """Yield images and labels of an archive, in its order; headers read are forgotten."""
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                member = _member(path, archive, info)
                if member is not None:
                    yield member
            _check_end(path, archive.offset)
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not an uncompressed tar archive, or is cut off ({error}): {_MEND}") from error


def _member(path: str, archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member | None:
    """Return an image or a label; None for folders, hidden and other files."""
    parts = PurePosixPath(checked_utf8(info.name)).parts
    if ".." in parts or info.name.startswith("/"):
        raise ValueError(f"{path}: member {info.name!r} leads out of the archive: rename it")
    if info.isdir() or any(part.startswith(".") for part in parts):
        return None
    if not info.isreg() or info.issparse():
        raise ValueError(f"{path}: member {info.name!r} is a link, a device or a sparse file: archive plain files only")
    name = "/".join(parts)
    key, is_label = name.removesuffix(parts[-1]) + parts[-1].partition(".")[0], parts[-1].endswith(".cls")
    if not is_label and not is_image_name(name):
        return None
    return _Member(key, name, info.offset_data, info.size, _label(path, archive, info) if is_label else None)


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
