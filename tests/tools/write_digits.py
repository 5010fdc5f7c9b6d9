"""The digits of scikit-learn as PNG files, a folder a class: ``python -m tests.tools.write_digits DIR [N [START]]``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

__all__ = ["write_digits"]


def write_digits(folder: Path, n_per_class: int, start: int = 0) -> None:
    """Write 32 x 32 images, the digit in the middle: networks look at the center of an image.

    Each class gives ``n_per_class`` images from its ``start``-th on.
    """
    digits = load_digits()
    for digit in range(10):
        (folder / f"{digit}").mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(digits.images[digits.target == digit][start : start + n_per_class], start):
            image = Image.fromarray(np.pad(pixels * 255 / 16, 4).round().astype(np.uint8))
            image.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{digit}" / f"{number:03d}.png")


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]), *(int(word) for word in (sys.argv[2:] or ["40"])))
