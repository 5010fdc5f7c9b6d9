"""Images of the rows of a pool: where their files are, and small pictures of them for a report."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewshot.features import FeatureSet
from fewshot.features.images.decode import decode
from fewshot.features.images.listing import read_bytes
from fewshot.features.images.records import ImageRecord
from fewshot.features.images.unreadable import UnreadableImage, guarding_pil
from fewshot.features.store.reading import FeatureStore

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageFiles", "Picture", "image_files", "name_of", "thumbnails"]

# A small picture as a data URI, or None if it could not be read.
Picture = str | None
_DIGITS = "scikit-learn digits, pixels / 16"
_QUALITY = 72
_MAX_WORKERS = 8


@dataclass(frozen=True)
class ImageFiles:
    """The encoded images of a pool, row by row.

    Parameters
    ----------
    root
        What the images were listed from.
    records
        One a row.
    """

    root: str
    records: Sequence[ImageRecord]

    @property
    def ids(self) -> list[str]:
        """The name of each row's image."""
        return [record.id for record in self.records]

    def place(self, row: int, path: Path, *, is_linked: bool) -> bool:
        """Put the image of a row at ``path``, as a link or as a copy; return whether there was one."""
        record = self.records[row]
        source = Path(self.root) / record.id
        try:
            if record.offset >= 0:
                path.write_bytes(read_bytes(self.root, record))
            elif not source.is_file():
                return False
            elif is_linked:
                path.symlink_to(source.resolve())
            else:
                shutil.copy2(source, path)
        except UnreadableImage:
            return False
        return True


def name_of(pool: FeatureSet, row: int) -> str:
    """Return the name of a row's image, or its number."""
    return f"row {row}" if pool.ids is None else pool.ids[row]


def image_files(pool: FeatureSet) -> ImageFiles | None:
    """Return the location of a pool's images, or None if the features do not name it."""
    root, store = pool.source.get("images"), pool.source.get("store")
    if pool.ids is None or not isinstance(root, str):
        return None
    listed = _listed(store) if isinstance(store, str) and os.path.isdir(store) else {}
    return ImageFiles(root, [listed.get(row_id, ImageRecord(row_id)) for row_id in pool.ids])


def _listed(store: str) -> dict[str, ImageRecord]:
    folder = FeatureStore.open(store).folder
    return {image.id: image for shard in range(folder.head.n_shards) for image in folder.images(shard)}


def thumbnails(
    pool: FeatureSet, rows: Sequence[int], *, side: int, progress: Callable[[int], None]
) -> dict[int, Picture] | None:
    """Return thumbnails of some rows, or None if the features do not name their images.

    Parameters
    ----------
    pool
        The bundled digits are drawn from their pixels.
    rows
        Distinct.
    side
        Longest side in pixels.
    progress
        Called with how many are done.

    Raises
    ------
    ImportError
        If pillow is not installed.
    """
    read = _reader(pool, side)
    if read is None:
        return None
    import PIL.Image  # noqa: F401 (what is missing is said once, not for each picture)

    found: dict[int, Picture] = {}
    workers = ThreadPoolExecutor(max_workers=min(_MAX_WORKERS, os.cpu_count() or 1))
    try:
        for row, picture in zip(rows, workers.map(read, rows), strict=True):
            found[row] = picture
            progress(len(found))
    finally:
        workers.shutdown(cancel_futures=True)  # an interrupt does not wait for those that have not begun
    return found


def _reader(pool: FeatureSet, side: int) -> Callable[[int], Picture] | None:
    """Return the function that makes the thumbnail of a row."""
    if pool.source.get("extractor") == _DIGITS and pool.features.shape[1] == 64:
        return lambda row: _digit(pool.features[row])
    files = image_files(pool)
    return None if files is None else lambda row: _small(files, row, side)


def _small(files: ImageFiles, row: int, side: int) -> Picture:
    try:
        encoded = read_bytes(files.root, files.records[row])
        image = _reduced(encoded, side) or decode(encoded).image
    except UnreadableImage:
        return None
    image.thumbnail((side, side), reducing_gap=2.0)
    return _uri(image, "JPEG", quality=_QUALITY, optimize=True)


def _reduced(encoded: bytes, side: int) -> Image.Image | None:
    """Decode a JPEG at a fraction of its size, an eighth of the work; None for other kinds and damaged ones."""
    from PIL import Image, ImageOps

    try:
        with guarding_pil():
            image = Image.open(io.BytesIO(encoded), formats=["JPEG"])
            image.draft(image.mode, (2 * side, 2 * side))
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnreadableImage:
        return None


def _digit(pixels: torch.Tensor) -> Picture:
    from PIL import Image

    grey = (255 * (1 - pixels.reshape(8, 8).clamp(0, 1))).round().to(torch.uint8)
    return _uri(Image.fromarray(grey.numpy()).resize((48, 48), Image.Resampling.NEAREST), "PNG", optimize=True)


def _uri(image: Any, kind: str, **options: object) -> str:
    encoded = io.BytesIO()
    image.save(encoded, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"
