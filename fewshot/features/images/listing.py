"""Which images there are, in an order that no machine's locale changes: by the bytes of their names."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from fewshot.checks import SettingError
from fewshot.features.images.archives import archives_of, root_of, walk_tars
from fewshot.features.images.kinds import IMAGE_SUFFIXES, is_image_file
from fewshot.features.images.records import ImageRecord, checked_utf8
from fewshot.features.images.unreadable import UnreadableImage, reading
from fewshot.features.text_files import table_lines

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageList",
    "ImageRecord",
    "Images",
    "find_images",
    "first_archive",
    "list_images",
    "read_bytes",
    "walk_csv",
    "walk_folder",
    "walk_tars",
]

PathLike: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = "PathLike | Sequence[PathLike]"
_FILE_COLUMNS = ("file", "image", "path", "filename")
_LABEL_COLUMNS = ("label", "class", "class_name")
_N_NAMED = 3


def find_images(root: PathLike, labels: PathLike = "auto") -> Iterator[ImageRecord]:
    """List the images of a folder or of tar archives.

    Parameters
    ----------
    root
        A folder; or tar archives: a folder that has ``*.tar`` directly inside, one archive, or a pattern such as
        ``shards/train-*.tar``.
    labels
        - ``auto``: ``folder`` if no image lies directly in ``root``, else ``none``. Archives: the ``.cls`` members, if
          there are any.
        - ``folder``: an image's class is the folder directly inside of ``root`` that it is in.
        - ``none``: unlabelled.
        - a CSV file: the images that it names and their classes; see `walk_csv`.

    Returns
    -------
    iterator of ImageRecord
        In one order everywhere: by the bytes of the id, or as `walk_tars` has it. Memory does not grow with the number
        of images, but for the entries of one folder and the rows of a CSV file.

    Raises
    ------
    FileNotFoundError
        If ``root`` is not there, or files of a CSV are not.
    ValueError
        If there is no image; if ``labels`` does not fit, or leaves open whether a folder's images or its archives are
        meant; and as the walk that is chosen.
    """
    records = _walk(os.fspath(root), os.fspath(labels))
    first = next(records, None)
    if first is None:
        raise ValueError(f"no image under {os.fspath(root)!r}: looked for *.tar and {', '.join(IMAGE_SUFFIXES)}")
    return itertools.chain([first], records)


class ImageList(NamedTuple):
    """Images in memory, and the folder that their ids are relative to."""

    root: str
    records: list[ImageRecord]


def list_images(images: Images | ImageList, labels: PathLike = "none") -> ImageList:
    """List images in memory.

    Parameters
    ----------
    images
        A folder or tar archives, as `find_images` takes them, a list of files, or what this function returned.
    labels
        Of a folder or archives, see `find_images`; files of a list are unlabelled.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images.
    """
    if isinstance(images, ImageList):
        return images
    if isinstance(images, (str, os.PathLike)):
        return ImageList(os.fspath(images), list(find_images(images, labels)))
    if not images:
        raise ValueError("no images: the list of files is empty")
    return ImageList("", [ImageRecord(os.fspath(path)) for path in images])


def _walk(root: str, labels: str) -> Iterator[ImageRecord]:
    is_table = labels.lower().endswith(".csv")
    if labels not in ("auto", "folder", "none") and not is_table:
        raise SettingError("{labels} must be 'auto', 'folder', 'none' or a .csv file, got {0!r}", labels)
    if not os.path.isdir(root):
        return _walk_archives(root, labels)
    if is_table:
        return walk_csv(root, labels)
    if labels != "folder" and _has_archives(root):
        return _walk_archives(root, labels)
    is_labelled = labels == "folder" or (
        labels == "auto" and not any(is_image_file(_path(root, name)) for name in _visible(root))
    )
    return walk_folder(root, labelled=is_labelled)


def _walk_archives(root: str, labels: str) -> Iterator[ImageRecord]:
    if archives_of(root) and labels not in ("auto", "none"):
        raise SettingError("archives have labels in .cls members: {labels} must be 'auto' or 'none', got {0!r}", labels)
    return walk_tars(root, use_labels=labels == "auto")


def _has_archives(root: str) -> bool:
    archive, has_images = first_archive(root)
    if archive is not None and has_images:
        raise SettingError(
            "{0} has images and archives ({1}): name the archives by a pattern ({2}), move them out, or say "
            "{labels} folder for images in folders of classes",
            *(root, archive, os.path.join(root, "*.tar")),
        )
    return archive is not None


def first_archive(root: PathLike) -> tuple[str | None, bool]:
    """Return the name of an archive directly in a folder, if there is one, and then whether there are images too."""
    archive = next((name for name in sorted(_visible(os.fspath(root))) if name.endswith(".tar")), None)
    return archive, archive is not None and next(walk_folder(root, labelled=False), None) is not None


def _visible(root: str) -> list[str]:
    return [name for name in os.listdir(root) if not name.startswith(".")]


def walk_folder(root: PathLike, labelled: bool) -> Iterator[ImageRecord]:
    """Yield the images of a folder tree, by their suffix, in the order of the bytes of their relative paths.

    Parameters
    ----------
    root
        The folder. Hidden files and folders inside are left out. Links are followed; one that leads nowhere is listed.
    labelled
        Whether the first part of the path is the label.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If a link leads to a folder that it is in, a name is not UTF-8, or a labelled image is in no class's folder.
    """
    for name in _files_below(os.fspath(root), "", ()):
        label, inside, _ = name.partition("/")
        if labelled and not inside:
            raise ValueError(
                f"image {name!r} lies directly in {os.fspath(root)!r}, where each class has a folder: "
                "move it into one, or take the images as unlabelled"
            )
        yield ImageRecord(name, label if labelled else None)


def _files_below(root: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the relative paths of images, depth first; ``above`` holds the folders that lead here."""
    folder = os.path.join(root, prefix)
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise ValueError(f"{folder.rstrip('/')} is a link to a folder that it is in: remove it")
    for name in _entries(folder):
        path = prefix + checked_utf8(name)
        if name.endswith("/"):
            yield from _files_below(root, path, (*above, here))
        else:
            yield path


