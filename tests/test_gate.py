"""What makes the gate the same for everyone: equal examples, and tests that leave nothing behind."""

import gc
import os
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kits.hygiene import Hygiene, left_behind, process_state


def drawn_examples():
    found = []

    @settings(derandomize=True, database=None, max_examples=300)
    @given(st.integers(0, 2**40), st.floats(0, 1))
    def draw(number, share):
        found.append((number, share))

    draw()
    return found


def test_examples_do_not_depend_on_what_is_imported(tmp_path, monkeypatch):
    before = drawn_examples()
    (tmp_path / "many_numbers.py").write_text(f"NUMBERS = {[3**k for k in range(20)]}, {[0.1**k for k in range(9)]}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "many_numbers", raising=False)
    import many_numbers  # type: ignore[import-not-found]  # noqa: F401

    assert drawn_examples() == before
    monkeypatch.delitem(sys.modules, "many_numbers")


# A change that a test could leave behind, and the way back, by what the report of it says.
CHANGES = {
    "number of threads of torch: 1 before, 2 after": (
        lambda: torch.set_num_threads(2),
        lambda: torch.set_num_threads(1),
    ),
    "default dtype: torch.float32 before, torch.float64 after": (
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_dtype(torch.float32),
    ),
    "default device: device(type='cpu') before, device(type='meta') after": (
        lambda: torch.set_default_device("meta"),
        lambda: torch.set_default_device(None),
    ),
    "gradients, inference mode, anomaly detection: (True, False, False) before, (False, False, False) after": (
        lambda: torch.set_grad_enabled(False),
        lambda: torch.set_grad_enabled(True),
    ),
    "deterministic algorithms: 0 before, 2 after": (
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.use_deterministic_algorithms(False),
    ),
    "precision of float32 products: 'highest' before, 'high' after": (
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "environment, FEWSHOT_LEFT: None before, '1' after": (
        lambda: os.environ.update(FEWSHOT_LEFT="1"),
        lambda: os.environ.pop("FEWSHOT_LEFT"),
    ),
    "errors of NumPy, over: 'warn' before, 'raise' after": (
        lambda: np.seterr(over="raise"),
        lambda: np.seterr(over="warn"),
    ),
    "garbage collection: True before, False after": (gc.disable, gc.enable),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_a_test_leaves_behind_fails_it(said):
    change, undo = CHANGES[said]
    plugin = Hygiene()
    plugin.pytest_runtest_setup()
    teardown = plugin.pytest_runtest_teardown()
    next(teardown)
    change()
    try:
        with pytest.raises(pytest.fail.Exception) as failure:
            next(teardown)
    finally:
        undo()
    assert str(failure.value).splitlines()[1:] == [said]


def test_subnormal_numbers_that_are_flushed_are_seen():
    before = process_state()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        found = left_behind(before, process_state())
    finally:
        torch.set_flush_denormal(False)
    assert found == ["subnormal numbers are kept: True before, False after"]


def test_global_generators_start_alike_in_every_test():
    plugin = Hygiene()
    draws = []
    for _ in range(2):
        plugin.pytest_runtest_setup()
        draws.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
