"""Tensors and metadata to disk and back: safetensors, atomic, versioned, never pickle.

A file holds its tensors and, under the one metadata key ``fewshot``, a line of JSON: its kind ("features", a method's
name, ...), the format version and the writer's metadata. One key, since safetensors stores several in random order:
equal contents give equal bytes.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "DiskFullError",
    "check_free",
    "is_left_over",
    "load_tensors",
    "process_mark",
    "replacing",
    "save_tensors",
    "space_error",
    "write_text_atomic",
]

FORMAT_VERSION = 1
_HEADER = "fewshot"


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], *, kind: str, metadata: Mapping[str, object]
) -> None:
    """Write tensors and metadata to one safetensors file, whole or not at all.

    Parameters
    ----------
    path
        The file to write; an existing one is replaced and keeps its permissions.
    tensors
        Dense tensors of any shape, dtype and device, no two of them sharing memory.
    kind
        Kind of contents; `load_tensors` must ask for the same.
    metadata
        JSON values. Tuples come back as lists.

    Raises
    ------
    TypeError
        If ``metadata`` has no JSON form.
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tensors(f"{folder}/a.safetensors", {"x": torch.arange(3)}, kind="demo", metadata={"n_way": 5})
    ...     load_tensors(f"{folder}/a.safetensors", kind="demo")
    ({'x': tensor([0, 1, 2])}, {'n_way': 5})
    """
    header = json.dumps({"kind": kind, "format_version": FORMAT_VERSION, "metadata": dict(metadata)})
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(Path(path)) as temporary:
        save_file(contents, temporary, metadata={_HEADER: header})


def load_tensors(path: str | os.PathLike[str], *, kind: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read tensors and metadata from a file of `save_tensors`.

    Parameters
    ----------
    path
        The file.
    kind
        The kind that it was saved as.

    Returns
    -------
    tensors
        By name, on the CPU.
    metadata
        As given to `save_tensors`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not safetensors, not written by fewshot, of another kind, or of another format version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _read_header(f"{path}", file.metadata() or {}, kind)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got something else or a part of one ({error})"
        ) from error


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    r"""Write a text file (UTF-8, line ends as they are), whole or not at all.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text_atomic(f"{folder}/trace.csv", "step,loss\n")
    ...     Path(folder, "trace.csv").read_text()
    'step,loss\n'
    """
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _read_header(path: str, stored: Mapping[str, str], kind: str) -> dict[str, object]:
    """Return the metadata of a header, checked to be of ``kind`` and of this format version."""
    if _HEADER not in stored:
        raise ValueError(f"{path}: expected {kind!r} saved by fewshot, got another program's safetensors file")
    header = json.loads(stored[_HEADER])
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION}, got {header['format_version']}: "
            "upgrade fewshot to read it"
        )
    if header["kind"] != kind:
        raise ValueError(f"{path}: expected {kind!r}, got {header['kind']!r}: pass a file saved as {kind!r}")
    return dict(header["metadata"])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that replaces it once written to disk, or is removed on failure.

    A link is followed. What killed writers of the same file left beside it is removed.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If ``path`` is a device or a pipe.
    DiskFullError
        If the disk is full: which, and how much of it is free.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}: create it before writing {path.name}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device or a pipe: name a file")
    _remove_left_over(path)
    temporary = path.with_name(f".{path.name}.{process_mark()}.tmp")
    try:
        mode = _reserve(temporary, like=path)
        yield temporary
        temporary.chmod(mode)
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException as error:
        full = space_error(error, path.parent) if isinstance(error, Exception) else None
        temporary.unlink(missing_ok=True)
        if full is not None:
            raise full from error
        raise
    if os.name != "nt":  # Windows cannot open a folder
        _fsync(path.parent, os.O_RDONLY)


def _remove_left_over(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_left_over(left.name.rsplit(".", 2)[1]):
            left.unlink(missing_ok=True)


def process_mark() -> str:
    """Return a new word for the names of this process's temporary files, which `is_left_over` understands."""
    return f"{_system()}-{os.getpid()}-{secrets.token_hex(2)}"


def is_left_over(mark: str) -> bool:
    """Return whether a `process_mark` is that of a process of this system which is no more.

    Examples
    --------
    >>> is_left_over(process_mark()), is_left_over("another-word")
    (False, False)
    """
    found = re.fullmatch(rf"{_system()}-(\d+)-[0-9a-f]{{4}}", mark)
    return found is not None and not _is_running(int(found[1]))


def _is_running(process: int) -> bool:
    if os.name == "nt":  # a signal there would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _system() -> str:
    """Return a mark of what numbers this process: a machine, or a container on it."""
    namespace = Path("/proc/self/ns/pid")
    known = f"{socket.gethostname()} {namespace.stat().st_ino if namespace.exists() else ''}"
    return hashlib.sha256(known.encode()).hexdigest()[:6]


class DiskFullError(OSError):
    """A disk has no space left for what is to be written."""


def space_error(error: Exception, folder: Path) -> DiskFullError | None:
    """Return an error that says which disk is full and how full, if that is what went wrong with writing to it.

    NumPy and safetensors do not pass the system's error on: theirs are told by their words.
    """
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if not is_full and not re.search(r"No space left|quota exceeded|requested and \d+ written", str(error)):
        return None
    free = shutil.disk_usage(folder).free
    return DiskFullError(
        f"the disk of {folder} is full, or a quota on it is: {_bytes_text(free)} free: free some space, or name a "
        "folder on another disk"
    )


def check_free(folder: Path, n_bytes: int, what: str) -> None:
    """Check that a disk has space for what is to be written to a folder.

    Raises
    ------
    DiskFullError
        If not: how much that needs, and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DiskFullError(
            f"the disk of {folder} has {_bytes_text(free)} free, and the {what} need {_bytes_text(n_bytes)}: free some "
            "space, or name a folder on another disk"
        )


def _bytes_text(n_bytes: float) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> _bytes_text(512), _bytes_text(40_960), _bytes_text(3_200_000_000)
    ('512 bytes', '41.0 kB', '3.2 GB')
    """
    unit, size = "bytes", float(n_bytes)
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        unit, size = larger, size / 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def _reserve(temporary: Path, like: Path) -> int:
    """Create an empty file; return its permissions: those of ``like`` if it exists, otherwise by the umask.

    They must be set again after the write, as safetensors 0.8 makes every file private to its owner.
    """
    temporary.touch(exist_ok=False)
    if like.exists():
        shutil.copymode(like, temporary)
    return stat.S_IMODE(temporary.stat().st_mode)


def _fsync(path: Path, flags: int) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
