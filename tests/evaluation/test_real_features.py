"""Known numbers on real features: the MoCo protocol of `tests.benchmarks.accuracy`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fewshot import NearestPrototype
from tests.benchmarks.accuracy import Pool, trained

FOLDER = Path(os.environ.get("FEWSHOT_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (FOLDER / "imagenet50_moco.npz").exists(),
    reason="needs imagenet50_moco.npz in the folder named by FEWSHOT_DATA",
)
# Measured on the same file by an independent implementation, 1000 tasks, disjoint: 83.76 ± 0.44, and UNEM 89.81 ± 0.49.
PROTOTYPES, UNEM = 83.76, 89.81


def test_the_moco_protocol_gives_the_known_accuracies():
    train, test = Pool(FOLDER, is_training=True), Pool(FOLDER, is_training=False)
    methods = {"prototypes": NearestPrototype(), "unem": trained(train, 5, (5,), "nll", is_relative=False)}
    scores = test.scores(methods, n_shot=5, n_effective_way=5, n_episodes=400)
    for name, known, its_half_width in (("prototypes", PROTOTYPES, 0.44), ("unem", UNEM, 0.49)):
        mean, half_width = scores[name].interval
        # Two independent means differ by less than the root of the sum of squares in 95 % of cases; twice that is safe.
        assert abs(100 * mean - known) < 2 * (its_half_width**2 + (100 * half_width) ** 2) ** 0.5
