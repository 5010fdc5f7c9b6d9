"""What the tests of extraction share: a folder of images, a tiny network, a process that is killed over and over."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fewshot.features.extraction.to_store import ExtractSettings, extract_store
from fewshot.features.families import extractor
from fewshot.features.frozen import Extractor
from fewshot.features.images.preprocess import Preprocess

SIZE = (6, 5)


def tiny_extractor(seed: int = 0, seconds: float = 0.0) -> Extractor:
    """A convolution and a mean, of 7 features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Flatten(2), Mean(seconds))
    return extractor(network, preprocess=Preprocess(size=SIZE), name="tiny")


class Mean(nn.Module):
    """The mean over pixels, as slow as it is told to be."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return maps.mean(-1)


def write_images(folder: Path, sizes: dict[str, int], seed: int = 0) -> Path:
    """Write noise as PNG files, a folder per class."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for number in range(size):
            pixels = generator.integers(0, 256, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """Return every file of a store."""
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def run(images: Path, out: Path, seconds: float, n_workers: int) -> None:
    extract_store(
        tiny_extractor(seconds=seconds), images, out, ExtractSettings(shard_size=4, batch_size=2), n_workers=n_workers
    )


def kill_again_and_again(images: Path, out: Path, n_kills: int, seed: int) -> None:
    """Start the extraction and kill it at a random moment, n_kills times, from one finished store to the next."""
    draw = random.Random(seed)
    n_stores = 0
    run(images, out / "warm", 0, n_workers=0)  # what loads on first use is loaded before the clock runs
    for _ in range(n_kills):
        store, n_workers = out / f"store-{n_stores}", draw.randrange(2)
        child = os.fork()
        if child == 0:
            run(images, store, 0.004, n_workers)
            os._exit(0)
        time.sleep(draw.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        n_stores += not os.WIFSIGNALED(status)
    run(images, out / f"store-{n_stores}", 0, n_workers=0)
    print(n_stores + 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_again_and_again(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
