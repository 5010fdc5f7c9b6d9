"""`StateFile`: the state of a run beside its result, from which the same call resumes a run that was stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from fewshot.checks import SettingError
from fewshot.distillation.training.state import TrainingState
from fewshot.image_distillation.backbones import load_training, save_training

__all__ = ["StateFile", "state_path"]

# Saving takes at most one part in this of a run's time.
_SAVING_PART = 20


def state_path(out: str | os.PathLike[str]) -> Path:
    """Return the file of a run's state, which is kept until its result is written.

    Examples
    --------
    >>> state_path("own.safetensors").name
    'own.state.safetensors'
    """
    return Path(out).with_suffix(".state.safetensors")


class StateFile:
    """The state of a run on disk.

    Parameters
    ----------
    path : path
    identity : mapping
        What two runs must share for one to resume the other.

    Attributes
    ----------
    state : TrainingState or None
        To resume from, as `read` found it.
    n_steps : int
        Steps that the file on disk holds; 0 without one.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path, self.identity = path, identity
        self.state: TrainingState | None = None
        self.n_steps = 0
        self._due = 0.0

    def read(self) -> None:
        """Read the state of a run that was stopped, if there is one.

        Raises
        ------
        ValueError
            If it is of a run with other settings, or the file is damaged or another one.
        """
        if not self.path.exists():
            return
        self.state = load_training(self.path)
        begun, wanted = _flat(self.state.metadata.get("run", {})), _flat(self.identity)
        for key in {**wanted, **begun}:
            if begun.get(key) != wanted.get(key):
                raise SettingError(
                    "{0} is of a run with {1} {2}, got {3}: give what it was begun with, or {is_resumed=False} to "
                    "begin anew",
                    self.path,
                    key,
                    begun.get(key),
                    wanted.get(key),
                )
        self.n_steps = self.state.step

    def save(self, state: TrainingState, *, is_last: bool) -> None:
        """Write a state, unless one was written so recently that saving would take much of the time."""
        start = time.perf_counter()
        if start < self._due and not is_last:
            return
        save_training(self.path, state._replace(metadata={**state.metadata, "run": dict(self.identity)}))
        self.n_steps = state.step
        end = time.perf_counter()
        self._due = end + (_SAVING_PART - 1) * (end - start)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
        self.state, self.n_steps = None, 0


def _flat(nested: Mapping[str, object]) -> dict[str, object]:
    """Return a nested mapping with names such as settings.views.size, sequences as lists."""
    flat: dict[str, object] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
