"""Signals that end a process are answered as Ctrl-C is: what was begun is cleaned up, one line, an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["answering_signals", "exit_code"]

# Of a batch queue or a service that is stopped, and of a terminal that is closed; Windows has no second one.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_received: list[int] = []


def exit_code() -> int:
    """Return the exit code of an interrupted command: 128 and the signal's number."""
    return 128 + (_received[0] if _received else signal.SIGINT)


@contextmanager
def answering_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` in this process at the first such signal; those that are ignored (nohup) stay so."""
    process = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a child that was forked: it ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not _received:  # later ones would stop the cleaning up
            _received.append(number)
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    taken = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
        _received.clear()
