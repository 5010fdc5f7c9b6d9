"""Safe replacements for the globals in pickled arrays and tensors; every argument is checked."""

from __future__ import annotations

import io
import math
import re
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.features.imports.opcodes import RefusedError

__all__ = ["Budget", "Built", "PickledArray", "PickledDtype", "from_buffer", "scalar", "storage", "tensor"]

# Numbers, booleans and text; no objects, structures, dates or void.
_DTYPE = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248]|[US]\d{1,6})")
_BYTE_ORDERS = ("<", ">", "=", "|")


class Budget:
    """A limit on the bytes that may be built, so that a small file cannot build a large object many times over."""

    def __init__(self, size: int) -> None:
        self._left = 4 * size + (1 << 20)

    def charge(self, n: int) -> None:
        """Take away ``n`` bytes."""
        self._left -= n
        if self._left < 0:
            raise RefusedError("refused to build more than four times what the file holds: it is damaged")


class Built:
    """A box around an object that a pickle has built; it takes no state but the one that its class declares."""

    __slots__ = ("value",)
    value: object

    def __init__(self, value: object) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        raise RefusedError(f"refused to change a {type(self.value).__name__} that a pickle has built")


class PickledDtype(Built):
    """A NumPy dtype of numbers or text."""

    value: np.dtype[np.generic]
    __slots__ = ()

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise RefusedError(
                f"refused arrays of dtype {name!r}: only numbers and text are read; objects can be anything"
            )
        super().__init__(np.dtype(name))

    def __setstate__(self, state: object) -> None:
        """Take the byte order; structures are refused."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in _BYTE_ORDERS or any(state[2:5]):
            raise RefusedError("refused a structured dtype: only arrays of numbers and text are read")
        self.value = self.value.newbyteorder(state[1])


class PickledArray(Built):
    """A NumPy array that is empty until it has taken its state."""

    __slots__ = ("_budget",)

    def __init__(self, budget: Budget, *_: object) -> None:
        super().__init__(np.empty(0))
        self._budget = budget

    def __setstate__(self, state: object) -> None:
        """Take shape, dtype, order and bytes."""
        match state:
            case (int(), tuple() as shape, PickledDtype() as dtype, bool() | int() as is_fortran, raw):
                self.value = _array(self._budget, raw, dtype, shape, "F" if is_fortran else "C")
            case _:
                _refuse_array(state)


def from_buffer(budget: Budget, raw: object, dtype: object, shape: object, order: object) -> Built:
    """Build an array as pickles of protocol 5 do."""
    if not isinstance(dtype, PickledDtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
        _refuse_array((raw, dtype, shape, order))
    return Built(_array(budget, raw, dtype, shape, str(order)))


def scalar(budget: Budget, dtype: object, raw: object) -> object:
    """Return a NumPy scalar as a plain number or text."""
    if not isinstance(dtype, PickledDtype):
        _refuse_array((dtype, raw))
    return _array(budget, raw, dtype, (), "C").item()


def storage(budget: Budget, raw: object) -> Built:
    """Return the storage of a tensor from the stream of ``torch.save`` that ``pickle.dump`` keeps it in."""
    if not isinstance(raw, (bytes, bytearray)):
        raise RefusedError(f"expected the bytes of a tensor, got {type(raw).__name__}")
    budget.charge(len(raw))
    try:
        loaded = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a damaged stream makes torch say
        raise RefusedError("expected the numbers of a tensor, got pickled objects or a damaged file") from error
    if not isinstance(loaded, torch.storage.TypedStorage):
        raise RefusedError(f"expected the numbers of a tensor, got {type(loaded).__name__}")
    return Built(loaded)


def tensor(budget: Budget, storage: object, offset: object, size: object, stride: object, *_: object) -> Built:
    """Return a copy of a tensor's numbers, in order."""
    numbers = storage.value if isinstance(storage, Built) else None
    sizes, strides, start = _whole(size), _whole(stride), _whole((offset,))
    if not isinstance(numbers, torch.storage.TypedStorage) or sizes is None or strides is None or start is None:
        raise RefusedError("expected a tensor's storage, offset, size and stride, got something else")
    _check_extent(sizes, strides, start[0], numbers._untyped_storage.nbytes() // numbers.dtype.itemsize)
    budget.charge(math.prod(sizes) * numbers.dtype.itemsize)
    whole: Tensor = torch.empty(0, dtype=numbers.dtype).set_(numbers._untyped_storage)
    return Built(whole.as_strided(sizes, strides, start[0]).clone(memory_format=torch.contiguous_format))


def _check_extent(sizes: tuple[int, ...], strides: tuple[int, ...], start: int, n: int) -> None:
    """Refuse a view that reaches past the ``n`` numbers of its storage."""
    n_claimed = math.prod(sizes)
    last = start + sum((length - 1) * step for length, step in zip(sizes, strides, strict=False))
    if len(sizes) != len(strides) or n_claimed > n or (n_claimed and last >= n):
        raise RefusedError(
            f"a tensor of shape {sizes} claims more numbers than the {n:,} it holds: the file is damaged"
        )


def _array(
    budget: Budget, raw: object, dtype: PickledDtype, shape: tuple[object, ...], order: str
) -> npt.NDArray[np.generic]:
    sizes = _whole(shape)
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if sizes is None or not isinstance(data, (bytes, bytearray)):
        _refuse_array((shape, raw))
    needed = math.prod(sizes) * dtype.value.itemsize
    if needed != len(data):
        raise RefusedError(
            f"an array of shape {sizes} and dtype {dtype.value} needs {needed:,} bytes, got {len(data):,}: the file is "
            "damaged"
        )
    budget.charge(needed)
    flat = np.frombuffer(data, dtype.value) if needed else np.empty(0, dtype.value)
    return flat.reshape(sizes, order="F" if order == "F" else "C").astype(dtype.value.newbyteorder("="))


def _whole(values: object) -> tuple[int, ...] | None:
    """Return a tuple of whole numbers from 0; None for anything else."""
    if not isinstance(values, tuple) or len(values) > 32:
        return None
    if any(type(value) is not int or not 0 <= value < 1 << 48 for value in values):
        return None
    return values


def _refuse_array(state: object) -> NoReturn:
    kinds = [type(part).__name__ for part in state] if isinstance(state, tuple) else [type(state).__name__]
    raise RefusedError(f"expected an array's shape, dtype and bytes, got {', '.join(kinds)}: objects are not read")
