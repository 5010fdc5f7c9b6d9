"""Every test starts alike and leaves the process as it found it, so that no test changes the answer of another."""

from __future__ import annotations

import gc
import locale
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch

_SUBNORMAL = torch.tensor([1e-40])
# Set for good when a library is first imported, or by pytest for each test; no answer depends on them.
_NOT_OURS = {
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTEST_CURRENT_TEST",
    "RAY_CLIENT_MODE",
    "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR",
}


def process_state() -> dict[str, object]:
    """Return what a test could leave behind for the next one.

    Cheap enough (some 0.1 ms) to be asked after every test. Not in it: the states of the global generators, which
    `Hygiene` sets before every test, the filters of warnings, which pytest restores, and the modules that are loaded.
    """
    return {
        "number of threads of torch": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients, inference mode, anomaly detection": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_anomaly_enabled(),
        ),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "subnormal numbers are kept": (_SUBNORMAL * 1).item() > 0,
        "deterministic algorithms": torch.get_deterministic_debug_mode(),
        "precision of float32 products": torch.get_float32_matmul_precision(),
        "flags of mkldnn": torch.backends.mkldnn.enabled,
        "flags of cuDNN": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
        ),
        "process group": torch.distributed.is_available() and torch.distributed.is_initialized(),
        "errors of NumPy": np.geterr(),
        "environment": {name: value for name, value in os.environ.items() if name not in _NOT_OURS},
        "working folder": os.getcwd(),
        "import path": {path for path in sys.path if "site-packages" not in path},  # pytest changes their order
        "temporary folder": tempfile.tempdir,
        "locale": locale.setlocale(locale.LC_NUMERIC),
        "handler of interrupts": signal.getsignal(signal.SIGINT),
        "garbage collection": gc.isenabled(),
    }


def left_behind(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return what differs between two states, a line each; of what is a dict itself, only the entries that differ.

    Examples
    --------
    >>> left_behind({"dtype": "float32", "environment": {}}, {"dtype": "float64", "environment": {"RANK": "0"}})
    ["dtype: 'float32' before, 'float64' after", "environment, RANK: None before, '0' after"]
    """
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}, {line}" for line in left_behind(old, new)]
        elif old != new:
            found.append(f"{name}: {old!r} before, {new!r} after")
    return found


class Hygiene:
    """The plugin: seeds the global generators before each test, and fails a test that leaves something behind."""

    def __init__(self) -> None:
        self._state: dict[str, object] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Seed what a test may draw from without saying so."""
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        if self._state is None:
            self._state = process_state()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        """Compare, once all fixtures are undone."""
        yield
        before, self._state = self._state, process_state()
        if before is not None and (found := left_behind(before, self._state)):
            pytest.fail("the test leaves behind:\n" + "\n".join(found), pytrace=False)
