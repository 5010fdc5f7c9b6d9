"""Episodes per CPU-second of every method, end to end, beside easyfsl's where that imports.

easyfsl is no dependency: ``pip install --no-deps easyfsl`` beside pandas, tqdm and torchvision is enough for it. It is
shown at its best: its episodes lie in memory, one by one as its methods take them, and neither their draw nor their
score counts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import ModuleType
from typing import NamedTuple

import torch
from fewshot_episodes import EpisodeSampler
from torch import Tensor

from fewshot.features.backbones.torchvision_gate import require_torchvision
from tests.benchmarks.row import Row
from tests.benchmarks.speed import cpu_seconds, episode_rate, synthetic_pool

__all__ = ["PEERS", "Peer", "easyfsl_methods", "rows"]


class Peer(NamedTuple):
    """A method to measure.

    Attributes
    ----------
    name : str
        As `fewshot.build_method` takes it.
    n_episodes : int
        To measure it on; theirs on an 80th of them.
    target : int or None
        Episodes per CPU-second.
    theirs : str or None
        easyfsl's class, if it has the method.
    settings : mapping
        For that class; what is not named is as easyfsl has it.
    """

    name: str
    n_episodes: int
    target: int | None = None
    theirs: str | None = None
    settings: Mapping[str, float] = {}


# The settings of easyfsl's own benchmark: with the defaults of the class it answers NaN.
_PTMAP = {"fine_tuning_steps": 30, "fine_tuning_lr": 0.3, "feature_normalization": 2.0}
PEERS = (
    Peer("nearest-prototype", 10_000, None, "PrototypicalNetworks"),
    Peer("simpleshot", 10_000, 15_000, "SimpleShot"),
    Peer("bd-cspn", 5_000, 5_000, "BDCSPN"),
    Peer("laplacian-shot", 3_000, 2_000, "LaplacianShot"),
    Peer("pt-map", 800, 800),
    Peer("pt-map-balanced", 800, 800, "PTMAP", _PTMAP),
    Peer("pt-map-balanced:power=1", 800, None, "PTMAP", {**_PTMAP, "power_factor": 1.0}),
    Peer("tim:n_steps=50", 600, 200, "TIM"),
    Peer("unem-adaptive", 600),
    Peer("tip-adapter", 3_000),
    Peer("transclip", 1_000),
    Peer("logistic-regression", 400),
    Peer("baseline++", 200),
)


def rows(progress: Callable[[str], None]) -> list[Row]:
    """Measure everything."""
    torch.set_num_threads(1)
    features, labels = synthetic_pool(20, 600, 640)
    sampler = EpisodeSampler(labels, n_way=5, n_shot=5, n_query=15)
    easyfsl = easyfsl_methods()
    found = []
    for peer in PEERS:
        progress(peer.name)
        rate = episode_rate(peer.name, sampler, features, peer.n_episodes)
        found.append(_row(peer, rate, _their_rate(peer, easyfsl, sampler, features)))
    return [*found, _note(easyfsl)]


def easyfsl_methods() -> ModuleType | None:
    """Import easyfsl's methods; None where it is not installed, or does not import."""
    try:
        require_torchvision("easyfsl")
        return importlib.import_module("easyfsl.methods")
    except ImportError:
        return None


def _row(peer: Peer, rate: float, theirs: float | None) -> Row:
    measured = f"{rate:,.0f} ep/CPU-s"
    if theirs is not None:
        measured += f", {_rounded(rate / theirs)}× easyfsl's {_rounded(theirs)}"
    target = "" if peer.target is None else f"≥ {peer.target:,}"
    is_reached = None if peer.target is None else rate >= peer.target
    return Row(f"{peer.name}, 5-way 5-shot, 75 queries, d = 640", measured, target, is_reached)


def _rounded(number: float) -> str:
    return f"{number:,.{0 if number >= 10 else 1}f}"


def _note(easyfsl: ModuleType | None) -> Row:
    """Say what the ratios are to, or why there are none."""
    if easyfsl is None:
        return Row("easyfsl", "does not import here: no ratios (pip install --no-deps easyfsl)", "", None)
    settings = "episodes in memory, no draw, no score; at power 0.5 a step of its PT-MAP takes hundreds of rounds"
    return Row(f"easyfsl {version('easyfsl')}", settings, "", None)


def _their_rate(peer: Peer, easyfsl: ModuleType | None, sampler: EpisodeSampler, features: Tensor) -> float | None:
    if easyfsl is None or peer.theirs is None:
        return None
    method = getattr(easyfsl, peer.theirs)(torch.nn.Identity(), **peer.settings)
    episodes = _in_memory(sampler, features, max(8, peer.n_episodes // 80))

    @torch.no_grad()
    def work() -> None:
        for support, support_labels, query in episodes:
            method.process_support_set(support, support_labels)
            method(query)

    return len(episodes) / cpu_seconds(work)


def _in_memory(sampler: EpisodeSampler, features: Tensor, n_episodes: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return support, support labels and query of each episode, each a tensor of its own."""
    drawn = sampler.sample(n_episodes, generator=torch.Generator().manual_seed(0)).gather(features)
    fields = zip(drawn.support, drawn.support_labels, drawn.query, strict=True)
    return [(support.clone(), labels.clone(), query.clone()) for support, labels, query in fields]