def _entries(folder: str) -> list[str]:
    """Return the images and, ending in "/", the folders of one folder, in the order of their bytes."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in visible if _is_listed(entry)]
    return sorted(names)  # by code point, which is the order of the bytes of UTF-8


def _is_listed(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir():
        return True
    is_broken_link = entry.is_symlink() and not os.path.exists(entry.path)
    return is_image_file(entry.path) and (entry.is_file() or is_broken_link)


def walk_csv(root: PathLike, csv_path: PathLike) -> Iterator[ImageRecord]:
    """Return the images that a table names, in the order of the bytes of their paths.

    Parameters
    ----------
    root
        Folder to which the paths are relative.
    csv_path
        Text as `fewshot.features.text_files.read_text` reads it, with a header: a column ``file``, ``image``, ``path``
        or ``filename``, and one ``label``, ``class`` or ``class_name``. Suffixes do not matter. The table is held
        in memory.

    Raises
    ------
    FileNotFoundError
        If files are not there: how many, and the first three.
    ValueError
        If the header has not one column of each, or a row has no path or label, a path that leads out of ``root``, or
        one that was named before.
    """
    records = sorted(_rows(os.fspath(csv_path)))
    for one, other in itertools.pairwise(records):
        if one.id == other.id:
            raise ValueError(f"{os.fspath(csv_path)} names {one.id!r} more than once: keep one row")
    missing = [record.id for record in records if not os.path.isfile(_path(root, record.id))]
    if missing:
        named = ", ".join(map(repr, missing[:_N_NAMED])) + (", ..." if len(missing) > _N_NAMED else "")
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} files in {os.fspath(csv_path)} are not in {os.fspath(root)!r}: {named}"
        )
    return iter(records)


def _rows(csv_path: str) -> Iterator[ImageRecord]:
    lines = iter(table_lines(csv_path))
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    file_column = _column(csv_path, header, _FILE_COLUMNS)
    label_column = _column(csv_path, header, _LABEL_COLUMNS)
    for number, row in lines:
        where = f"{csv_path}, line {number}"
        if len(row) != len(header) or not row[file_column] or not row[label_column].strip():
            raise ValueError(f"{where}: expected {len(header)} values with a file and a label, got {row}")
        yield ImageRecord(_relative(where, row[file_column]), row[label_column].strip())


def _column(csv_path: str, header: list[str], known: tuple[str, ...]) -> int:
    found = [position for position, name in enumerate(header) if name in known]
    if len(found) != 1:
        raise ValueError(f"{csv_path} must have a header with one column of {', '.join(known)}, got {header}")
    return found[0]


def _relative(where: str, path: str) -> str:
    name = posixpath.normpath(path)
    if os.path.isabs(name) or name.split("/")[0] == "..":
        raise ValueError(f"{where}: {path!r} must be a path inside of the images' folder, relative to it")
    return name


def read_bytes(root: PathLike, record: ImageRecord) -> bytes:
    """Return the encoded image of a record; ``root`` is what `find_images` was given.

    Raises
    ------
    UnreadableImage
        ``missing``, ``permission``, ``empty`` or ``unreadable`` as the file system answers; ``truncated`` if an archive
        has become shorter.
    """
    if record.offset < 0:
        with reading(_path(root, record.id)) as file:
            return file.read()
    archive, _, _ = record.id.partition("/")
    with reading(os.path.join(root_of(root), archive)) as file:
        file.seek(record.offset)
        encoded = file.read(record.size)
    if len(encoded) < record.size:
        raise UnreadableImage("truncated", f"{archive} ends before byte {record.offset + record.size}: was it changed?")
    return encoded


def _path(root: PathLike, name: str) -> str:
    return os.path.join(root, name)
