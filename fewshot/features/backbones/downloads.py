"""Published weights: found on this machine, or fetched once; and their licences."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch

__all__ = [
    "LicenceWarning",
    "fetch_from_hub",
    "fetch_from_url",
    "find_from_hub",
    "find_from_url",
    "unreachable",
    "warn_of_licence",
]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Seconds to wait for a first answer, before the hub's own retries of most of a minute.
_TIMEOUT_S = 5.0
_PERMISSIVE = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "mit")
# How torch.hub says in a file's name how its SHA-256 begins.
_HASH = re.compile(r"-([a-f0-9]{8,})\.")


class LicenceWarning(UserWarning):
    """Weights are under a licence that may not allow every use; silence it with ``warnings.filterwarnings``."""


def warn_of_licence(what: str, licence: str | None) -> None:
    """Warn if weights are not under a licence known to allow any use."""
    if licence not in _PERMISSIVE:
        warnings.warn(
            f"the weights of {what} are under the licence {licence or 'unknown'!r}: check that it allows your use",
            LicenceWarning,
            stacklevel=2,
        )


def find_from_hub(hub_id: str, files: Sequence[str] = _WEIGHTS) -> Path | None:
    """Return the first of some files that the Hugging Face cache has, or None; no network is touched."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = hub_id.partition("@")
    found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def fetch_from_hub(hub_id: str, message: str, files: Sequence[str] = _WEIGHTS) -> Path:
    """Return the first of some files that the Hugging Face cache has, else download the first that the hub has.

    Parameters
    ----------
    hub_id
        ``owner/name``, perhaps with ``@revision``.
    message
        What to say if they are not here and the hub does not answer.
    files
        Names in the repository; those of weights unless said otherwise.

    Raises
    ------
    ConnectionError
        If they are not here, and the hub does not answer within five seconds or has none of them.
    """
    return find_from_hub(hub_id, files) or _download_from_hub(hub_id, message, files)


def find_from_url(url: str) -> Path | None:
    """Return the weights' file in torch.hub's folder, or None; no network is touched."""
    path = _path_of(url)
    return path if path.is_file() else None


def fetch_from_url(url: str, what: str) -> Path:
    """Return the file of an address, downloaded to torch.hub's folder if it is not there.

    Raises
    ------
    ConnectionError
        If it is not here and cannot be downloaded.
    """
    path = _path_of(url)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = _HASH.search(path.name)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest and digest[1], progress=False)
    except OSError as error:
        raise ConnectionError(unreachable(what, url)) from error
    return path


def unreachable(what: str, where: str) -> str:
    """Word the error of published weights that are not available."""
    return (
        f"the weights of {what} are not on this machine and cannot be had from {where}: "
        "download them elsewhere and give their path (weights=PATH), or weights='random'"
    )


def _path_of(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def _download_from_hub(hub_id: str, message: str, files: Sequence[str]) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = hub_id.partition("@")
    for name in files:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision or None), timeout=_TIMEOUT_S)
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except EntryNotFoundError:
            continue
        except Exception as error:  # each version of the hub's client has its own
            raise ConnectionError(message) from error
    raise ConnectionError(f"{hub_id} has no {' or '.join(files)}: download its weights, and give their path")
