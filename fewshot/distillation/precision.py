"""Float32 at least, whatever the networks run in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import reduce, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["in_full_precision", "wide", "without_autocast"]

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def wide(values: Tensor) -> Tensor:
    """Return a floating-point tensor in float32 at least.

    Examples
    --------
    >>> wide(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def without_autocast(values: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off on the device of a tensor."""
    device = values.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def in_full_precision(function: _Function) -> _Function:
    """Run a function of tensors with autocast off and all of them in the widest dtype among them, float32 at least."""

    @wraps(function)
    def widened(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if _is_real(value)]
        dtype = reduce(torch.promote_types, (value.dtype for value in tensors), torch.float32)
        values = [value.to(dtype) if _is_real(value) else value for value in args]
        named = {name: value.to(dtype) if _is_real(value) else value for name, value in kwargs.items()}
        with without_autocast(tensors[0]):
            return function(*values, **named)

    return widened  # type: ignore[return-value]


def _is_real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
