"""Calibrating, adding and answering: seconds, ratios to loops, and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from fewshot.incremental import TEEN
from fewshot.incremental.calibration import calibrate_prototypes
from tests.benchmarks.row import Row

__all__ = ["rows"]

_PEAK = """
import torch
from fewshot.incremental.calibration import calibrate_prototypes
torch.set_num_threads(2)
base, new = torch.rand(10_000, 2048), torch.rand(100, 2048)
calibrate_prototypes(base[:10], new[:10])
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
calibrate_prototypes(base, new)
print(status("VmHWM") - before, (base.nbytes + new.nbytes) / 2**20)
"""


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    torch.set_num_threads(2)
    found: list[Row] = []
    for part in (_calibration, _memory, _adding, _answering):
        progress(part.__name__.strip("_"))
        found += part()
    return found


def _seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the median wall-clock time of a few runs, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def _calibration() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    base, new = (torch.rand((n, 2048), generator=generator) for n in (10_000, 100))
    fast = _seconds(lambda: calibrate_prototypes(base, new))
    loop = _seconds(lambda: _loop(base.numpy(), new.numpy()), repeats=1)
    return [
        Row("calibrate 100 classes against 10,000, d = 2048", f"{fast:.3f} s", "≤ 0.3 s", fast <= 0.3),
        Row("the same against a loop over the new classes (NumPy)", f"{loop / fast:.1f} times as fast", "", None),
    ]


def _loop(base: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Calibrate class by class, as one would write it down; each row of the base is normalised once."""
    anchors = base / np.linalg.norm(base, axis=1, keepdims=True)
    found = []
    for prototype in new:
        unit = prototype / np.linalg.norm(prototype)
        logits = 16 * anchors @ unit
        weights = np.exp(logits - logits.max())
        delta = (weights / weights.sum()) @ anchors
        found.append(0.5 * unit + 0.5 * delta / np.linalg.norm(delta))
    return np.array(found)


def _memory() -> list[Row]:
    words = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True).stdout
    more, inputs = map(float, words.split())
    ratio = (inputs + more) / inputs
    return [Row("its peak memory, the inputs included", f"{ratio:.1f} × the inputs", "≤ 3", ratio <= 3)]


def _adding() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10_000).repeat_interleave(2)
    found = []
    for n_features in (512, 2048):
        shots = torch.rand((5, n_features), generator=generator)
        for rule in (0.5, "auto"):
            model = TEEN(rule).fit(torch.rand((len(labels), n_features), generator=generator), labels)
            query, label = shots[:1], 10_000
            model.predict(query)
            times = []
            for _ in range(15):
                label += 1
                started = time.perf_counter()
                model.partial_fit(shots, [label] * 5)
                model._weights()
                times.append(1e3 * (time.perf_counter() - started))
            what = f"one class more in a TEEN({rule!r}) of 10,000, d = {n_features}, its prototype worked out"
            found.append(Row(what, f"{median(times):.1f} ms", "≤ 20 ms", median(times) <= 20))
    return found


def _answering() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1_000).repeat_interleave(2)
    model = TEEN().fit(torch.rand((len(labels), 512), generator=generator), labels)
    query = torch.rand((10_000, 512), generator=generator)
    weights = model._weights()
    asked, product = _seconds(lambda: model.class_scores(query)), _seconds(lambda: query @ weights.mT)
    return [
        Row(
            "scores of 10,000 rows, 1,000 classes",
            f"{asked / product:.2f} × one matmul",
            "about 1",
            asked < 1.5 * product,
        )
    ]


if __name__ == "__main__":
    for row in rows(lambda name: print(f"measuring {name} …", file=sys.stderr)):
        print(*row, sep=" | ")
