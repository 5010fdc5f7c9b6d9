"""The cache of compiled networks: a bounded folder, an entry for each network, runtime, version and precision.

The folder is ``$FEWSHOT_CACHE``, else ``fewshot`` in the user's folder of caches. Nothing in it is needed: a network
that is missing or damaged is compiled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = ["MAX_BYTES", "CacheEntry", "CachedNetwork", "NetworkName", "cache_folder", "clear", "entry", "networks"]

# The networks used longest ago are removed beyond this: some 40 ViT-B, or 200 of the default.
MAX_BYTES = 4 * 2**30
_ABOUT = "about.json"
_WORDS = ("extractor", "runtime", "version", "precision")


class NetworkName(NamedTuple):
    """A network: the extractor's name, for people, and its key, which identifies the numbers."""

    extractor: str
    key: str


class CachedNetwork(NamedTuple):
    """A compiled network of the cache.

    Attributes
    ----------
    folder : Path
    extractor : str
        Its name.
    runtime, version, precision : str
    n_bytes : int
    used : float
        When it was last used, in seconds since 1970.
    """

    folder: Path
    extractor: str
    runtime: str
    version: str
    precision: str
    n_bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The place of a compiled network in the cache, filled or not."""

    path: Path
    extractor: str
    runtime: str
    version: str
    precision: str

    def folder(self) -> Path | None:
        """Return the folder of the compiled network, marked as used; None if it is not there or not whole."""
        known = _read(self.path)
        if known is None or known.n_bytes != _n_bytes(self.path):
            return None
        with suppress(OSError):
            os.utime(self.path / _ABOUT)
        return self.path

    def remove(self) -> None:
        """Remove a damaged network."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Give a scratch folder; what stands in it at the end becomes the entry, if nothing was raised.

        Where the cache cannot be written, the scratch folder is all there is.
        """
        parent = _writable(self.path.parent)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
        try:
            yield scratch
            if parent is not None:
                self._keep(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _keep(self, scratch: Path) -> None:
        about = {name: value for name, value in asdict(self).items() if name != "path"}
        with suppress(OSError):  # a full disk, or another process that was first
            (scratch / _ABOUT).write_text(json.dumps(about | {"n_bytes": _n_bytes(scratch)}), encoding="utf-8")
            self.remove()
            scratch.rename(self.path)
            _shrink(self.path.parent, kept=self.path)


def entry(network: NetworkName, runtime: str, version: str, precision: str) -> CacheEntry:
    """Return the place of a network for a runtime of some version and a precision."""
    words = (network.key, runtime, version, precision, torch.__version__, sys.platform)
    name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]
    return CacheEntry(cache_folder() / name, network.extractor, runtime, version, precision)


def cache_folder() -> Path:
    """Return the folder of the cache."""
    if own := os.environ.get("FEWSHOT_CACHE"):
        return Path(own).expanduser() / "runtimes"
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "fewshot" / "runtimes"


def networks() -> list[CachedNetwork]:
    """Return the compiled networks of the cache, the last used first."""
    folder = cache_folder()
    paths = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    known = [network for network in map(_read, paths) if network is not None]
    return sorted(known, key=lambda network: network.used, reverse=True)


def clear() -> int:
    """Remove the cache; return how many bytes it held."""
    folder = cache_folder()
    n_bytes = sum(_n_bytes(path) for path in folder.iterdir()) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return n_bytes


def _read(path: Path) -> CachedNetwork | None:
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        used = (path / _ABOUT).stat().st_mtime
        extractor, runtime, version, precision = (str(about[name]) for name in _WORDS)
        return CachedNetwork(path, extractor, runtime, version, precision, int(about["n_bytes"]), used)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _n_bytes(path: Path) -> int:
    """Return the bytes of a folder's files, the description apart."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != _ABOUT)


def _writable(folder: Path) -> Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _shrink(folder: Path, kept: Path) -> None:
    """Remove the networks used longest ago beyond `MAX_BYTES`, and scratch folders of processes killed days ago."""
    room = MAX_BYTES
    for network in networks():
        room -= network.n_bytes
        if room < 0 and network.folder != kept:
            shutil.rmtree(network.folder, ignore_errors=True)
    for scratch in folder.glob(".making-*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > 86400:
                shutil.rmtree(scratch, ignore_errors=True)
