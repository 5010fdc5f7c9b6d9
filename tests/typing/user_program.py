"""A user's program over the doors of the library: `mypy --strict` reads it against the installed package."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, assert_type

import numpy as np
import torch

import fewshot
from fewshot import (
    TEEN,
    UNEM,
    CategoryDiscovery,
    Episode,
    EpisodeSampler,
    FeatureSet,
    FewShotClassifier,
    NearestClassMean,
    SimpleShot,
    adaptive_unem,
    build_method,
    evaluate_episodes,
    load_classifier,
    load_features,
    load_unem,
    save_classifier,
    save_unem,
)
from fewshot.episodic.method import Method


def episodes(pool: FeatureSet) -> float:
    """Compare two methods, and one of one's own, on the same episodes."""
    sampler = EpisodeSampler(pool.labels, n_way=5, n_shot=1, n_query=15)
    generator = torch.Generator().manual_seed(0)
    methods: dict[str, Method] = {"unem": UNEM.from_preset(), "shipped": adaptive_unem(), "own": Uniform()}
    found = evaluate_episodes(methods, pool.features, sampler, n_episodes=100, generator=generator)
    assert_type(found.scores["unem"].accuracy, torch.Tensor)
    return found.scores["own"].interval.mean


@dataclass(frozen=True)
class Uniform:
    """A method of one's own: all classes are equally likely."""

    is_transductive: ClassVar[bool] = False

    def __call__(self, episode: Episode) -> torch.Tensor:
        """Return log-probabilities."""
        shape = (*episode.batch_shape, episode.n_queries, episode.n_way)
        return episode.query.new_zeros(shape).log_softmax(-1)

    def describe(self) -> str:
        """Describe the settings."""
        return "uniform"


def one_episode(support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor) -> list[int]:
    """Answer the queries of an episode."""
    episode = Episode(support=support, support_labels=labels, query=query, class_ids=torch.arange(5))
    log_probs = build_method("unem")(episode)
    assert_type(log_probs, torch.Tensor)
    assert_type(SimpleShot()(episode), torch.Tensor)
    return [int(way) for way in log_probs.argmax(-1)]


def estimators(folder: Path) -> None:
    """Fit, add a class, discover classes, keep and restore."""
    rows = np.random.default_rng(0).normal(size=(40, 8))
    names = ["ant", "bee", "wasp", "fly"] * 10
    answers = FewShotClassifier(reject=0.1, unknown="none of these").fit(rows, names).predict(rows)
    print(answers.tolist())
    model = NearestClassMean().fit(rows, names)
    model.partial_fit(rows[:3], ["moth"] * 3)
    assert_type(model, NearestClassMean)
    save_classifier(model, folder / "model.safetensors")
    restored, source = load_classifier(folder / "model.safetensors")
    print(restored.classes_.tolist(), source, TEEN().fit(torch.eye(4), [0, 0, 1, 1]))
    found = CategoryDiscovery(random_state=0).fit(rows, [*names[:20], *[-1] * 20])
    assert_type(found, CategoryDiscovery)
    print(found.classes_.tolist(), fewshot.__version__)


def unem(path: Path) -> UNEM:
    """Save a method and read it back."""
    save_unem(UNEM.from_preset(), path)
    restored, _ = load_unem(path)
    return restored


def misspelt() -> None:
    """Name what is not there: an error that mypy sees, or it would call the comment unused."""
    print(fewshot.load_features_of)  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(episodes(load_features("digits")))
