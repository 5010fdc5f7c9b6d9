"""Tensors and metadata to disk and back: safetensors, atomic, versioned, never pickle.

A file holds its tensors and, under the one metadata key ``fewshot``, a line of JSON: its kind ("features", a method's
name, ...), the format version and the writer's metadata. One key, since safetensors stores several in random order:
equal contents give equal bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["load_tensors", "replacing", "save_tensors", "write_text_atomic"]

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

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}: create it before writing {path.name}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        mode = _reserve(temporary, like=path)
        yield temporary
        temporary.chmod(mode)
        _fsync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open a folder
        _fsync(path.parent, os.O_RDONLY)


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
