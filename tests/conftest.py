"""Every run draws the same examples and gives the same answers, whatever the machine and whatever ran before."""

from __future__ import annotations

import os
import random
import tempfile
from itertools import groupby

import pytest
import torch
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from tests.kits.hygiene import Hygiene

torch.set_num_threads(1)
settings.register_profile("fewshot", derandomize=True, deadline=None, max_examples=20)
settings.register_profile("explore", derandomize=False, database=None, deadline=None, max_examples=20, print_blob=True)
settings.load_profile("fewshot")

# Hypothesis also draws numbers that stand in the project's files, as many of them as are imported by then: the examples
# of a test would depend on which others are collected. It has no setting for this; `test_examples.py` sees it at work.
providers._get_local_constants = lambda: providers._local_constants


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the shuffled order."""
    parser.addoption(
        "--shuffle-seed", type=int, help="run files, and the tests of a file, in an order drawn with this seed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch all tests, the doctests of the product among them, and keep them from the user's cache."""
    config.pluginmanager.register(Hygiene(), "hygiene")
    own = tempfile.TemporaryDirectory(prefix="fewshot-tests-")
    os.environ["FEWSHOT_CACHE"] = own.name
    config.add_cleanup(own.cleanup)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle; the tests of a file stay together, for they share what is made once for the file."""
    seed = config.getoption("--shuffle-seed")
    if seed is None:
        return
    drawn = random.Random(seed)
    files = [list(group) for _, group in groupby(items, key=lambda item: item.path)]
    drawn.shuffle(files)
    for tests in files:
        drawn.shuffle(tests)
    items[:] = [item for tests in files for item in tests]
