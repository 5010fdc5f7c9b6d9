"""What distillation learns: ``python -m tests.benchmarks.distillation bags``, or ``images --set omniglot --data DIR``.

``bags``: the toy of tests/kits/token_bags.py, k-NN accuracy of the teacher by steps, for each method and seed.

``images``: a small ViT trained without labels on the real images of a set, for some minutes; k-NN accuracy (k = 20, and
k = 1) of its features beside those of raw pixels and of the same network at random, and where the time went. Omniglot:
trained on the 964 background characters, tested on the 659 others, drawers 11 to 20 against 1 to 10. Fashion-MNIST:
trained on the training images, tested on the test images against 10,000 of the former. Digits: trained on all of
scikit-learn's, tested on every third against the others. Views are weak: RandAugment leaves little of a letter.
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot.distillation.cmd import CMD, CMDSettings
from fewshot.distillation.distiller import Distiller
from fewshot.distillation.memory import suggested_capacity
from fewshot.distillation.mugs import Mugs, MugsSettings
from fewshot.distillation.training.loop import fit_distillation
from fewshot.distillation.training.state import StepReport, TrainingSettings
from fewshot.distillation.views.multi_crop import ViewSettings, cmd_views, mugs_views
from fewshot.features.images.pixels import measure_pixels
from fewshot.image_distillation.backbones import build_backbone, image_extractor
from fewshot.image_distillation.stream import ImageStream
from fewshot.probing import neighbour_scores
from tests.kits.token_bags import BagStream, TokenBags, bag_backbone, knn_accuracy

METHODS = ("mugs", "cmd")
FASHION = Path("/usr/share/datasets/fashion-mnist")
_BAG_MUGS = MugsSettings(n_prototypes=128, capacity=1024, hidden=128, n_out=128, predictor_hidden=128)
_BAG_CMD = CMDSettings(n_prototypes=128, hidden=128, bottleneck=128)
_BAG_TRAINING = TrainingSettings(learning_rate=1e-3, n_warmup_steps=20, weight_decay=(0.04, 0.04))


# Bags of tokens


def bags(options: argparse.Namespace) -> None:
    """Print a row for each method and seed."""
    for name in options.methods:
        for seed in range(options.n_seeds):
            pool, backbone = TokenBags.make(seed=seed), bag_backbone(seed)
            method = Mugs(backbone, _BAG_MUGS, seed=seed) if name == "mugs" else CMD(backbone, _BAG_CMD, seed=seed)
            found = [("random", knn_accuracy(method.teacher.backbone, pool))]

            def look(
                report: StepReport, method: Distiller = method, pool: TokenBags = pool, found: list = found
            ) -> None:
                if report.step in (100, 300, options.n_steps):
                    found.append((f"step {report.step}", knn_accuracy(method.teacher.backbone, pool)))

            start = time.process_time()
            stream = BagStream(pool, seed=seed, is_shared=name == "cmd")
            fit_distillation(method, stream, n_steps=options.n_steps, settings=_BAG_TRAINING, progress=look)
            seconds = time.process_time() - start
            words = ", ".join(f"{when} {accuracy:.1f}" for when, accuracy in found)
            print(f"{name}, seed {seed}: {words}; {seconds:.1f} CPU-s", flush=True)


# Real images


class Pool(NamedTuple):
    """Images (n, height, width) uint8 to train on, and those to score: a gallery and queries, with labels."""

    train: np.ndarray
    gallery: np.ndarray
    gallery_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray


def omniglot(data: Path | None) -> Pool:
    assert data is not None, "omniglot needs --data"
    archive = np.load(data / "omniglot_images.npz", allow_pickle=False)
    facts = np.load(data / "omniglot_conv4.npz", allow_pickle=False)
    images = archive[next(name for name in ("images", "features") if name in archive)].reshape(-1, 28, 28)
    labels, drawer = facts["labels"].astype(int), facts["drawer"].astype(int)
    is_evaluation = facts["class_is_evaluation"][labels].astype(bool)
    is_gallery = is_evaluation & (drawer < np.median(np.unique(drawer)))
    is_query = is_evaluation & ~is_gallery
    return Pool(images[~is_evaluation], images[is_gallery], labels[is_gallery], images[is_query], labels[is_query])


def fashion(data: Path | None) -> Pool:
    folder = data or FASHION
    read: Callable[[str, int], np.ndarray] = lambda name, skip: np.frombuffer(  # noqa: E731
        gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes()), np.uint8, offset=skip
    )
    train, test = read("train-images-idx3", 16).reshape(-1, 28, 28), read("t10k-images-idx3", 16).reshape(-1, 28, 28)
    train_labels, test_labels = read("train-labels-idx1", 8), read("t10k-labels-idx1", 8)
    return Pool(train, train[:10_000], train_labels[:10_000], test, test_labels)


def digits(data: Path | None) -> Pool:
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (found.images * 255 / 16).round().astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in small]
    )
    is_query = np.arange(len(images)) % 3 == 0
    return Pool(images, images[~is_query], found.target[~is_query], images[is_query], found.target[is_query])


SETS: dict[str, Callable[[Path | None], Pool]] = {"omniglot": omniglot, "fashion": fashion, "digits": digits}


def accuracy(gallery: Tensor, query: Tensor, pool: Pool) -> str:
    """Return the weighted k-NN accuracies in percent."""
    labels, truth = (torch.tensor(of.astype(np.int64)) for of in (pool.gallery_labels, pool.query_labels))
    ids = torch.unique(labels)
    scores = neighbour_scores(query, gallery, torch.searchsorted(ids, labels), [1, 20])
    return ", ".join(
        f"k = {k}: {100 * (ids[of_k.argmax(-1)] == truth).double().mean():.2f}"
        for k, of_k in zip((1, 20), scores, strict=True)
    )


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def images(options: argparse.Namespace) -> None:
    """Print accuracies before and after, and what the run looked like."""
    pool = SETS[options.set](options.data)
    side = options.size or pool.train.shape[1]
    flat = [torch.tensor(of).flatten(1).float() for of in (pool.gallery, pool.query)]
    mean = torch.cat(flat).mean(0)
    print("raw pixels, centered:", accuracy(*(unit(of - mean) for of in flat), pool), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, pixels in enumerate(pool.train):
            Image.fromarray(pixels).save(f"{folder}/{i:06d}.png")
        for name in options.methods:
            distil(options, name, pool, folder, side)


def split(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def distil(options: argparse.Namespace, name: str, pool: Pool, folder: str, side: int) -> None:
    """Train one method and print what came of it."""
    built = build_backbone(
        options.backbone,
        size=side,
        options={key: int(value) if value.isdecimal() else value for key, value in map(split, options.option)},
        drop_path=options.drop_path,
        image=options.image,
        seed=options.seed,
    )
    pixels = measure_pixels(folder)
    preprocess = replace(built.preprocess, crop_fraction=1.0, mean=pixels.mean, std=pixels.std)

    def features(backbone: torch.nn.Module) -> list[Tensor]:
        extract = image_extractor(backbone, preprocess, device=options.device)
        stack = [preprocess.apply_array(image) for of in (pool.gallery, pool.query) for image in of]
        rows = torch.cat([extract(torch.stack(stack[i : i + 256])).cpu() for i in range(0, len(stack), 256)])
        return list(unit(rows).split([len(pool.gallery), len(pool.query)]))

    print(f"{name}, random network:", accuracy(*features(built.backbone), pool), flush=True)
    capacity = suggested_capacity(len(pool.train))
    changes = {"size": side, "local_size": options.local_size, "n_local": options.n_local, "flip_probability": 0.0}
    views: ViewSettings = mugs_views(**changes) if name == "mugs" else cmd_views(**changes)
    views = replace(views, global_scale=tuple(options.global_scale), local_scale=tuple(options.local_scale))
    views = replace(views, mean=pixels.mean, std=pixels.std, colour=False)
    if name == "mugs":
        views = replace(views, weak_probability=options.weak_probability)
    method: Distiller
    sizes = {"n_prototypes": options.n_prototypes, "hidden": options.hidden}
    if name == "mugs":
        method = Mugs(built.backbone, MugsSettings(capacity=capacity, predictor_hidden=options.hidden, **sizes))
    else:
        method = CMD(built.backbone, CMDSettings(**sizes))
    stream = ImageStream(
        folder,
        views,
        batch_size=options.batch_size,
        seed=options.seed,
        n_workers=options.workers,
        device=options.device,
    )
    training = TrainingSettings(
        learning_rate=options.learning_rate,
        n_warmup_steps=options.n_steps // 10,
        n_frozen_steps=options.n_frozen,
        momentum=(options.momentum, 1.0),
        precision=options.precision,
        weight_decay=(0.04, options.weight_decay),
    )

    def look(report: StepReport) -> None:
        if report.step % options.look_every == 0 or report.step == 1:
            told = " ".join(f"{key} {value:.3f}" for key, value in report.losses.items())
            health = "" if report.health is None else " ".join(f"{x:.2f}" for x in report.health)
            print(f"  step {report.step}: {told}; {health}", flush=True)
            if options.is_watched:
                print("   ", accuracy(*features(method.teacher.backbone), pool), flush=True)

    method.to(options.device)
    trace = fit_distillation(
        method, stream, n_steps=options.n_steps, settings=training, seed=options.seed, progress=look
    )
    share = 100 * trace.seconds_waiting / trace.seconds
    speed = options.n_steps * options.batch_size / trace.seconds
    print(f"{name}, {options.n_steps} steps:", accuracy(*features(method.teacher.backbone), pool))
    print(f"  {speed:,.0f} images/s for {trace.seconds:,.0f} s, {share:.1f} % waiting for views; queues and memories")
    print(f"  {method.memory_bytes() / 2**20:.1f} MiB", flush=True)


def main() -> None:
    """Read the words and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bags", "images"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--n-seeds", type=int, default=3)
    parser.add_argument("--n-steps", type=int, default=600)
    parser.add_argument("--set", choices=SETS, default="omniglot")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--option", nargs="*", default=["patch_size=4", "embed_dim=64", "depth=3", "num_heads=4"])
    parser.add_argument("--image", default="token")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--local-size", type=int, default=16)
    parser.add_argument("--n-local", type=int, default=2)
    parser.add_argument("--global-scale", type=float, nargs=2, default=(0.4, 1.0))
    parser.add_argument("--local-scale", type=float, nargs=2, default=(0.15, 0.4))
    parser.add_argument("--weak-probability", type=float, default=1.0)
    parser.add_argument("--n-prototypes", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--momentum", type=float, default=0.99)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--n-frozen", type=int, default=0)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look-every", type=int, default=100)
    parser.add_argument("--is-watched", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"bags": bags, "images": images}[options.what](options)


if __name__ == "__main__":
    main()
