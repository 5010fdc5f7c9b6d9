"""Peak memory and import time, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.benchmarks.row import Row

__all__ = ["rows"]

# The high-water mark of this process alone: a child's ru_maxrss starts from that of its parent.
_PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1])
"""
_RUN = """
import torch
torch.set_num_threads(1)
from fewshot import EpisodeSampler, build_method, evaluate_episodes
labels = torch.arange(20).repeat_interleave(100)
features = torch.randn(2000, 640)
before = peak()
evaluate_episodes({{"unem": build_method("unem")}}, features, EpisodeSampler(labels, 5, 5, 15),
                  n_episodes={n_episodes}, batch_size={batch_size}, generator=torch.Generator().manual_seed(0))
print((peak() - before) / 1024)
"""
_DIRICHLET = """
import torch
torch.set_num_threads(1)
from fewshot.likelihoods.dirichlet import dirichlet_likelihood, simplex_log_features
from fewshot.em import run_em
labels, cosines = torch.arange(1000).repeat_interleave(4), torch.randn(4000, 1000) * 0.03
before = peak()
with torch.inference_mode():
    likelihood = dirichlet_likelihood(
        simplex_log_features(cosines, 30.0), labels, simplex_log_features(torch.randn(75, 1000) * 0.03, 30.0))
    run_em(likelihood, torch.full((10,), 200.0), torch.ones(10), proportion_floor=1e-15)
print((peak() - before) / 1024)
"""
_IMPORT = """
import time
import torch
started = time.perf_counter()
import fewshot
print(time.perf_counter() - started)
"""


def _printed(code: str) -> float:
    return float(
        subprocess.run([sys.executable, "-c", _PEAK + code], capture_output=True, text=True, check=True).stdout
    )


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    progress("memory")
    small, many, large = (
        _printed(_RUN.format(n_episodes=n_episodes, batch_size=batch_size))
        for n_episodes, batch_size in ((2_000, 64), (20_000, 64), (20_000, 1024))
    )
    dirichlet = _printed(_DIRICHLET)
    seconds = min(_printed(_IMPORT) for _ in range(3))
    return [
        Row("unem, peak beyond the features, 2,000 episodes, batch 64", f"{small:,.0f} MiB", "", None),
        Row("the same, 20,000 episodes", f"{many:,.0f} MiB", "does not grow", many < 1.1 * small + 8),
        Row("the same, batch 1024", f"{large:,.0f} MiB", "set by the batch", large > 2 * many),
        Row("EM-Dirichlet, 1000-way 4-shot, 10 layers, peak", f"{dirichlet:,.0f} MiB", "≤ 1 GiB", dirichlet <= 1024),
        Row("import fewshot beyond import torch", f"{seconds:.3f} s", "≤ 0.3", seconds <= 0.3),
    ]
