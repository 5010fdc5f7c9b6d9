"""Extraction against its network and its decoding alone, its memory, and the store's writing speed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fewshot.features import ExtractSettings, extract_store, extractor
from fewshot.features.frozen import Extractor
from fewshot.features.images.decode import decode
from fewshot.features.images.listing import ImageRecord
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.store.layout import StoreSettings
from fewshot.features.store.writing import create_store, write_shard
from tests.benchmarks.row import Row

__all__ = ["rows"]

_BATCH_SIZE = 32
_N_TURNS = 3
_MEMORY = """
import resource, sys
from pathlib import Path
from tests.kits.extraction import *
torch.set_num_threads(1)
images, out = Path(sys.argv[1]), Path(sys.argv[2])
extract_store(tiny_extractor(), images, out, ExtractSettings(shard_size=1000, batch_size=100), n_workers=1)
with open("/proc/self/status") as file:
    print(int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024)
"""


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_speed(Path(folder), device, progress),
            *_memory(Path(folder), progress),
            _write(Path(folder), progress),
        ]


def _speed(folder: Path, device: str, progress: Callable[[str], None]) -> list[Row]:
    progress("extraction")
    n_images = 16 * _BATCH_SIZE if device == "cpu" else 400 * _BATCH_SIZE
    images = _write_photographs(folder / "photographs", n_images)
    decoding = _decoding_rate(images)
    where = f"{device}, {torch.get_num_threads()} threads"
    found = [Row(f"decoding of 500 x 375 alone ({where})", f"{decoding:.0f} images/s", "", None)]
    for name in ("efficientnet_lite0", "timm:vit_small_patch16_224", "timm:resnet50"):
        eager, made = (extractor(name, weights="random", device=device, runtime=kind) for kind in ("eager", "auto"))
        made.expect(n_images)
        rates, alone, plain = list[float](), list[float](), list[float]()
        for turn in range(_N_TURNS):
            out = folder / f"{name.replace(':', '-')}-{turn}"
            run = extract_store(made, images, out, ExtractSettings(batch_size=_BATCH_SIZE), n_workers=1).run
            rates.append(run.n_done / run.seconds)
            alone.append(_bare_rate(made, n_images))
            plain.append(_bare_rate(eager, n_images))
        rate, network = median(rates), median(alone)
        share = rate / min(network, decoding)
        words = f"{rate:.0f} images/s, {share:.2f} of the slower of network ({network:.0f}) and decoding alone"
        ratio = rate / median(plain)
        found += [
            Row(f"{name} by {made.runtime}, 500 x 375 to a store ({where}, 1 worker)", words, "≥ 0.85", share >= 0.85),
            Row("the same, against the network alone by eager torch", f"{ratio:.1f}×", "", None),
        ]
    return found


def _decoding_rate(folder: Path) -> float:
    """Return images per second of decoding and resizing alone, in as many processes as torch has threads."""
    files = sorted(folder.iterdir())
    with ProcessPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(_decoded, files[:8]))
        start = time.perf_counter()
        list(pool.map(_decoded, files, chunksize=16))
        return len(files) / (time.perf_counter() - start)


def _decoded(path: Path) -> int:
    return len(Preprocess().apply(decode(path).image))


def _bare_rate(made: Extractor, n_images: int) -> float:
    """Return images per second of the network alone, on one batch of decoded images again and again."""
    batch = torch.randint(0, 256, (_BATCH_SIZE, *made.preprocess.size, 3), dtype=torch.uint8)
    made(batch)
    start = time.perf_counter()
    for _ in range(n_images // _BATCH_SIZE):
        features = made(batch).cpu()
    assert len(features) == _BATCH_SIZE
    return n_images / (time.perf_counter() - start)


def _write_photographs(folder: Path, n_images: int) -> Path:
    """Write smooth noise, as hard to decode as a photograph."""
    from PIL import Image

    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n_images):
        coarse = Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def _memory(folder: Path, progress: Callable[[str], None]) -> list[Row]:
    progress("memory of extraction")
    few, many = (_peak(folder, n_images) for n_images in (1_000, 20_000))
    return [
        Row("extraction of 1,000 images, peak of the process", f"{few:,.0f} MiB", "", None),
        Row("the same, 20,000 images", f"{many:,.0f} MiB", "flat", many < 1.05 * few + 8),
    ]


def _peak(folder: Path, n_images: int) -> float:
    """Return the peak memory of an extraction, in MiB."""
    from PIL import Image

    images = folder / f"tiny-{n_images}"
    images.mkdir()
    Image.new("RGB", (9, 8)).save(images / "0.png")
    data = (images / "0.png").read_bytes()
    for number in range(1, n_images):
        (images / f"{number}.png").write_bytes(data)
    words = [sys.executable, "-c", _MEMORY, images, folder / f"store-{n_images}"]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def _write(folder: Path, progress: Callable[[str], None]) -> Row:
    progress("writing")
    n_rows, n_features = 65_536, 1280
    images = (ImageRecord(f"{number:06d}.png", None) for number in range(n_rows))
    settings = StoreSettings(
        extractor={}, extractor_key="", columns={}, n_features=n_features, dtype="float16", shard_size=n_rows,
        images_root="", about={},
    )  # fmt: skip
    store = create_store(folder / "written", images, settings)
    features = np.ones((n_rows, n_features), dtype=np.float16)
    write_shard(store, 0, features, {}, {})  # the first time, most of it goes into memory for the page cache
    start = time.perf_counter()
    write_shard(store, 0, features, {}, {})
    rate = features.nbytes / 1e6 / (time.perf_counter() - start)
    return Row("a shard of 168 MB written, synced, hashed", f"{rate:,.0f} MB/s", "≥ 300", rate >= 300)


if __name__ == "__main__":
    for row in rows(lambda name: print(f"measuring {name} …", file=sys.stderr)):
        print(*row, sep=" | ")
