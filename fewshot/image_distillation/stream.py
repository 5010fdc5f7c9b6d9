"""`ImageStream`: batches of views of a folder's images, decoded and drawn by worker processes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from fewshot.checks import check_non_negative, check_positive
from fewshot.distillation.stream import ImageOrder, ViewBatch
from fewshot.distillation.views.crops import require_operations
from fewshot.distillation.views.multi_crop import DrawnViews, ViewSettings, draw_views, finish_views, join_views
from fewshot.features.backbones.torchvision_gate import require_torchvision
from fewshot.features.extraction.batches import worker_init
from fewshot.features.images.decode import decode
from fewshot.features.images.listing import ImageList, Images, list_images, read_bytes
from fewshot.features.images.unreadable import UnreadableImage

__all__ = ["ImageStream", "default_n_workers"]

_WHAT = "distillation from images"
_PART_SIZE = 32
_N_BATCHES_AHEAD = 2
_MOST_WORKERS = 16


def default_n_workers() -> int:
    """Return the cores but one of each process that torchrun started on this machine, at most 16."""
    n_cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(_MOST_WORKERS, max(0, n_cores - 1))


class ImageStream:
    """Batches of views of a folder's images, shuffled anew each epoch, without end.

    Parameters
    ----------
    images
        A folder or tar archives, as `fewshot.features.images.listing.find_images` takes them (labels are not read), or
        a list of files, or an `ImageList`.
    settings : ViewSettings
    batch_size : int
        Images a step **of each process**.
    seed : int
        Not negative: decides the order of the images and their views.
    n_workers : int
        Processes that decode images and draw views, for as long as an iteration lasts; 0: this one does. They work
        ahead, two batches or more, in shared memory: about 1 MB an image with views of 224 and 96 pixels.
    rank, world_size : int
        Which of how many processes this is. Together they see what one process with ``batch_size * world_size``
        would see.
    device
        Where the batches are to be.

    Attributes
    ----------
    n_images, steps_per_epoch : int
        The last images of an epoch, too few for a batch, are left out.
    failures : dict
        The images met so far that could not be read: id to reason.
    seconds_waiting : float
        Spent so far waiting for views, including the start of the workers.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images, or fewer than a batch of all processes; if a number is out of range.
    ImportError
        If torchvision is not installed, or timm where views are strong.

    Notes
    -----
    A `fewshot.distillation.stream.Stream`: ``stream(step)`` gives the batches from a step on. The images of a batch
    are a function of (seed, step), the views of an image one of (seed, epoch, image): neither the number of
    processes changes them, nor that of workers, nor where an iteration starts.

    An image that cannot be read is replaced by the one in its place in the epoch's next batch, or the next readable
    one after that. A batch of which more than half had to be replaced is an error, raised in iterating.

    CMD's released code does not shuffle, so that its batches hold images of one or two classes.

    Examples
    --------
    >>> from fewshot.distillation.views.multi_crop import mugs_views
    >>> stream = ImageStream("photos", mugs_views(), batch_size=64, seed=0)  # doctest: +SKIP
    >>> batches = stream(0)  # doctest: +SKIP
    >>> next(batches).teacher.shape  # doctest: +SKIP
    torch.Size([2, 64, 3, 224, 224])
    """

    def __init__(
        self,
        images: Images | ImageList,
        settings: ViewSettings,
        *,
        batch_size: int,
        seed: int,
        n_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        check_positive("batch_size", batch_size)
        check_non_negative("seed", seed)
        check_non_negative("n_workers", n_workers)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got rank {rank} of {world_size}")
        listed = list_images(images)
        self.n_images = len(listed.records)
        self.steps_per_epoch = self.n_images // (batch_size * world_size)
        if self.steps_per_epoch == 0:
            raise ValueError(_too_few(self.n_images, batch_size, world_size))
        _prepare(settings)
        self.failures: dict[str, str] = {}
        self.seconds_waiting = 0.0
        self._device, self._n_workers, self._batch_size = torch.device(device), n_workers, batch_size
        self._settings = settings
        self._order = ImageOrder(self.n_images, batch_size * world_size, seed)
        self._parts = _Parts(listed, settings, self._order, _cuts(rank * batch_size, batch_size, n_workers))

    def __call__(self, step: int = 0) -> Iterator[ViewBatch]:
        """Return the batches from a step on, without end; closing the iterator ends its workers.

        Raises
        ------
        ValueError
            If the step is negative; in iterating, if more than half of a batch cannot be read.
        """
        check_non_negative("step", step)
        return self._batches(step)

    def _batches(self, step: int) -> Iterator[ViewBatch]:
        parts = iter(self._loader(step))
        while True:
            yield self._finished([self._next(parts) for _ in range(self._parts.n_parts)])

    def _loader(self, step: int) -> DataLoader[_Part]:
        n_ahead = -(-_N_BATCHES_AHEAD * self._parts.n_parts // max(self._n_workers, 1))
        return DataLoader(
            self._parts,
            batch_size=None,
            sampler=_Places(step, self._parts.n_parts),
            num_workers=self._n_workers,
            generator=torch.Generator(),  # else one draw of the global one
            worker_init_fn=partial(_init_worker, worker_init(self._device), self._settings),
            pin_memory=self._device.type == "cuda",
            prefetch_factor=max(2, n_ahead) if self._n_workers else None,
        )

    def _next(self, parts: Iterator[_Part]) -> _Part:
        start = time.perf_counter()
        part = next(parts)
        self.seconds_waiting += time.perf_counter() - start
        return part

    def _finished(self, parts: list[_Part]) -> ViewBatch:
        """Check a batch, and bring it to its device."""
        failures = {name: text for part in parts for name, text in part.failures.items()}
        self.failures |= failures
        drawn = [part.drawn for part in parts if part.drawn is not None]
        n_replaced = sum(part.n_replaced for part in parts)
        if len(drawn) < len(parts) or n_replaced > self._batch_size / 2:
            name, text = next(iter(failures.items()))
            raise ValueError(
                f"{n_replaced} of the {self._batch_size} images of a batch cannot be read, such as {name} ({text}): "
                "remove or repair them"
            )
        return _joined([finish_views(views.to(self._device), self._settings) for views in drawn])


class _Part(NamedTuple):
    """Views of a part of a batch, none if too many images cannot be read; and how many were replaced."""

    drawn: DrawnViews | None
    failures: dict[str, str]
    n_replaced: int


class _Places:
    """The parts of batches in the order in which they are needed, without end."""

    def __init__(self, step: int, n_parts: int) -> None:
        self._step, self._n_parts = step, n_parts

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((step, part) for step in itertools.count(self._step) for part in range(self._n_parts))


class _Parts(Dataset[_Part]):
    """Parts of batches, by step and number: the unit of decoding and drawing."""

    def __init__(self, listed: ImageList, settings: ViewSettings, order: ImageOrder, cuts: list[range]) -> None:
        self._listed, self._settings, self._order, self._cuts = listed, settings, order, cuts

    @property
    def n_parts(self) -> int:
        return len(self._cuts)

    def __getitem__(self, place: tuple[int, int]) -> _Part:
        step, number = place
        epoch, start = self._order.place(step)
        failures: dict[str, str] = {}
        drawn = [self._drawn(epoch, start + row, failures) for row in self._cuts[number]]
        wanted = [self._order.permutation(epoch)[start + row] for row in self._cuts[number]]
        n_replaced = sum(self._listed.records[image].id in failures for image in wanted)
        views = [one for one in drawn if one is not None]
        return _Part(join_views(views) if len(views) == len(drawn) else None, failures, n_replaced)

    def _drawn(self, epoch: int, position: int, failures: dict[str, str]) -> DrawnViews | None:
        """Return the views of the image at a position, or of its substitute; None if none can be read."""
        for candidate in self._order.candidates(epoch, position):
            record = self._listed.records[candidate]
            try:
                image = decode(read_bytes(self._listed.root, record)).image
            except UnreadableImage as error:
                failures[record.id] = str(error)
            else:
                return draw_views(image, self._settings, seed=self._order.view_seed(epoch, position))
        return None


def _too_few(n_images: int, batch_size: int, world_size: int) -> str:
    processes = f" on each of {world_size} processes" if world_size > 1 else ""
    text = f"{n_images} images are fewer than a batch of {batch_size}{processes}: "
    largest = n_images // world_size
    return text + (f"lower batch_size to at most {largest}" if largest else "add images, or use fewer processes")


def _cuts(first: int, n_rows: int, n_workers: int) -> list[range]:
    """Cut a process's rows of the joint batch into parts for the workers: in one piece without workers."""
    n_parts = -(-n_rows // _PART_SIZE) if n_workers else 1
    size = -(-n_rows // n_parts)
    return [range(start, min(start + size, first + n_rows)) for start in range(first, first + n_rows, size)]


def _joined(batches: list[ViewBatch]) -> ViewBatch:
    """Return the parts of a batch as one."""
    if len(batches) == 1:
        return batches[0]
    teacher = torch.cat([batch.teacher for batch in batches], 1)
    is_same = batches[0].student is batches[0].teacher
    local = [batch.local for batch in batches if batch.local is not None]
    return ViewBatch(
        teacher,
        teacher if is_same else torch.cat([batch.student for batch in batches], 1),
        torch.cat(local, 1) if local else None,
        torch.cat([batch.is_weak for batch in batches]),
    )


def _prepare(settings: ViewSettings) -> None:
    """Import the modules that draw views: here, once, and not in each worker."""
    require_torchvision(_WHAT)
    require_operations(settings)


def _init_worker(init: Callable[[int], None], settings: ViewSettings, worker: int) -> None:
    init(worker)
    _prepare(settings)
