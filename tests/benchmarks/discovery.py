"""Category discovery: CPU-seconds of an EM iteration beside scikit-learn's and of whole fits; memory of a large one."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from fewshot.discovery import CategoryDiscovery
from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.start import state_from_partition
from fewshot.discovery.mixture.state import MixtureState
from tests.benchmarks.row import Row
from tests.kits.mixtures import anisotropic

__all__ = ["rows"]

_TARGETS = {"spherical": 0.10, "diagonal": 0.10, "tied": 0.20, "full": None}
_LARGE = """
import time
import torch
from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.start import state_from_means
torch.set_num_threads(1)
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
def cpu(work):
    started = time.process_time()
    work()
    return time.process_time() - started
n, d, k = 1_000_000, 128, 1000
generator = torch.Generator().manual_seed(0)
means = torch.randn((k, d), generator=generator)
features = torch.empty((n, d))
for part in torch.split(features, 10_000):
    own = torch.randint(k, (len(part),), generator=generator)
    part.copy_(means[own] + torch.randn(part.shape, generator=generator))
labels = torch.full((n,), -1)
labels[:1000] = 0
start = state_from_means(features[:20_000], labels[:20_000], means)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
once, thrice = (
    cpu(lambda: fit_mixture(features, labels, start, form="tied", n_steps=n_steps, tolerance=0)) for n_steps in (1, 3)
)
peak = status("VmHWM") - before
def products():
    for part in torch.split(features, 2048):
        scores = part @ means.mT
        scores.mT @ part
print((thrice - once) / 2, cpu(products), peak)
"""


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    torch.set_num_threads(1)
    found: list[Row] = []
    for part in (_iterations, _whole_fit, _large_iteration):
        progress(part.__name__.strip("_"))
        found += part()
    return found


def _pool(n: int, n_features: int, n_components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return overlapping classes, a tenth of the rows labelled, and a partition that is right for half of them."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(n_components, (n,), generator=generator)
    means = 0.3 * torch.randn((n_components, n_features), generator=generator)
    features = means[truth] + torch.randn((n, n_features), generator=generator)
    labels = torch.where(torch.rand(n, generator=generator) < 0.1, truth, -1)
    guess = torch.randint(n_components, (n,), generator=generator)
    return features, labels, torch.where(torch.rand(n, generator=generator) < 0.5, truth, guess)


def _iterations() -> list[Row]:
    """Compare each form with scikit-learn's, from the same start, on one thread."""
    features, labels, partition = _pool(20_000, 256, 100)
    found = []
    for form, target in _TARGETS.items():
        start = state_from_partition(features, partition, 100, form=form, covariance_floor=1e-3)
        # Full covariances take seconds an iteration, as do the peer's tied ones.
        steps, tries = ((1, 2) if form == "full" else (1, 6)), (1 if form in ("tied", "full") else 2)
        ours = _per_step(lambda n, form=form, start=start: _ours(features, labels, start, form, n), *steps)
        theirs = _per_step(lambda n, form=form, start=start: _theirs(features.numpy(), start, form, n), 1, 2, tries)
        what = f"EM iteration, {form}, n = 20,000, d = 256, K = 100"
        is_fast = None if target is None else ours <= target
        found.append(Row(what, f"{ours:.3f} CPU-s", "" if target is None else f"≤ {target:.2f}", is_fast))
        asked, is_ahead = ("≥ 20×", theirs >= 20 * ours) if form == "tied" else ("", None)
        found.append(
            Row(f"the same, beside scikit-learn ({theirs:.2f} CPU-s)", f"{theirs / ours:.1f}×", asked, is_ahead)
        )
    return found


def _per_step(fit: Callable[[int], None], few: int, many: int, tries: int = 2) -> float:
    """Return the CPU seconds of one step: what ``many`` steps take beyond a ``few``; the least of some tries each."""
    return (min(_cpu(fit, many) for _ in range(tries)) - min(_cpu(fit, few) for _ in range(tries))) / (many - few)


def _cpu(fit: Callable[[int], None], n_steps: int) -> float:
    started = time.process_time()
    fit(n_steps)
    return time.process_time() - started


def _ours(features: torch.Tensor, labels: torch.Tensor, start: MixtureState, form: str, n_steps: int) -> None:
    fit_mixture(features, labels, start, form=form, covariance_floor=1e-3, n_steps=n_steps, tolerance=0)


def _theirs(features: np.ndarray, start: MixtureState, form: str, n_steps: int) -> None:
    covariances = start.covariances.numpy()
    model = GaussianMixture(
        len(start.means),
        covariance_type={"diagonal": "diag"}.get(form, form),
        tol=0,
        max_iter=n_steps,
        reg_covar=1e-3,
        weights_init=start.log_weights.exp().numpy(),
        means_init=start.means.numpy(),
        precisions_init=np.linalg.inv(covariances) if form in ("tied", "full") else 1 / covariances,
        init_params="random",
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features)


def _whole_fit() -> list[Row]:
    """Fit with the number of classes unknown, on easy classes and on ones that overlap."""
    found = []
    for noise, words in ((0.7, "apart"), (1.2, "overlapping")):
        features, _, labels = anisotropic(0, n_classes=100, n_rows=20_000, n_features=256, n_known=50, noise=noise)
        started = time.process_time()
        model = CategoryDiscovery().fit(features, labels)
        seconds = time.process_time() - started
        what = f"discovery, n = 20,000, d = 256, K = 100 unknown, classes {words}: {model.n_classes_} found"
        found.append(Row(what, f"{seconds:.1f} CPU-s", "≤ 30", seconds <= 30))
    return found


def _large_iteration() -> list[Row]:
    """Measure a tied mixture of a million rows in a process of its own."""
    words = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True).stdout
    seconds, products, peak = map(float, words.split())
    what = "EM iteration, tied, n = 1,000,000, d = 128, K = 1,000"
    return [
        Row(what, f"{seconds:.1f} CPU-s", "", None),
        Row("its two matrix products alone", f"{products / seconds:.0%} of that", "", None),
        Row("its peak memory beyond the features", f"{peak:,.0f} MiB", "≤ 1 GiB", peak <= 1024),
    ]


if __name__ == "__main__":
    for row in rows(lambda name: print(f"measuring {name} …", file=sys.stderr)):
        print(*row, sep=" | ")
